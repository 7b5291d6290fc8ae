"""Checkpoints larger than memory: read layer by layer, written shard by shard."""

import shutil

import pytest
import torch
import transformers as hf
from pico_checkpoints import LAYOUTS, as_json, same_weights, saved
from pico_data import WORDS
from pico_models import ENCODERS, PICO_NAMES, pico_batches, pico_model, pico_outputs
from pico_project import save_checkpoint, write_text
from safetensors.torch import save_file

import stat_repro
from stat_repro.models import loading
from stat_repro.models.modeling_stat import StatQwen2Config
from stat_repro.models.tensor_files import (
    INDEX_FILE,
    SINGLE_FILE,
    ShardedCheckpoint,
    TensorFileError,
    read_header,
)
from stat_repro.sharded import __main__ as sharded
from stat_repro.sharded import compress as shards
from stat_repro.sharded import skeleton as skeletons
from stat_repro.sharded import writer as shard_writer
from stat_repro.surgery.checkpoint import CheckpointError


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PICO_NAMES)
def test_the_result_is_that_of_the_model_in_memory(name, layout, tmp_path):
    model = pico_model(name)
    batches = pico_batches(model)
    usual = stat_repro.compress(model, batches, ratio=0.3)
    source = saved(model, tmp_path / "dense", layout)
    result = stat_repro.compress_checkpoint(
        source, tmp_path / "pruned", batches, ratio=0.3, device="cpu"
    )
    assert result.plan == usual.plan == stat_repro.load_plan(result.folder)
    assert result.report.site_errors == usual.report.site_errors
    for key in ("params", "prunable_params", "prunable_macs", "calibration_tokens"):
        assert getattr(result.report, key) == getattr(usual.report, key)
    auto = hf.AutoModelForCausalLM
    if name in ENCODERS:
        auto = hf.AutoModelForSequenceClassification
    again = auto.from_pretrained(result.folder).eval()
    same_weights(again, usual.model)
    for batch in batches:
        assert torch.equal(pico_outputs(again, batch), pico_outputs(usual.model.eval(), batch))
    # The folder is the one that the usual way writes.
    reference = tmp_path / "reference"
    stat_repro.save_pruned(usual.model, reference, plan=usual.plan, base_model="dense")
    assert as_json(result.folder / "config.json") == as_json(reference / "config.json")
    ours = {path.name for path in result.folder.iterdir() if not path.name.startswith("model")}
    theirs = {path.name for path in reference.iterdir() if not path.name.startswith("model")}
    assert ours == theirs - {"modeling_stat.py"} | {"run_config.json"}
    for code in ("configuration_stat.py", "layers_stat.py", "modeling_stat.py"):
        assert (result.folder / code).read_bytes() == (reference / code).read_bytes()
    assert len(list(result.folder.glob("*.safetensors"))) == model.config.num_hidden_layers + 1
    sizes = as_json(result.folder / INDEX_FILE)["metadata"]
    assert sizes["total_parameters"] == sum(p.numel() for p in again.parameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "pruned", "reference"]


@pytest.mark.parametrize("head", ["Model", "ForQuestionAnswering"])
def test_other_heads_and_hidden_states_in_files(head, tmp_path):
    model = pico_model("llama_grouped", head)
    batches = pico_batches(model)
    usual = stat_repro.compress(model, batches, ratio=0.6, min_units=0)
    (tmp_path / "spill").mkdir()
    result = stat_repro.compress_checkpoint(
        saved(model, tmp_path / "dense"), tmp_path / "pruned", batches,
        ratio=0.6, min_units=0, device="cpu", spill=tmp_path / "spill",
    )  # fmt: skip
    assert result.plan == usual.plan
    same_weights(type(usual.model).from_pretrained(result.folder), usual.model)
    assert not list((tmp_path / "spill").iterdir())


@pytest.mark.parametrize("correction", ["affine", "bias"])
def test_corrected_biases_are_written(correction, tmp_path):
    model = pico_model("llama_grouped")
    batches = pico_batches(model)
    usual = stat_repro.compress(model, batches, ratio=0.4, correction=correction)
    result = stat_repro.compress_checkpoint(
        saved(model, tmp_path / "dense"), tmp_path / "pruned", batches,
        ratio=0.4, correction=correction, device="cpu",
    )  # fmt: skip
    again = type(usual.model).from_pretrained(result.folder)
    assert any(again.config.ffn_output_bias_per_layer)
    same_weights(again, usual.model)


@pytest.mark.parametrize("name", ["llama_tied", "gemma3"])
def test_types_of_the_checkpoint_stay(name, tmp_path):
    """bfloat16 in and out; on the CPU the calibration computes in float32 unless told otherwise."""
    model = pico_model(name, dtype=torch.bfloat16)
    batches = pico_batches(model)
    source = saved(model, tmp_path / "dense")
    own = stat_repro.compress_checkpoint(
        source, tmp_path / "own", batches, ratio=0.3, device="cpu", dtype="bfloat16"
    )
    usual = stat_repro.compress(model, batches, ratio=0.3)
    assert own.plan == usual.plan
    same_weights(hf.AutoModelForCausalLM.from_pretrained(own.folder, dtype="auto"), usual.model)

    chosen = stat_repro.compress_checkpoint(
        source, tmp_path / "chosen", batches, ratio=0.3, device="cpu"
    )
    wide = hf.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    usual = stat_repro.compress(wide, batches, ratio=0.3)
    assert chosen.plan == usual.plan
    again = hf.AutoModelForCausalLM.from_pretrained(chosen.folder, dtype="auto")
    assert again.dtype == torch.bfloat16
    same_weights(again, usual.model.to(torch.bfloat16))

    for stored, device, expected in (
        ("bfloat16", "cuda:0", "bfloat16"),
        ("float16", "cpu", "float32"),
        ("float64", "cpu", "float64"),
    ):
        found = shards.compute_dtype(getattr(torch, stored), torch.device(device))
        assert found == getattr(torch, expected)


def test_what_is_not_pruned_is_copied_exactly(tmp_path):
    """Also where the calibration computes in a narrower type than the checkpoint has."""
    model = pico_model("llama_grouped")
    result = stat_repro.compress_checkpoint(
        saved(model, tmp_path / "dense"), tmp_path / "pruned", pico_batches(model),
        ratio=0.0, device="cpu", dtype="bfloat16",
    )  # fmt: skip
    same_weights(hf.AutoModelForCausalLM.from_pretrained(result.folder), model)


def test_a_pruned_checkpoint_is_pruned_again(tmp_path):
    model = pico_model("qwen2")
    batches = pico_batches(model)
    once = stat_repro.compress(model, batches, ratio=0.3, min_units=0).model
    twice = stat_repro.compress(once, batches, ratio=0.5, min_units=0)
    result = stat_repro.compress_checkpoint(
        saved(once, tmp_path / "once"), tmp_path / "twice", batches,
        ratio=0.5, min_units=0, device="cpu",
    )  # fmt: skip
    assert result.plan == twice.plan
    same_weights(hf.AutoModelForCausalLM.from_pretrained(result.folder), twice.model)


def test_another_copy_of_the_configuration_classes_does_no_harm(tmp_path, monkeypatch):
    """As after `from_pretrained(..., trust_remote_code=True)` in the same process."""
    model = pico_model("qwen2")
    batches = pico_batches(model)
    once = saved(stat_repro.compress(model, batches, ratio=0.3).model, tmp_path / "once")

    class Copy(StatQwen2Config):
        pass

    Copy.__name__ = StatQwen2Config.__name__
    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", Copy.from_pretrained)
    result = stat_repro.compress_checkpoint(once, tmp_path / "twice", batches, ratio=0.2)
    assert result.report.mac_kept_fraction < 1


def test_one_layer_is_resident_at_a_time(tmp_path, monkeypatch):
    model = pico_model("llama_grouped")
    source = saved(model, tmp_path / "dense", "several shards")
    resident = []
    original = skeletons.CheckpointWeights._resident

    def watched(self, names):
        real = {n for n, p in self._skeleton.model.named_parameters() if p.device.type != "meta"}
        assert not real
        resident.append(names)
        return original(self, names)

    monkeypatch.setattr(skeletons.CheckpointWeights, "_resident", watched)
    stat_repro.compress_checkpoint(
        source, tmp_path / "pruned", pico_batches(model), ratio=0.3, device="cpu"
    )
    layers = [{name.split(".")[2] for name in names if ".layers." in name} for names in resident]
    once, twice = ([set(), *({str(i)} for i in range(3) for _ in range(n))] for n in (1, 2))
    assert layers == once + twice  # the second pass also writes each layer


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spill").mkdir()
    saved(model := pico_model("bert"), tmp_path / "dense")
    batches = pico_batches(model)
    usual = stat_repro.compress(model, batches, engine="layers", spill="~/spill")
    stat_repro.save_pruned(usual.model, "~/usual", plan=usual.plan, base_model="dense")
    stat_repro.compress_checkpoint("~/dense", "~/pruned", batches, spill="~/spill")
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "pruned", "spill", "usual"}


def test_large_tensors_outside_get_shards_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "_SHARD_BYTES", 5000)
    model = pico_model("llama_grouped")
    result = stat_repro.compress_checkpoint(
        saved(model, tmp_path / "dense"), tmp_path / "pruned", pico_batches(model),
        ratio=0.3, device="cpu",
    )  # fmt: skip
    assert len(list(result.folder.glob("*-of-00006.safetensors"))) == 6
    hf.AutoModelForCausalLM.from_pretrained(result.folder)


def test_nothing_is_written_over_or_half(tmp_path, monkeypatch):
    model = pico_model("bert")
    source = saved(model, tmp_path / "dense")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(CheckpointError, match="in use"):
        stat_repro.compress_checkpoint(source, tmp_path / "used", pico_batches(model))

    def fail(self, **notes):
        raise OSError("disk full")

    monkeypatch.setattr(shard_writer.ShardWriter, "finish", fail)
    with pytest.raises(OSError, match="disk full"):
        stat_repro.compress_checkpoint(
            source, tmp_path / "pruned", pico_batches(model), ratio=0.3, device="cpu"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "used"]


def test_tensor_files_are_read_without_mapping(tmp_path):
    tensors = {
        "half": torch.randn(3, 5).bfloat16(),
        "none": torch.zeros(0, 7),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False, True]),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    entries = read_header(tmp_path / "x.safetensors")
    assert entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        again = entries[name].read()
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor)
    save_file({"mask": tensors["mask"]}, tmp_path / SINGLE_FILE)
    checkpoint = ShardedCheckpoint(tmp_path)
    with pytest.raises(TensorFileError, match="no floating point tensor"):
        _ = checkpoint.float_dtype


def test_the_command_prunes_a_folder_with_a_text(tmp_path, capsys):
    source = save_checkpoint(tmp_path / "llama", "llama_grouped")
    text = write_text(tmp_path / "text.txt", 400)
    arguments = [str(source), str(tmp_path / "pruned"), "--text", str(text), "--ratio", "0.3",
                 "--examples", "5", "--window", "16", "--batch-size", "2", "--device", "cpu",
                 "--spill", str(tmp_path), "--allocation", "uniform", "--round-to", "2",
                 "--seed", "1", "--dtype", "float64"]  # fmt: skip
    assert sharded.main(arguments) == 0
    told = capsys.readouterr().out
    assert "of the prunable MACs kept" in told
    assert "peak resident memory" in told
    plan = stat_repro.load_plan(tmp_path / "pruned")
    assert plan.details["allocation"] == "uniform"
    assert all(count % 2 == 0 for count in plan.neuron_counts)
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "pruned")
    batch = tokenizer(" ".join(WORDS[:4]), return_tensors="pt")
    assert torch.isfinite(model(input_ids=batch["input_ids"]).logits).all()
    shutil.rmtree(tmp_path / "pruned")
    assert sharded.main([*arguments, "--examples", "100"]) == 1
    assert "--examples: expected at most" in capsys.readouterr().err
    assert sharded.main([*arguments, "--window", "65"]) == 1
    assert "--window: expected at most 64 tokens, the model's" in capsys.readouterr().err
    assert sharded.main([*arguments, "--window", "64", "--examples", "2"]) == 0
