"""Checkpoints and options that cannot be pruned shard by shard, and what is said of them."""

import json
import shutil

import pytest
import torch
from pico_checkpoints import as_json, saved
from pico_models import pico_batches, pico_model
from safetensors.torch import load_file, save_file

import stat_repro
from stat_repro.calibration.batches import CalibrationError
from stat_repro.config import ConfigError
from stat_repro.models.loading import ModelLoadError
from stat_repro.models.projections import UnsupportedModelError
from stat_repro.models.tensor_files import INDEX_FILE, SINGLE_FILE, TensorFileError
from stat_repro.parallel import World
from stat_repro.sharded import __main__ as sharded
from stat_repro.sharded import compress


def without_tensor(folder):
    state = load_file(folder / SINGLE_FILE)
    del state["bert.encoder.layer.1.output.dense.weight"]
    save_file(state, folder / SINGLE_FILE)


def with_wrong_shape(folder):
    state = load_file(folder / SINGLE_FILE)
    state["bert.encoder.layer.1.output.dense.weight"] = torch.ones(3, 3)
    save_file(state, folder / SINGLE_FILE)


def cut_off(folder):
    path = folder / SINGLE_FILE
    path.write_bytes(path.read_bytes()[:-2000])


def no_safetensors(folder):
    (folder / SINGLE_FILE).write_bytes(b"not a file of tensors")


def unknown_type(folder):
    path = folder / SINGLE_FILE
    text = path.read_bytes()
    size = 8 + int.from_bytes(text[:8], "little")
    header = json.loads(text[8:size])
    header["odd"] = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [len(text) - size] * 2}
    header["odd"]["data_offsets"][1] += 4
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + text[size:] + bytes(4))


def no_type(folder):
    path = folder / SINGLE_FILE
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F8_"', 1))


def no_weights(folder):
    (folder / SINGLE_FILE).unlink()


def damaged_index(folder):
    (folder / INDEX_FILE).write_text('{"weights": 1}')


def wrong_index(folder):
    name = "bert.encoder.layer.1.output.dense.weight"
    (folder / INDEX_FILE).write_text(
        json.dumps({"weight_map": {name: SINGLE_FILE, "other": SINGLE_FILE}})
    )


def index_to_the_outside(folder):
    shutil.copyfile(folder / SINGLE_FILE, folder.parent / "outside.safetensors")
    places = dict.fromkeys(load_file(folder / SINGLE_FILE), "../outside.safetensors")
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": places}))


def deep_index(folder):
    (folder / INDEX_FILE).write_text('{"weight_map":' * 200_000)


def list_index(folder):
    (folder / INDEX_FILE).write_text("[1]")


def index_of_numbers(folder):
    (folder / INDEX_FILE).write_text('{"weight_map": {"a": 1}}')


def deep_config(folder):
    (folder / "config.json").write_text("[" * 200_000)


def list_config(folder):
    (folder / "config.json").write_text("[1]")


def binary_config(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def text_for_a_number(folder):
    config = as_json(folder / "config.json") | {"hidden_size": "many"}
    (folder / "config.json").write_text(json.dumps(config))


def no_config(folder):
    (folder / "config.json").unlink()


def other_architecture(folder):
    config = as_json(folder / "config.json") | {"architectures": ["BertForPreTraining"]}
    (folder / "config.json").write_text(json.dumps(config))


def quantised(folder):
    config = as_json(folder / "config.json")
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (without_tensor, TensorFileError, r"1 tensors of Bert.* missing \(first: .*layer\.1\.out"),
        (with_wrong_shape, TensorFileError, r"expected shape \(24, 20\); got \(3, 3\)"),
        (cut_off, TensorFileError, "expected a safetensors file; .*not fully covered"),
        (no_safetensors, TensorFileError, "expected a safetensors file"),
        (unknown_type, TensorFileError, "odd: expected a type among F64, F32.*; got F8_E4M3"),
        (no_type, TensorFileError, "expected a safetensors file; .*F8_"),
        (no_weights, TensorFileError, "got neither"),
        (damaged_index, TensorFileError, "with a weight_map"),
        (wrong_index, TensorFileError, r"1 tensors are not where it says \(first: other in"),
        (index_to_the_outside, TensorFileError, "files beside it; got '../outside.safetensors'"),
        (deep_index, TensorFileError, "expected JSON with a weight_map; RecursionError"),
        (list_index, TensorFileError, "expected JSON with a weight_map"),
        (index_of_numbers, TensorFileError, "expected names of files beside it; got 1"),
        (
            deep_config,
            ModelLoadError,
            "config.json: expected a JSON object; got: maximum",
        ),
        (list_config, ModelLoadError, "config.json: expected a JSON object; got a list"),
        (binary_config, ModelLoadError, "config.json: expected a JSON object; got: 'utf-8' codec"),
        (text_for_a_number, ModelLoadError, "cannot be loaded as configuration: .*hidden_size"),
        (no_config, ModelLoadError, "config.json: expected a JSON object; got: No such file"),
        (other_architecture, UnsupportedModelError, "BertForPreTraining; supported: .*BertModel"),
        (quantised, UnsupportedModelError, "quantised"),
    ],
)
def test_unusable_checkpoints_are_named(damage, error, message, tmp_path):
    model = pico_model("bert")
    source = saved(model, tmp_path / "dense")
    damage(source)
    with pytest.raises(error, match=message):
        stat_repro.compress_checkpoint(
            source, tmp_path / "pruned", pico_batches(model), ratio=0.3, device="cpu"
        )
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": 1.5}, ConfigError, "share of the MACs removed"),
        ({"round_to": 0}, ConfigError, "round_to"),
        ({"method": "flap"}, ConfigError, r"engine=layers serves pruning\.method=stat"),
        ({"dtype": "int8"}, ConfigError, "dtype: expected one of float32"),
        ({"rigde": 1}, ConfigError, "unknown options rigde"),
        ({"spill": "nowhere"}, CalibrationError, "existing folder"),
    ],
)
def test_unusable_options_are_refused(options, error, message, tmp_path):
    model = pico_model("bert")
    source = saved(model, tmp_path / "dense")
    with pytest.raises(error, match=message):
        stat_repro.compress_checkpoint(
            source, tmp_path / "pruned", pico_batches(model), **{"device": "cpu", **options}
        )
    assert not (tmp_path / "pruned").exists()


def test_several_processes_are_refused(tmp_path, monkeypatch, capsys):
    """Each would prune all of it, into the same folder."""
    model = pico_model("bert")
    source, pruned = saved(model, tmp_path / "dense"), tmp_path / "pruned"
    (tmp_path / "short.txt").write_text("few words")
    arguments = [str(source), str(pruned), "--text", str(tmp_path / "short.txt")]
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert sharded.main(arguments) == 1
    assert "error: WORLD_SIZE: expected what torchrun sets" in capsys.readouterr().err
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    assert sharded.main(arguments) == 1
    assert "expected one process; got 2, as torchrun starts them" in capsys.readouterr().err
    monkeypatch.setattr(compress, "world", lambda: World(0, 3))
    with pytest.raises(ConfigError, match="expected one process; got 3"):
        stat_repro.compress_checkpoint(source, pruned, pico_batches(model))
    assert not pruned.exists()
