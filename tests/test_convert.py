"""Conversions, on tiny models and (marked `real`) on the packaged ones."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertModel,
)

from stat_repro.assets import packages as assets
from stat_repro.assets.convert import (
    ENCODER_FILES,
    ConversionError,
    distilbert_from_bert,
    unpack_encoder,
)
from stat_repro.data.ratings import read_ratings


def tiny_bert(**changes) -> BertModel:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 16,
    }
    model = BertModel(BertConfig(**{**sizes, **changes})).double().eval()
    for parameter in model.parameters():  # biases and norms start as 0 and 1, which hides mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_distilbert_form_computes_the_same():
    bert = tiny_bert(hidden_act="relu")
    ids = torch.randint(1, 50, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    distil = distilbert_from_bert(bert)
    with torch.no_grad():
        expected = bert(ids, attention_mask=mask).last_hidden_state
        got = distil(ids, attention_mask=mask).last_hidden_state
    assert expected[mask.bool()].std() > 0.1
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], rtol=1e-10, atol=1e-10)


def test_distilbert_form_has_its_own_weights():
    bert = tiny_bert()
    distil = distilbert_from_bert(bert)
    before = bert.embeddings.word_embeddings.weight.clone()
    with torch.no_grad():
        distil.embeddings.word_embeddings.weight.zero_()
    assert torch.equal(bert.embeddings.word_embeddings.weight, before)


def test_unpacked_encoder_has_its_files_and_no_others(tmp_path):
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*ENCODER_FILES, "modules.json", "1_Pooling/config.json"):
            archive.writestr(f"pkg/model/{name}", name)
        archive.writestr("pkg/model/../../escaped", "x")
    unpack_encoder(wheel, "pkg/model", tmp_path / "out")
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {
        name: name for name in ENCODER_FILES
    }
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("content", [None, b"no zip"])
def test_unexpected_wheel_is_refused(tmp_path, content):
    wheel = tmp_path / "w.whl"
    if content is None:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pkg/model/config.json", "{}")
    else:
        wheel.write_bytes(content)
    with pytest.raises(ConversionError, match=r"w\.whl: expected"):
        unpack_encoder(wheel, "pkg/model", tmp_path / "out")


def model_type(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    return config["model_type"]


@pytest.mark.real
def test_real_distilbert_form_equals_minilm():
    folders = assets.model_folder("minilm"), assets.model_folder("distilminilm")
    assert [model_type(folder) for folder in folders] == ["bert", "distilbert"]
    bert, distil = (AutoModel.from_pretrained(folder).eval() for folder in folders)
    assert isinstance(distil, DistilBertModel)
    texts = [row.text for row in read_ratings(assets.text_file("movie_reviews"))[:8]]
    texts.append(" ".join(texts))  # longer than the 128 tokens that the package's tokenizer cut at
    hidden = []
    for folder, model in zip(folders, (bert, distil), strict=True):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        assert ("token_type_ids" in batch) == (model is bert)
        with torch.no_grad():
            hidden.append(model(**batch, output_hidden_states=True).hidden_states)
    mask = batch["attention_mask"].bool()
    assert not mask.all()
    assert mask.shape[1] > 128
    assert len(hidden[0]) == len(hidden[1]) == bert.config.num_hidden_layers + 1
    for expected, got in zip(*hidden, strict=True):
        torch.testing.assert_close(got[mask], expected[mask], rtol=0, atol=2e-5)


@pytest.mark.real
def test_real_minilm_separates_meanings():
    folder = assets.model_folder("minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    batch = tokenizer(
        ["A man plays the guitar.", "Someone is playing guitar.", "The stock market fell."],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        states = model.eval()(**batch).last_hidden_state
    weight = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((states * weight).sum(1) / weight.sum(1), dim=-1)
    assert means[0] @ means[1] > 0.6
    assert means[0] @ means[2] < 0.2


@pytest.mark.real
def test_real_smollm2_is_a_plain_llama_that_knows_something():
    folder = assets.model_folder("smollm2")
    assert model_type(folder) == "llama"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    config = model.config
    sizes = (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)
    assert sizes == (30, 9, 3)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**ids).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
