"""The proof of flat memory, on a tiny shape."""

import pytest
import torch
import transformers as hf

from stat_repro import results
from stat_repro.bench import sharded
from stat_repro.bench.__main__ import main

TINY = ["sharded", "--layers", "2", "--width", "24", "--heads", "4", "--groups", "2",
        "--neurons", "40", "--vocabulary", "50", "--tokens", "70", "--window", "16",
        "--batch-size", "2", "--threads", "1", "--device", "cpu", "--dtype", "float32"]  # fmt: skip


def test_a_sharded_run_is_stored_and_shown(tmp_path, build):
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


def test_a_failing_run_leaves_no_record(tmp_path, capsys):
    where = ["--work", str(tmp_path), "--results", str(tmp_path / "r")]
    assert main([*TINY, "--ratio", "0.999", *where]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ratio=0.999 leaves")
    assert not list(tmp_path.iterdir())


def test_the_removed_estimate_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        main(["estimate"])
    assert "estimate" in capsys.readouterr().err


def test_peak_memory_does_not_depend_on_depth(tmp_path):
    """A matrix of 15 MB per layer would show: it did, while glibc kept one for every layer."""
    shape = ["--width", "64", "--heads", "4", "--neurons", "1376", "--vocabulary", "50",
             "--tokens", "64", "--window", "32", "--threads", "1"]  # fmt: skip
    where = ["--work", str(tmp_path), "--results", str(tmp_path / "results")]
    assert main(["sharded", "--layers", "3", "14", *shape, *where]) == 0
    deep, flat = results.load_speed(tmp_path / "results")
    assert (flat.protocol["layers"], deep.protocol["layers"]) == (3, 14)
    assert deep.memory["process_peak"] < 1.05 * flat.memory["process_peak"]
