"""A pruned folder gives the tokenizer of the dense one, also where its files name no class."""

import json
import shutil

import pytest
import transformers as hf
from pico_models import pico_batches, pico_model
from pico_project import qwen_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import stat_repro
from stat_repro.models.loading import load_tokenizer
from stat_repro.surgery.saved_tokenizer import TokenizerError

BERT_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "line", "##s", "cafe", ".")
TEXTS = (("A good line.",), ("Café lines", "[MASK] line"), ("[CLS] a [SEP] lines[PAD] .",), ("",))


def bert_words(folder):
    """The files of bert-base-uncased: a vocabulary, and a configuration without a class."""
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def mpnet(folder):
    """BERT's pieces under names of RoBERTa's special tokens."""
    special = ("<s>", "<pad>", "</s>", "<unk>", "[UNK]")
    words = (*special, *BERT_WORDS[5:], "<mask>")
    vocabulary = {word: i for i, word in enumerate(words)}
    hf.MPNetTokenizer(vocab=vocabulary).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")


def bert_without_configuration(folder):
    bert_words(folder)
    (folder / "tokenizer_config.json").unlink()


def bert_fast(folder):
    bert_words(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    load_tokenizer(folder).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 40}')


def qwen(folder):
    qwen_tokenizer().save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")


def roberta(folder):
    """The files of roberta-base: byte-level pieces, and a configuration without a class."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"GAaCcfgdlines. ", "Ġ", "Ġg", "oo"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    hf.RobertaTokenizer(vocab=vocabulary, merges=[("Ġ", "g")]).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 38}')


def sentence_pieces(tokenizer):
    """Files of one of the families with a table of pieces and their scores."""

    def write(folder):
        pieces = [
            (p, -float(i)) for i, p in enumerate(("▁good", "▁line", "▁A", "s", "▁", *"aclin."))
        ]
        special = [(p, 0.0) for p in ("<s>", "<pad>", "</s>", "<unk>")]
        tokenizer(vocab=[*special, *pieces]).save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text("{}")

    write.__name__ = tokenizer.__name__
    return write


def llama(folder):
    """A tokenizer.json that adds a first token."""
    words = {word: i for i, word in enumerate(("<unk>", "<s>", "</s>", "a", "good", "line", "."))}
    backend = Tokenizer(models.WordLevel(words, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


CASES = [
    ("bert", bert_words),
    ("bert", bert_without_configuration),
    ("bert", bert_fast),
    ("distilbert", bert_words),
    ("electra", bert_words),
    ("mpnet", mpnet),
    ("roberta", roberta),
    ("xlm_roberta", sentence_pieces(hf.XLMRobertaTokenizer)),
    ("camembert", sentence_pieces(hf.CamembertTokenizer)),
    ("qwen2", qwen),
    ("llama_tied", llama),
    ("mistral", llama),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].__name__}")
def dense(request, tmp_path):
    """A model and its folder."""
    name, write = request.param
    (tmp_path / "dense").mkdir()
    write(tmp_path / "dense")
    model = pico_model(name)
    model.save_pretrained(tmp_path / "dense")
    return model, tmp_path / "dense"


def same_tokens(folder, other):
    first, second = (hf.AutoTokenizer.from_pretrained(path) for path in (folder, other))
    for text in TEXTS:
        expected = dict(first(*text))
        assert dict(second(*text)) == expected
        assert second.decode(expected["input_ids"]) == first.decode(expected["input_ids"])
    assert second.padding_side == first.padding_side
    assert second.all_special_ids == first.all_special_ids


def test_tokens_of_a_checkpoint_pruned_from_disk_to_disk(dense, tmp_path):
    model, folder = dense
    pruned = tmp_path / "pruned"
    stat_repro.compress_checkpoint(folder, pruned, pico_batches(model), ratio=0.3, device="cpu")
    same_tokens(folder, pruned)


def test_tokens_of_a_saved_model(dense, tmp_path):
    model, folder = dense
    result = stat_repro.compress(model, pico_batches(model), ratio=0.3)
    pruned = stat_repro.save_pruned(
        result.model,
        tmp_path / "pruned",
        plan=result.plan,
        tokenizer=load_tokenizer(folder),
        base_model="pico",
    )
    same_tokens(folder, pruned)


def test_a_tokenizer_that_would_come_back_as_another_is_refused(tmp_path, monkeypatch):
    for name, write in (("dense", bert_fast), ("other", llama)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    tokenizer = load_tokenizer(tmp_path / "dense")
    monkeypatch.setattr(
        type(tokenizer),
        "save_pretrained",
        lambda self, folder: shutil.copytree(tmp_path / "other", folder, dirs_exist_ok=True),
    )
    model = pico_model("bert")
    result = stat_repro.compress(model, pico_batches(model), ratio=0.3)
    with pytest.raises(TokenizerError, match=r"tokenizer: expected \w+, which reads .*; got \w+"):
        stat_repro.save_pruned(
            result.model,
            tmp_path / "pruned",
            plan=result.plan,
            tokenizer=tokenizer,
            base_model="pico",
        )
    assert not (tmp_path / "pruned").exists()


def test_a_tokenizer_that_cannot_be_loaded_is_copied_and_told(tmp_path, caplog):
    """One with code of its own, which is not run."""
    model = pico_model("llama_tied")
    model.save_pretrained(tmp_path / "dense")
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "dense" / "tokenizer_config.json").write_text(json.dumps(own))
    stat_repro.compress_checkpoint(
        tmp_path / "dense", tmp_path / "pruned", pico_batches(model), ratio=0.3, device="cpu"
    )
    assert "cannot be loaded as tokenizer" in caplog.text
    assert "Its files are copied" in caplog.text
    assert json.loads((tmp_path / "pruned" / "tokenizer_config.json").read_text()) == own
