"""Exports to ONNX and to stock classes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from pico_export import TEXT, byte_tokenizer
from pico_models import (
    REPRESENTATIVES,
    pico_batches,
    pico_model,
    pico_outputs,
    selection_edits,
)
from pico_surgery import pruned_of
from safetensors.torch import load_file

import stat_repro
from stat_repro.export import __main__ as command
from stat_repro.export.decilm import write_decilm
from stat_repro.export.errors import ExportError
from stat_repro.export.onnx_file import write_onnx
from stat_repro.export.stock import write_stock
from stat_repro.models.adapter import adapter_for
from stat_repro.surgery.edit import prune_model

EMPTY = [(0, "attention"), (1, "ffn"), (2, "attention"), (2, "ffn")]


@pytest.mark.parametrize(
    "name", ["bert", "distilbert", "mpnet", "llama_grouped", "qwen2", "gpt2", "opt"]
)
def test_a_stock_folder_has_nothing_of_ours(name: str, tmp_path: Path) -> None:
    model = pico_model(name)
    batches = pico_batches(model)
    result = stat_repro.compress(
        model, batches, ratio=0.1, method="magnitude", allocation="uniform", min_units=4
    )
    pruned = pruned_of(model, whole=[(i, kind) for i in range(3) for kind in ("attention", "ffn")])
    adapter = adapter_for(model)
    heads = {site.key: tuple(range(site.units)) for site in adapter.of_kind("attention")}
    neurons = {site.key: tuple(range(7)) for site in adapter.of_kind("ffn")}
    plan = adapter.plan_keeping(heads | neurons, "none")
    narrow = prune_model(model, plan, selection_edits(model, plan))
    for case, one in {"whole": pruned, "both": result.model, "ffn": narrow}.items():
        if one.can_generate():
            one.generation_config.eos_token_id = [1, 5]
        folder = tmp_path / case
        one.save_pretrained(folder)
        counts = one.config
        equal = [set(counts.query_heads_per_layer), set(counts.ffn_size_per_layer)]
        if max(map(len, equal)) > 1 or (
            not hasattr(counts, "head_dim")
            and counts.query_heads_per_layer[0] != counts.num_attention_heads
        ):
            assert case == "both"
            with pytest.raises(ExportError, match=r"_per_layer: expected .*; choose "):
                write_stock(folder, tmp_path / "stock")
            continue
        out = tmp_path / f"stock-{case}"
        write_stock(folder, out)
        config = json.loads((out / "config.json").read_text())
        assert not [key for key in config if key.endswith("_per_layer") or key == "auto_map"]
        assert not list(out.glob("*.py"))
        again = type(model).from_pretrained(out).eval()
        torch.testing.assert_close(pico_outputs(again, batches[0]), pico_outputs(one, batches[0]))
        assert type(hf.AutoConfig.from_pretrained(out)) is type(model.config)
        if one.can_generate():
            assert again.generation_config.eos_token_id == [1, 5]


def test_layers_of_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    pruned_of(pico_model("llama_grouped"), empty=EMPTY).save_pretrained(tmp_path / "pruned")
    with pytest.raises(ExportError, match=r"query_heads_per_layer: expected the same count"):
        write_stock(tmp_path / "pruned", tmp_path / "stock")
    arguments = [str(tmp_path / "pruned"), "--format", "stock", "--quantise", "Q8_0"]
    assert command.main(arguments) == 1


@pytest.mark.parametrize(("name", "head"), [("bert", "ForMaskedLM"), ("llama_tied", "ForCausalLM")])
def test_a_head_of_its_own_is_written_whatever_the_config_says(
    name: str, head: str, tmp_path: Path
) -> None:
    whole = [(i, kind) for i in range(3) for kind in ("attention", "ffn")]
    pruned = pruned_of(pico_model(name, head, tie_word_embeddings=True), whole=whole)
    output, batch = pruned.get_output_embeddings(), pico_batches(pruned)[0]
    output.weight = torch.nn.Parameter(output.weight.detach().flip(0))
    pruned.save_pretrained(tmp_path / "pruned")
    write_stock(tmp_path / "pruned", tmp_path / "stock")
    plain = getattr(hf, f"AutoModel{head}").from_pretrained(tmp_path / "stock").eval()
    torch.testing.assert_close(pico_outputs(plain, batch), pico_outputs(pruned, batch))
    if name == "llama_tied":
        write_decilm(tmp_path / "pruned", tmp_path / "decilm")
        tensors = load_file(tmp_path / "decilm" / "model.safetensors")
        assert torch.equal(tensors["lm_head.weight"], output.weight)


def test_sizes_that_the_stock_config_does_not_take_are_refused(tmp_path: Path) -> None:
    """Llama's wants a width that is a multiple of the heads, whatever `head_dim` says."""
    model = pico_model("llama_multi_head")
    adapter = adapter_for(model)
    plan = adapter.plan_keeping({site.key: tuple(range(5)) for site in adapter.sites}, "none")
    prune_model(model, plan, selection_edits(model, plan)).save_pretrained(tmp_path / "pruned")
    expected = r"expected sizes that LlamaConfig takes; got {'num_attention_heads': 5, .* \(24\)"
    with pytest.raises(ExportError, match=f"--format stock: {expected} is not .*; choose "):
        write_stock(tmp_path / "pruned", tmp_path / "stock")


@pytest.mark.parametrize("form", ["gguf", "onnx", "stock", "decilm"])
def test_quantised_weights_are_refused_by_name(
    form: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", sys)
    pruned_of(pico_model("llama_grouped")).save_pretrained(tmp_path / "pruned")
    config = tmp_path / "pruned" / "config.json"
    values = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "torchao"}}
    config.write_text(json.dumps(values))
    out = tmp_path / "out"
    assert command.main([str(config.parent), "--format", form, "--out", str(out)]) == 1
    assert "expected plain weights; got quantised ones" in capsys.readouterr().err
    assert not out.exists()


def test_a_tokenizer_goes_with_the_folder_whatever_its_files(tmp_path: Path, capsys) -> None:
    whole = [(i, kind) for i in range(3) for kind in ("attention", "ffn")]
    folder, out = tmp_path / "pruned", tmp_path / "stock"
    pruned_of(pico_model("llama_grouped"), whole=whole).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    words = [str(folder), "--format", "stock", "--out", str(out)]
    (folder / "tokenizer_config.json").unlink()
    assert command.main(words) == 0
    given, kept = (hf.AutoTokenizer.from_pretrained(path)(TEXT) for path in (folder, out))
    assert kept == given
    shutil.rmtree(out)
    (folder / "tokenizer.json").write_text("half")
    assert command.main(words) == 1
    assert "pruned: cannot be loaded as tokenizer: " in capsys.readouterr().err
    assert not out.exists()


# Heads by the outputs that a file has.
HEADS = {
    "ForSequenceClassification": ["logits"],
    "ForQuestionAnswering": ["start_logits", "end_logits"],
    "Model": ["last_hidden_state"],
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("name", "types"), [("bert", ["token_type_ids"]), ("distilbert", [])])
def test_inputs_and_outputs_of_an_onnx_file(
    name: str, types: list[str], head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch is asked to export, without the packages that write the file."""
    model = pruned_of(pico_model(name, head=head), empty=EMPTY)
    model.bfloat16().save_pretrained(tmp_path / "pruned")
    model.float()  # as it is written, rounded
    asked = {}
    monkeypatch.setitem(sys.modules, "onnxscript", sys)
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **how: asked.update(how, given=given))
    monkeypatch.setattr("os.replace", lambda partial, out: None)
    write_onnx(tmp_path / "pruned", tmp_path / "model.onnx")
    assert asked["input_names"] == ["input_ids", "attention_mask", *types]
    assert asked["output_names"] == HEADS[head]
    batch = pico_batches(model, 1)[0]
    if types:
        batch["token_type_ids"] = batch["input_ids"] % 2
    with torch.no_grad():
        got = asked["given"][0](*(batch[name] for name in asked["input_names"]))
        expected = model(**batch)
    assert list(got) == HEADS[head]
    for output in HEADS[head]:
        torch.testing.assert_close(got[output], expected[output])


def test_what_torch_cannot_export_is_refused_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    def export(model: object, inputs: object, file: Path, **options: object) -> None:
        file.write_bytes(b"half")
        raise torch.onnx.errors.OnnxExporterError("many lines") from ValueError("reason\nmore")

    monkeypatch.setitem(sys.modules, "onnxscript", sys)
    monkeypatch.setattr(torch.onnx, "export", export)
    for head, message in (
        (
            "ForMaskedLM",
            "expected a model that torch.export takes; got StatBertForMaskedLM: reason$",
        ),
        ("ForMultipleChoice", "expected one text per example; got StatBertForMultipleChoice"),
    ):
        pruned_of(pico_model("bert", head)).save_pretrained(tmp_path / head)
        with pytest.raises(ExportError, match=f"^--format onnx: {message}"):
            write_onnx(tmp_path / head, tmp_path / "model.onnx")
        assert [path.name for path in tmp_path.iterdir() if not path.is_dir()] == []


@pytest.mark.clients
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_onnxruntime_gives_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = pruned_of(pico_model(name), empty=EMPTY)
    model.save_pretrained(tmp_path / "pruned")
    out = tmp_path / "model.onnx"
    assert command.main([str(tmp_path / "pruned"), "--format", "onnx", "--out", str(out)]) == 0
    session = runtime.InferenceSession(str(out))
    for size, length in ((4, 9), (1, 5)):
        batch = pico_batches(model, 1, batch_size=size, length=length)[0]
        if len(session.get_inputs()) > 2:
            batch["token_type_ids"] = batch["input_ids"] % model.config.type_vocab_size
        given = {key: value.numpy() for key, value in batch.items()}
        (got,) = session.run(None, given)
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        rows = given["attention_mask"].astype(bool) if got.ndim == 3 else slice(None)
        np.testing.assert_allclose(got[rows], expected[rows], rtol=1e-3, atol=1e-3)


def test_an_export_replaces_nothing_and_leaves_nothing_half(tmp_path, capsys, monkeypatch) -> None:
    model = pico_model("llama_grouped")
    whole = [(i, kind) for i in range(3) for kind in ("attention", "ffn")]
    pruned_of(model, whole=whole).save_pretrained(tmp_path / "mine")
    (tmp_path / "words.csv").write_text("a,b\n")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    mine = str(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind, out in (("stock", "mine"), ("decilm", "mine"), ("gguf", "words.csv")):
        assert command.main([mine, "--format", kind, "--out", f"~/{out}"]) == 1
        assert "expected a new" in capsys.readouterr().err

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    for kind, last in (("decilm", "shutil.copy"), ("stock", "transformers.PreTrainedModel.eval")):
        words = [mine, "--format", kind, "--out", str(tmp_path / kind)]
        with monkeypatch.context() as patch:
            patch.setattr(last, interrupted)
            assert command.main(words) == 130
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert command.main(words) == 0
        shutil.rmtree(tmp_path / kind)
