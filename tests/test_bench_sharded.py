"""The proof of flat memory on a tiny shape, and the estimate by hand-counted cases."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from test_build import build  # noqa: F401

from stat_repro import results
from stat_repro.bench import estimate, sharded
from stat_repro.bench.__main__ import main

TINY = ["sharded", "--layers", "2", "--width", "24", "--heads", "4", "--groups", "2",
        "--neurons", "40", "--vocabulary", "50", "--tokens", "70", "--window", "16",
        "--batch-size", "2", "--threads", "1", "--device", "cpu", "--dtype", "float32"]  # fmt: skip


def test_a_sharded_run_is_stored_and_shown(tmp_path, build):  # noqa: F811
    where = ["--work", str(tmp_path), "--results", str(tmp_path / "results")]
    assert main([*TINY, *where]) == 0
    (record,) = results.load_speed(tmp_path / "results")
    assert record.name == "sharded_24x40-n5x16-d2"
    assert record.memory["process_peak"] >= record.memory["process_start"] > 0
    assert record.memory["statistics"] == 8 * (24**2 + 40**2)
    assert record.memory["gram_files"] == 2 * 8 * 40**2
    layer = 2 * 24 * 24 + 2 * 24 * 12 + 3 * 24 * 40 + 2 * 24
    assert record.memory["parameters"] == 2 * (2 * layer + 2 * 50 * 24 + 24)
    seconds = {key: values[0] for key, values in record.seconds.items()}
    stages = ("calibrate_s", "errors_s", "spill_s", "allocate_s", "fold_ffn_s", "recalibrate_s",
              "fold_heads_s", "write_s")  # fmt: skip
    assert 0 < sum(seconds[key] for key in stages) <= seconds["compress_s"]
    assert record.protocol["compute_dtype"] == "float32"
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    shown = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert build.main([*shown, "--study", "speed"]) == 0
    assert "process_peak" in (tmp_path / "out" / "speed" / "table.md").read_text()


def test_the_checkpoint_is_one_that_transformers_loads(tmp_path):
    config = hf.LlamaConfig(
        hidden_size=24, num_attention_heads=4, intermediate_size=40, vocab_size=50,
        num_hidden_layers=2,
    )  # fmt: skip
    sharded.write_checkpoint(tmp_path, config, torch.bfloat16)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    model, report = hf.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype="auto", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model(input_ids=torch.arange(8)[None]).logits).all()


def test_a_failing_run_leaves_no_record(tmp_path):
    with pytest.raises(RuntimeError, match="ended with status 1"):
        main([*TINY, "--ratio", "0.999", "--work", str(tmp_path), "--results", str(tmp_path / "r")])
    assert not list(tmp_path.iterdir())


SMALL = estimate.DecoderShape("small", 2, 4, 6, 2, 1, 3)


def test_flops_of_a_forward_pass_by_hand():
    # Per token: q and o 2 * 4 * 6, k and v 2 * 4 * 3, FFN 3 * 4 * 6 multiply-adds; scores and sums
    # over 5 positions 2 * 5 * 6.
    per_token = 48 + 24 + 72 + 60
    assert estimate.forward_flops(SMALL, 10, 5, 6) == 2 * 10 * 2 * per_token
    assert estimate.forward_flops(SMALL, 10, 5, 3) == 2 * 10 * 2 * (per_token - 36)
    assert SMALL.layer_params == 48 + 24 + 72


def test_flops_of_the_forward_pass_are_those_of_the_modules():
    with torch.device("meta"):
        config = hf.LlamaConfig(
            hidden_size=4, num_attention_heads=2, num_key_value_heads=1, head_dim=3,
            intermediate_size=6, num_hidden_layers=2,
        )  # fmt: skip
        layer = hf.LlamaModel(config).layers[0]
    linears = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(m.weight.numel() for m in linears) == SMALL.layer_params


def test_flops_and_bytes_of_the_statistics_by_hand():
    # 400 columns: block rows of 384 and 16.
    entries = 384 * 400 + 16 * 16
    assert estimate.gram_flops(400, 10) == 2 * 10 * entries
    assert estimate.gram_bytes(400, 257) == 2 * 2 * 8 * entries
    assert estimate.cholesky_flops(6) == 72
    # k = 2 of F = 3 columns, D = 4 rows: 8/3 + 2*4*1*2 + 2*4*4 + two errors of 2*4*9.
    assert estimate.fold_flops(4, 3, 2) == pytest.approx(8 / 3 + 16 + 32 + 144)


def test_a_stage_takes_its_slowest_part():
    machine = estimate.Machine("m", half=1e3, double=100, memory=50, link=10, disk=1)
    stage = estimate.Stage("s", "", 1000.0, "double", {"memory": 30.0, "disk": 8.0})
    assert stage.seconds(machine) == pytest.approx(1000 / (100 * 0.5))
    stage = estimate.Stage("s", "", 1000.0, "double", {"disk": 80.0})
    assert stage.seconds(machine) == pytest.approx(80 / 0.8)
    stage = estimate.Stage("s", "", 1.0, "double", {}, launches=10**8)
    assert stage.seconds(machine) == pytest.approx(600)


def test_estimates_say_what_they_are(tmp_path, capsys):
    out = tmp_path / "estimate.md"
    assert main(["estimate", "--examples", "128", "--window", "2048", "--out", str(out)]) == 0
    text = out.read_text()
    assert text.count("estimate, not measured") == 2
    assert "128 x 2048 = 262,144 tokens" in text
    assert "in under three hours" in text
    assert "Nothing was run on a GPU" in text
    assert main(["estimate", "--model", "llama2_7b", "--ratio", "0.5"]) == 0
    assert "70B" not in capsys.readouterr().out


def test_shapes_are_those_of_the_configurations():
    """conf/model names the checkpoints; parameters of the layers are the published ones."""
    total = {name: s.layers * s.layer_params for name, s in estimate.MODELS.items()}
    assert round(total["llama2_7b"] / 1e9, 2) == 6.48
    assert round(total["llama2_70b"] / 1e9, 2) == 68.45
    models = Path(__file__).resolve().parents[1] / "conf" / "model"
    assert all((models / f"{name}.yaml").is_file() for name in estimate.MODELS)


def test_peak_memory_does_not_depend_on_depth(tmp_path):
    """A matrix of 15 MB per layer would show: it did, while glibc kept one for every layer."""
    shape = ["--width", "64", "--heads", "4", "--neurons", "1376", "--vocabulary", "50",
             "--tokens", "64", "--window", "32", "--threads", "1"]  # fmt: skip
    where = ["--work", str(tmp_path), "--results", str(tmp_path / "results")]
    assert main(["sharded", "--layers", "3", "14", *shape, *where]) == 0
    deep, flat = results.load_speed(tmp_path / "results")
    assert (flat.protocol["layers"], deep.protocol["layers"]) == (3, 14)
    assert deep.memory["process_peak"] < 1.05 * flat.memory["process_peak"]
