"""Models that cannot be had: one message with what was asked for, what was tried, what to give."""

import huggingface_hub
import pytest
import torch
import transformers as hf
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from pico_models import pico_batches, pico_model, pico_outputs
from pico_project import save_checkpoint
from pico_surgery import pruned_of

import stat_repro
from stat_repro.config import ModelConfig
from stat_repro.export.stock import write_stock
from stat_repro.models.loading import ModelLoadError, checkpoint_folder, load_checkpoint, load_model

try:
    import httpx2 as httpx
except ImportError:  # huggingface_hub before version 2
    import httpx

LLAMA = ModelConfig(name="llama2_7b", path="meta-llama/Llama-2-7b-hf")


def message(config):
    with pytest.raises(ModelLoadError) as caught:
        checkpoint_folder(config)
    text = str(caught.value)
    assert "\n" not in text
    assert f"model.path={config.path}" in text
    return text


def refuse(monkeypatch, error):
    """A hub that answers with this error."""

    def snapshot_download(*arguments, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def answer(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid"))


def test_offline(monkeypatch):
    """conftest.py sets HF_HUB_OFFLINE; the cache does not hold this model."""
    text = message(LLAMA)
    assert "hub did not give it" in text
    assert "model.path=<folder>" in text
    assert "gated" not in text


def test_gated(monkeypatch):
    refuse(monkeypatch, GatedRepoError("Access to it is restricted.", response=answer(403)))
    text = message(LLAMA)
    for part in ("Access to it is restricted.", "accept its terms", "hf auth login", "<folder>"):
        assert part in text


def test_missing_on_the_hub(monkeypatch):
    refuse(monkeypatch, RepositoryNotFoundError("No such repository.", response=answer(404)))
    text = message(LLAMA)
    assert "No such repository." in text
    assert "gated" not in text


def test_a_repository_with_pickled_weights_only(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(tmp_path))
    text = message(ModelConfig(name="opt", path="facebook/opt-125m"))
    for part in ("*.safetensors", "pickled weights are not loaded", "model.revision"):
        assert part in text


def test_local_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("./nowhere", "/nowhere", "a/b/c"):
        text = message(ModelConfig(name="x", path=path))
        assert "expected a local folder with config.json, safetensors" in text
        assert f"no such folder (working folder {tmp_path})" in text
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert "a file (working folder" in message(ModelConfig(name="x", path="weights.safetensors"))
    (tmp_path / "weights.safetensors").unlink()
    assert "no config.json" in message(ModelConfig(name="x", path=str(tmp_path)))


def test_only_safe_files_are_asked_for(monkeypatch, tmp_path):
    asked = {}

    def snapshot_download(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    config = ModelConfig(name="x", path="owner/name", revision="v1")
    assert checkpoint_folder(config) == tmp_path
    assert (asked["name"], asked["revision"]) == ("owner/name", "v1")
    assert not any(p.endswith((".bin", ".py", ".pt", ".pkl")) for p in asked["patterns"])


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_weights_cut_short(tmp_path, size):
    """As an interrupted copy leaves them, or a clone without Git LFS."""
    folder = save_checkpoint(tmp_path / "bert", "bert")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ModelLoadError, match=r"bert: cannot be loaded as AutoModelForSequence"):
        load_checkpoint(folder, "classification", "float32", torch.device("cpu"))


@pytest.mark.parametrize("name", ["bert", "electra", "distilbert", "llama_grouped", "qwen2", "opt"])
def test_a_folder_without_a_tokenizer(tmp_path, name):
    """transformers makes an empty tokenizer for it, and every word would be the unknown token."""
    folder = save_checkpoint(tmp_path / "model", name)
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(ModelLoadError, match="tokenizer"):
        load_checkpoint(folder, "classification", "float32", torch.device("cpu"))


@pytest.mark.parametrize("head", ["ForMaskedLM", "Model"])
def test_a_base_model_of_a_checkpoint_without_pooler(head, tmp_path):
    """As many encoders are published; only similarity, which reads hidden states, takes them."""
    dense = pico_model("bert", head)
    if head == "Model":
        dense.pooler = None
    dense.save_pretrained(tmp_path / "dense")
    batches = pico_batches(dense)
    loaded = load_model(tmp_path / "dense", hf.AutoModel, torch.float32).eval()
    assert loaded.pooler is None
    result = stat_repro.compress(loaded, batches, ratio=0.4)
    on_disk = stat_repro.compress_checkpoint(
        tmp_path / "dense", tmp_path / "pruned", batches, ratio=0.4, device="cpu"
    )
    assert on_disk.plan == result.plan
    again = load_model(tmp_path / "pruned", hf.AutoModel, torch.float32).eval()
    assert torch.equal(pico_outputs(again, batches[0]), pico_outputs(result.model, batches[0]))

    whole = [(i, kind) for i in range(3) for kind in ("attention", "ffn")]
    pruned_of(loaded, whole=whole).save_pretrained(tmp_path / "whole")
    write_stock(tmp_path / "whole", tmp_path / "stock")
    stock = load_model(tmp_path / "stock", hf.AutoModel, torch.float32)
    assert torch.equal(pico_outputs(stock.eval(), batches[0]), pico_outputs(loaded, batches[0]))
