"""Running text, draws, batches and the shipped configurations; no network."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pico_data import WORDS, sentences, word_tokenizer
from tokenizers import processors
from transformers import CanineTokenizer

from stat_repro.assets import packages as assets
from stat_repro.config import DatasetConfig, ModelConfig
from stat_repro.data import batching
from stat_repro.data.batching import (
    encode_sentences,
    length_bucketed,
    pad_batch,
    sentence_batches,
    window_batches,
)
from stat_repro.data.corpora import CORPORA
from stat_repro.data.errors import DataError
from stat_repro.data.glue import GLUE_TASKS
from stat_repro.data.packaged_text import articles_of, split_documents
from stat_repro.data.ratings import RatedSnippet, read_ratings
from stat_repro.data.sampling import draw_indices
from stat_repro.data.text_data import TextPart, load_text_data
from stat_repro.data.windows import token_windows

CONF = Path(__file__).parents[1] / "conf"

# --- running text ------------------------------------------------------------------------------


def test_articles_keep_their_order_and_are_split_whole():
    snippets = [RatedSnippet(i, 0.0, t) for i, t in [("1_1", "a"), ("1_2", "b"), ("2_1", "c")]]
    assert articles_of(snippets) == ("a b", "c")
    documents = ("x" * 10, "y" * 10, "z" * 10, "u" * 70)
    assert split_documents(documents, 0.2) == (documents[:2], documents[2:])
    assert split_documents(("x" * 90, "y"), 0.2) == (("x" * 90,), ("y",))


@pytest.mark.real
def test_real_editorials():
    config = DatasetConfig(name="nyt", task="language_modeling", source="asset:nyt_editorials")
    text = load_text_data(config)
    whole = articles_of(read_ratings(assets.text_file("nyt_editorials")))
    assert text.evaluation.documents + text.calibration.documents == whole
    assert len(whole) == 498
    share = sum(map(len, text.evaluation.documents)) / sum(map(len, whole))
    assert 0.18 < share <= 0.2


def text_config(train: Path | None, test: Path | None) -> DatasetConfig:
    return DatasetConfig(
        name="mine",
        task="language_modeling",
        source="text",
        train=None if train is None else str(train),
        test=None if test is None else str(test),
    )


def test_own_texts(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("first\n\nsecond\n")
    b.write_text("third — ok", encoding="utf-8")
    text = load_text_data(text_config(a, b))
    assert text.calibration.documents == ("first\n\nsecond\n",)
    assert text.evaluation.documents == ("third — ok",)
    assert text.fingerprint["calibration"] != text.fingerprint["evaluation"]


def test_own_texts_that_cannot_be_used(tmp_path):
    a, b, empty, latin = (tmp_path / name for name in ("a.txt", "b.txt", "e.txt", "l.txt"))
    a.write_text("same")
    b.write_text("same")
    empty.write_text(" \n")
    latin.write_bytes(b"caf\xe9")
    for train, test, message in [
        (a, b, "same content"),
        (a, a, "same content"),
        (a, empty, r"dataset\.test: expected text"),
        (latin, a, r"dataset\.train: .*not UTF-8"),
        (None, a, r"dataset\.train: expected the file"),
        (a, tmp_path / "absent.txt", r"dataset\.test: expected a file"),
    ]:
        with pytest.raises(DataError, match=message):
            load_text_data(text_config(train, test))
    with pytest.raises(DataError, match=r"text, asset:nyt_editorials.*'asset:tweets'"):
        load_text_data(DatasetConfig(name="n", task="language_modeling", source="asset:tweets"))


def test_token_windows(caplog):
    tokenizer = word_tokenizer()
    part = TextPart((" ".join(WORDS[:15]), " ".join(WORDS[15:40])), " ")
    got = token_windows(tokenizer, part, 12)
    first = tokenizer.convert_tokens_to_ids("w0")
    assert got.ids.tolist() == torch.arange(first, first + 36).view(3, 12).tolist()
    assert got.ids.dtype == torch.long
    assert (got.dropped, got.special) == (4, "none added")
    assert caplog.text == ""  # the text is longer than model_max_length
    with pytest.raises(DataError, match=r"at least 41 tokens.*got 40"):
        token_windows(tokenizer, part, 41)


def test_bos_in_front_of_the_text_or_of_every_window():
    tokenizer = word_tokenizer()
    part = TextPart((" ".join(WORDS),), " ")
    ids = tokenizer.convert_tokens_to_ids(WORDS)
    first = token_windows(tokenizer, part, 10, "first")  # [CLS] in front, [SEP] behind
    assert first.ids.flatten().tolist() == [tokenizer.convert_tokens_to_ids("[CLS]"), *ids[:39]]
    assert (first.dropped, first.special[-3:]) == (2, ": 2")
    with pytest.raises(DataError, match=r"dataset\.bos=window: .*no BOS token"):
        token_windows(tokenizer, part, 10, "window")
    tokenizer.bos_token = "[CLS]"
    every = token_windows(tokenizer, part, 10, "window")
    assert every.ids[:, 0].tolist() == [tokenizer.bos_token_id] * 4
    assert every.ids[:, 1:].flatten().tolist() == ids[:36]
    assert every.dropped == 4
    limited = token_windows(tokenizer, TextPart(part.documents, " ", windows=2), 10)
    assert limited.ids.tolist() == [ids[:10], ids[10:20]]


# --- draws -------------------------------------------------------------------------------------


def test_draws():
    np.random.seed(7)
    authors = np.random.choice(50, 20)
    assert draw_indices(50, 20, 7, replacement=True) == tuple(authors)
    without = draw_indices(50, 50, 7, replacement=False)
    assert sorted(without) == list(range(50))
    assert draw_indices(50, 20, 7, replacement=False) != draw_indices(50, 20, 8, replacement=False)
    state = np.random.get_state()[1].copy()
    assert len(draw_indices(3, 10, 0, replacement=True)) == 10
    assert (np.random.get_state()[1] == state).all()


def test_impossible_draw():
    with pytest.raises(DataError, match=r"calibration\.examples: expected at most 5 .*; got 6"):
        draw_indices(5, 6, 0, replacement=False)


# --- batches -----------------------------------------------------------------------------------


def test_length_buckets():
    encoded = [{"input_ids": [0] * length} for length in (3, 5, 3, 9, 5)]
    assert length_bucketed(encoded, 2) == [[3, 1], [4, 0], [2]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_on_the_right_as_the_tokenizer_would_do_it(side):
    tokenizer = word_tokenizer(side=side)
    rows = sentences(2, 5, 3, 8)
    batches = sentence_batches(tokenizer, rows, 7, 3)
    assert [positions for positions, _ in batches] == [[1, 3, 2], [0]]
    for positions, batch in batches:
        texts = [rows[i]["text"] for i in positions]
        expected = word_tokenizer()(
            texts, truncation=True, max_length=7, padding=True, return_tensors="pt"
        )
        assert set(batch) == set(expected)
        for key, value in expected.items():
            assert torch.equal(batch[key], value), key
    assert [batch["input_ids"].shape for _, batch in batches] == [(3, 7), (1, 4)]


def test_selected_rows_come_by_position_also_twice():
    rows = sentences(1, 2, 3, 4)
    batches = sentence_batches(word_tokenizer(), rows.select((3, 0, 3)), 16, 2)
    got = {}
    for positions, batch in batches:
        tokens = batch["attention_mask"].sum(1).tolist()
        got.update(zip(positions, tokens, strict=True))
    assert got == {0: 6, 1: 3, 2: 6}
    assert len(list(batches)) == len(list(batches)) == len(batches) == 2  # may be read again


@pytest.mark.parametrize(("tokenizer", "length"), [(word_tokenizer(), 9), (CanineTokenizer(), 10)])
def test_cut_sentences_are_counted_and_told_once(tokenizer, length, caplog):
    """By a fast tokenizer and a slow one, which reads characters."""
    rows = datasets.Dataset.from_dict(
        {"text": ["a b", "a b c d e f g h i j", "k l m n o p q r s t"]}
    )
    for _ in range(2):
        encode_sentences(tokenizer, rows, length)
    (message,) = caplog.messages
    assert message.startswith(f"dataset.max_length: 2 of 3 sentences have more than {length} ")


def test_a_sentence_without_tokens_is_refused():
    """GLUE may have empty ones; decoders often add no special token, and read nothing then."""
    rows = datasets.Dataset.from_dict({"text": ["w1", "", "w2"]})
    assert [len(row["input_ids"]) for row in encode_sentences(word_tokenizer(), rows, 8)] == [
        3,
        2,
        3,
    ]
    plain = word_tokenizer()
    plain._tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(DataError, match="sentence 2: expected at least one token; got none for ''"):
        encode_sentences(plain, rows, 8)


def test_sentences_are_encoded_piece_by_piece(monkeypatch):
    tokenizer = word_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    first, second = (sentences(*lengths)["text"] for lengths in ([1, 9, 3, 2, 5], [4, 1, 8, 6, 7]))
    rows = datasets.Dataset.from_dict({"text": first, "text_pair": second})
    expected = tokenizer(list(first), list(second), truncation=True, max_length=8)
    monkeypatch.setattr(batching, "_ENCODED_AT_ONCE", 2)
    found = encode_sentences(tokenizer, rows, 8)
    assert {key: [row[key] for row in found] for key in expected} == dict(expected)
    assert encode_sentences(tokenizer, rows.select([]), 8) == []


def test_token_types_only_where_the_tokenizer_gives_them():
    tokenizer = word_tokenizer()
    rows = datasets.Dataset.from_dict({"text": ["w1 w2"], "text_pair": ["w3"]})
    plain = sentence_batches(tokenizer, rows, 16, 1)[0][1]
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    typed = sentence_batches(tokenizer, rows, 16, 1)[0][1]
    assert set(plain) == {"input_ids", "attention_mask"}
    assert typed["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]


def test_tokenizer_without_padding_is_refused():
    with pytest.raises(DataError, match="no pad token"):
        sentence_batches(word_tokenizer(pad=None), sentences(2), 8, 1)
    with pytest.raises(DataError, match="at least one sentence"):
        sentence_batches(word_tokenizer(), sentences(2).select(()), 8, 1)


def test_batches_are_made_when_read(monkeypatch):
    made = []
    monkeypatch.setattr(
        "stat_repro.data.batching.pad_batch",
        lambda *args: made.append(args[2]) or pad_batch(*args),
    )
    batches = sentence_batches(word_tokenizer(), sentences(*range(1, 9)), 16, 2)
    before = len(made)
    next(iter(batches))
    assert len(made) == before + 1 < len(batches)


def test_window_batches():
    windows = torch.arange(20).view(5, 4)
    batches = window_batches(windows, 2)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 4), (2, 4), (1, 4)]
    assert torch.equal(torch.cat([batch["input_ids"] for batch in batches]), windows)
    assert all(bool((batch["attention_mask"] == 1).all()) for batch in batches)
    assert batches[-1]["input_ids"].tolist() == [[16, 17, 18, 19]]


# --- shipped configurations --------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((CONF / "dataset").glob("*.yaml")), ids=lambda p: p.stem)
def test_dataset_configs_fit_the_schema(path):
    merged = OmegaConf.merge(OmegaConf.structured(DatasetConfig), OmegaConf.load(path))
    for key in ("train", "test"):
        if OmegaConf.is_missing(merged, key):
            merged[key] = "file"
    # The defaults that adapt are written in terms of the whole configuration.
    config = OmegaConf.to_object(OmegaConf.create({"dataset": merged}).dataset)
    assert config.name == path.stem
    prefix, _, name = config.source.partition(":")
    known = {"asset": assets.TEXTS, "corpus": CORPORA, "glue": GLUE_TASKS}
    assert name in known[prefix] if name else prefix in ("table", "text", "squad")


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda p: p.stem)
def test_model_configs_fit_the_schema(path):
    merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(path))
    assert merged.name == path.stem
    if path.stem == "hf":
        assert OmegaConf.is_missing(merged, "path")
    else:
        prefix, _, name = merged.path.partition(":")
        packaged = (*assets.MODELS, *assets.LARGE_MODELS)
        assert name in packaged if prefix == "asset" else merged.path.count("/") == 1
