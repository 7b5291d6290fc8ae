"""WikiText-2, PTB and C4: which text is read, what calibrates, what is refused; no network."""

import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest
from corpus_files import config_for, write_c4, write_parts

from stat_repro.assets import packages as assets
from stat_repro.config import DatasetConfig
from stat_repro.data import corpora, hub
from stat_repro.data.corpora import CORPORA
from stat_repro.data.errors import DataError
from stat_repro.data.text_data import load_text_data

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "wikitext-2"
RELEASE = " \n = Title = \n \n Some words .\n More .\n"
ROWS = ["", " = Title = \n", "", " Some words .\n", " More .\n"]


def test_plain_text_is_one_document_and_the_release_has_the_rows_of_the_hub(tmp_path):
    plain = write_parts(tmp_path / "plain", ["train.txt", "valid.txt", "test.txt"], RELEASE + "{}")
    text = load_text_data(config_for("wikitext2", path=str(plain)))
    assert text.evaluation.documents == (RELEASE + "test.txt",)
    assert text.calibration.documents == (RELEASE + "train.txt",)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "wiki.train.raw").write_text("other")
    (raw / "wiki.test.raw").write_text(RELEASE)
    text = load_text_data(config_for("wikitext2", path=str(raw)))
    assert list(text.evaluation.documents) == ROWS
    assert text.evaluation.join.join(text.evaluation.documents) == (
        "\n\n = Title = \n\n\n\n\n Some words .\n\n\n More .\n"
    )
    assert text.protocol["text"] == "local: release file, rows as on the hub"
    assert text.protocol["documents"] == 5


def test_lines_end_at_line_ends_only():
    assert corpora.wikitext_rows("a\x85b\u2028c\x0cd\ne") == ["a\x85b\u2028c\x0cd\n", "e"]
    assert corpora.stripped_rows(" a\u2028b \n c \n") == ["a\u2028b", "c"]


def test_penn_treebank_is_sentences_joined_by_spaces(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"ptb.{part}.txt").write_text(f" no it was n't \n black {part} <unk> \n")
    text = load_text_data(config_for("ptb", path=str(tmp_path)))
    assert " ".join(text.evaluation.documents) == "no it was n't black test <unk>"
    assert text.evaluation.join == " "
    assert text.protocol["unk_in_text"] == 1


@pytest.mark.parametrize("form", ["jsonl", "json.gz", "parquet", "shard", "saved"])
def test_tables(tmp_path, form):
    for part in ("train", "test"):
        rows = [{"text": row + part * bool(row), "url": "u"} for row in ROWS]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        if form == "jsonl":
            (tmp_path / f"{part}.jsonl").write_text(lines)
        elif form == "json.gz":
            (tmp_path / f"{part}.json.gz").write_bytes(gzip.compress(lines.encode()))
        elif form == "saved":
            datasets.Dataset.from_list(rows).save_to_disk(tmp_path / part)
        else:
            ending = "-00000-of-00001.parquet" if form == "shard" else ".parquet"
            pd.DataFrame(rows).to_parquet(tmp_path / f"{part}{ending}")
    text = load_text_data(config_for("wikitext2", path=str(tmp_path)))
    assert list(text.evaluation.documents) == [row + "test" * bool(row) for row in ROWS]
    assert list(text.calibration.documents) == [row + "train" * bool(row) for row in ROWS]


def test_c4_reads_only_the_documents_it_needs(tmp_path):
    assert (CORPORA["c4"].evaluated_documents, CORPORA["c4"].evaluated_windows) == (1100, 256)
    folder = write_c4(tmp_path / "c4", train=5100, validation=1200)
    broken = folder / Path(CORPORA["c4"].files["train"]).name
    # What lies behind the documents that are needed is not even parsed.
    tail = gzip.compress(b"\n" * 20_000_000 + b"{not json")
    broken.write_bytes(broken.read_bytes() + gzip.compress(b"\n") + tail)
    text = load_text_data(config_for("c4", path=str(folder)), "validation")
    assert len(text.evaluation.documents) == 1100
    assert text.evaluation.windows == 256
    assert len(text.calibration.documents) == 5000
    assert text.calibration.documents[41] == "w1 train"
    assert set(text.fingerprint) == {"c4 validation", "c4 train"}
    with pytest.raises(DataError, match=r"evaluation\.split: c4 has the parts train, validation"):
        load_text_data(config_for("c4", path=str(folder)), "test")


def test_the_hub_is_asked_for_the_files_of_the_protocol(monkeypatch):
    asked = []

    def answer(name, subset=None, *, streaming=False, **options):
        asked.append((name, subset, streaming, options))
        column = "sentence" if "ptb" in name else "text"
        text = f"{name} {options['split']}"
        table = datasets.Dataset.from_list([{column: text}] * 6000)
        return table.to_iterable_dataset() if streaming else table

    monkeypatch.setattr(hub.datasets, "load_dataset", answer)
    text = load_text_data(config_for("wikitext2"))
    assert [call[:3] for call in asked] == [("Salesforce/wikitext", "wikitext-2-raw-v1", False)] * 2
    assert [call[3]["split"] for call in asked] == ["test", "train"]
    assert text.protocol["text"] == "hub: Salesforce/wikitext wikitext-2-raw-v1"
    asked.clear()
    text = load_text_data(config_for("ptb"))
    assert asked[0][3]["revision"] == "refs/convert/parquet"
    assert asked[0][3]["data_files"] == {"test": "penn_treebank/test/0000.parquet"}
    asked.clear()
    text = load_text_data(config_for("ptb", path="someone/ptb", revision="v1"))
    assert asked[0][0] == "someone/ptb"
    assert (asked[0][3]["revision"], asked[0][3]["data_files"]) == ("v1", None)
    assert text.protocol["text"] == "hub: someone/ptb, revision v1"
    asked.clear()
    text = load_text_data(config_for("wikitext2", calibration_corpus="c4"))
    assert asked[1][0] == "allenai/c4"
    assert asked[1][2] is True
    assert asked[1][3]["data_files"] == {"train": "en/c4-train.00000-of-01024.json.gz"}
    assert len(text.calibration.documents) == 5000
    assert text.calibration.join == " "
    assert text.protocol["calibrated_on"] == "c4 train"
    empty = datasets.Dataset.from_list([{"text": ""}, {"text": " \n"}])
    monkeypatch.setattr(hub.datasets, "load_dataset", lambda *names, **options: empty)
    with pytest.raises(DataError, match=r"expected text; hub: Salesforce/wikitext .* has none"):
        load_text_data(config_for("wikitext2"))


def test_without_the_hub_the_message_names_a_local_copy():
    for corpus, split, wanted in [
        ("wikitext2", "test", "wiki.test.raw"),
        ("ptb", "test", "ptb.test.txt"),
        ("c4", "validation", "c4-validation.00000-of-00008.json.gz"),
    ]:
        with pytest.raises(DataError) as caught:
            load_text_data(config_for(corpus), split)
        assert CORPORA[corpus].hub in str(caught.value)
        assert "dataset.path=<path>" in str(caught.value)
        assert wanted in str(caught.value)


def test_a_missing_training_part_names_the_way_out(tmp_path):
    write_parts(tmp_path, ["valid.txt", "test.txt"])
    with pytest.raises(DataError) as caught:
        load_text_data(config_for("wikitext2", path=str(tmp_path)))
    message = str(caught.value)
    assert "expected the train part" in message
    assert "dataset.calibration_split=validation" in message
    assert "dataset.calibration_split=test" not in message
    text = load_text_data(
        config_for("wikitext2", path=str(tmp_path), calibration_split="validation")
    )
    assert text.protocol["calibrated_on"] == "wikitext2 validation"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"calibration_split": "test"}, r"must not be calibrated on .* test part of wikitext2"),
        ({"train": "test.txt"}, "have the same content"),
        ({"calibration_corpus": "wikitext2", "calibration_split": "test"}, "must not be"),
        (
            {"calibration_corpus": "wikitext", "calibration_split": "train"},
            r"wikitext2, ptb, c4, nyt",
        ),
        (
            {"calibration_corpus": "nyt_editorials", "calibration_split": "test"},
            r"test part of nyt_editorials .* train or validation, .*; got test",
        ),
        ({"calibration_path": "train.txt"}, r"dataset\.calibration_corpus with it"),
        ({"test": "absent.txt"}, r"dataset\.test=.*does not exist"),
        ({"test": "empty.txt"}, r"wikitext2 test: expected text"),
        ({"test": "latin.txt"}, r"latin\.txt: cannot be read"),
        ({"test": "data.csv"}, r"expected text or a table \(\.txt"),
        ({"test": "broken.jsonl"}, r"broken\.jsonl: cannot be read"),
        ({"test": "other.jsonl"}, r"column 'text' \(dataset\.text_column\); it has content"),
        ({"test": "null.jsonl"}, r"column 'text', row 2: expected a text; got None"),
        ({"path": "two"}, r"got test\.txt, test\.jsonl.*dataset\.test=<file>"),
        ({"path": "train.txt"}, r"one file is the evaluated part.*dataset\.train=<file>"),
        ({"path": "train.txt", "held_out": 0.3}, r"held_out splits questions .*null; got 0\.3"),
    ],
)
def test_what_cannot_be_used(tmp_path, monkeypatch, keys, message):
    monkeypatch.chdir(tmp_path)
    write_parts(tmp_path, ["train.txt", "test.txt", "data.csv"])
    write_parts(tmp_path / "two", ["test.txt", "test.jsonl", "train.txt"])
    Path("empty.txt").write_text(" \n")
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("broken.jsonl").write_text('{"text": "a"}\n{oops\n')
    Path("other.jsonl").write_text('{"content": "a"}\n')
    Path("null.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(DataError, match=message):
        load_text_data(config_for("wikitext2", **{"path": str(tmp_path), **keys}))


@pytest.fixture
def articles(tmp_path, monkeypatch):
    """Two packaged articles; the first is evaluated."""
    file = tmp_path / "articles.txt"
    file.write_text("1_1\t0.5\ta\n2_1\t-1.0\tb c\n")
    monkeypatch.setattr(assets, "text_file", lambda name: file)


def test_a_corpus_calibrates_on_packaged_text(tmp_path, articles):
    write_parts(tmp_path, ["test.txt"])
    config = config_for("wikitext2", path=str(tmp_path), calibration_corpus="nyt_editorials")
    text = load_text_data(config)
    assert text.evaluation.documents == ("test.txt",)
    assert (text.calibration.documents, text.calibration.join) == (("b c",), " ")
    assert text.protocol["calibrated_on"] == "nyt_editorials train"
    assert set(text.fingerprint) == {"wikitext2 test", "nyt_editorials train"}


def test_packaged_text_calibrates_on_a_corpus(tmp_path, articles):
    write_parts(tmp_path, ["valid.txt"])
    keys = {"calibration_path": str(tmp_path), "calibration_split": "validation"}
    text = load_text_data(editorials(calibration_corpus="wikitext2", **keys))
    assert text.evaluation.documents == ("a",)
    assert (text.calibration.documents, text.calibration.join) == (("valid.txt",), "\n\n")
    assert text.protocol == {"calibrated_on": "wikitext2 validation"}
    for keys in ({}, {"calibration_corpus": "nyt_editorials", "calibration_split": "validation"}):
        own = load_text_data(editorials(**keys))
        assert (own.evaluation.documents, own.calibration.documents) == (("a",), ("b c",))
    assert own.protocol == {"calibrated_on": "nyt_editorials train"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"calibration_corpus": "nyt_editorials", "calibration_split": "test"}, "evaluation"),
        ({"calibration_corpus": "wiki"}, r"wikitext2, ptb, c4, nyt_editorials; got 'wiki'"),
        ({"calibration_corpus": "ptb", "path": "a"}, r"dataset\.path: only a corpus"),
        ({"calibration_split": "validation"}, r"calibration_split: only a corpus"),
        ({"calibration_path": "a"}, r"calibration_path: only a corpus"),
    ],
)
def test_what_packaged_text_refuses(articles, keys, message):
    with pytest.raises(DataError, match=message):
        load_text_data(editorials(**keys))


def editorials(**keys):
    task = {"task": "language_modeling", "source": "asset:nyt_editorials", "join": " "}
    return DatasetConfig(name="nyt_editorials", **task, **keys)


def test_one_file_per_key(tmp_path):
    write_parts(tmp_path, ["a.txt", "b.txt"])
    files = {"train": str(tmp_path / "a.txt"), "test": str(tmp_path / "b.txt")}
    text = load_text_data(config_for("wikitext2", **files))
    assert (text.calibration.documents, text.evaluation.documents) == (("a.txt",), ("b.txt",))
    text = load_text_data(config_for("wikitext2", path=files["test"], train=files["train"]))
    assert text.evaluation.documents == ("b.txt",)


@pytest.mark.parametrize(
    "keys",
    [
        {"path": "a"},
        {"validation": "a"},
        {"calibration_split": "validation"},
        {"calibration_corpus": "c4"},
        {"calibration_path": "a"},
    ],
)
def test_keys_of_corpora_are_refused_for_other_text(tmp_path, keys):
    write_parts(tmp_path, ["a.txt", "b.txt"])
    config = DatasetConfig(
        name="mine",
        task="language_modeling",
        source="text",
        train=str(tmp_path / "a.txt"),
        test=str(tmp_path / "b.txt"),
        **keys,
    )
    with pytest.raises(DataError, match=f"dataset.{next(iter(keys))}: only a corpus"):
        load_text_data(config)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_shared_wikitext(tmp_path):
    config = config_for("wikitext2", path=str(SHARED), calibration_split="validation", window=64)
    text = load_text_data(config)
    assert text.evaluation.documents == ((SHARED / "test.txt").read_text(encoding="utf-8"),)
    assert text.protocol["unk_in_text"] > 1000
    assert text.protocol["calibrated_on"] == "wikitext2 validation"
