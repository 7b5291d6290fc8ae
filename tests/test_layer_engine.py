"""engine=layers: the same plan and weights as the usual path, one layer at a time."""

from pathlib import Path

import pytest
import torch
from pico_models import PICO_NAMES, pico_batches, pico_model
from pico_project import save_checkpoint, text_overrides
from pico_runs import compose_here
from safetensors.torch import load_file

import stat_repro
from stat_repro.calibration import layerwise, spill
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.capture import Reduction
from stat_repro.calibration.statistics import GramStatistics
from stat_repro.config import CalibrationConfig, ConfigError, PruningConfig, RunConfig, run_id
from stat_repro.methods import stat_layers
from stat_repro.models.adapter import adapter_for
from stat_repro.models.modes import LayerWeights
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache


def same_compression(mine, other):
    assert mine.plan == other.plan
    assert mine.report.site_errors == other.report.site_errors
    first, second = mine.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("ratio", [0.3, 0.6])
@pytest.mark.parametrize("name", PICO_NAMES)
def test_the_result_is_that_of_the_usual_path(name, ratio, tmp_path):
    model = pico_model(name)
    batches = pico_batches(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    # One group of all heads in every layer leaves no room for a floor at 0.6.
    options = {"ratio": ratio, "min_units": 0 if "multi_query" in name else 1}
    usual = stat_repro.compress(model, batches, **options)
    folder = None if ratio == 0.3 else tmp_path
    same_compression(
        stat_repro.compress(model, batches, engine="layers", spill=folder, **options), usual
    )
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize(
    "options",
    [
        {"authors_compat": True},
        {"allocation": "uniform", "ridge": 0.1},
        {"correction": "affine"},
        {"correction": "bias"},
        {"correction": "none", "round_to": 4},
    ],
)
def test_options_mean_the_same(options):
    model = pico_model("bert")
    batches = pico_batches(model)
    usual = stat_repro.compress(model, batches, ratio=0.4, **options)
    by_layers = stat_repro.compress(model, batches, ratio=0.4, engine="layers", **options)
    same_compression(by_layers, usual)


def test_a_pruned_model_and_half_precision_are_served():
    model = pico_model("llama_grouped", dtype=torch.bfloat16)
    batches = pico_batches(model)
    first = stat_repro.compress(model, batches, ratio=0.5, min_units=0)
    usual = stat_repro.compress(first.model, batches, ratio=0.3, min_units=0)
    by_layers = stat_repro.compress(first.model, batches, ratio=0.3, min_units=0, engine="layers")
    same_compression(by_layers, usual)


def test_only_one_layer_has_statistics_at_a_time(monkeypatch):
    """What earlier layers collected is gone when the next one is run."""
    model = pico_model("llama_grouped")
    alive = []

    class Counted(GramStatistics):
        def __del__(self):
            alive.remove(id(self))

    original = Reduction.finish

    def finish(self):
        assert not alive
        found = original(self)
        counted = {}
        for key, s in found.statistics.items():
            counted[key] = Counted(s.gram, s.tokens, s.dtype, s.sums)
            alive.append(id(counted[key]))
        return type(found)(counted, found.tokens, found.examples)

    monkeypatch.setattr(stat_layers.Reduction, "finish", finish)
    stat_repro.compress(model, pico_batches(model), ratio=0.3, engine="layers")
    assert not alive


def test_layers_see_what_transformers_gives_them():
    """Hidden states in front of every layer, windows of mixed kinds included, bit for bit."""
    model = pico_model("qwen2_mixed")
    batches = pico_batches(model, padding_side="left")
    adapter = adapter_for(model)
    seen = []
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args: seen.append(args[0])
        )
        for name in adapter.layer_names
    ]
    with torch.inference_mode():
        for batch in batches:
            model(**batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    store = spill.MemoryStore()
    passes = layerwise.LayerPasses(
        model, adapter, LayerWeights(), batches, store, torch.device("cpu")
    )
    passes.start()
    for layer in range(adapter.num_layers):
        for index in range(len(batches)):
            expected = seen[index * adapter.num_layers + layer]
            assert torch.equal(store.get(f"hidden-{index}")[0], expected)
        sites = [site for site in adapter.sites if site.layer == layer]
        passes.advance(layer, Reduction(sites, torch.device("cpu")), "test")


def test_files_give_back_what_was_put(tmp_path):
    store = spill.FileStore(tmp_path)
    tensors = [
        torch.randn(2, 3).bfloat16(),
        torch.arange(6).view(2, 3).T,
        torch.tensor([True, False]),
        torch.zeros(0, 4),
        torch.tensor(2.5, dtype=torch.float64),
    ]
    store.put("odd", tensors)
    again = store.get("odd")
    assert [t.dtype for t in again] == [t.dtype for t in tensors]
    assert all(torch.equal(a, b) for a, b in zip(again, tensors, strict=True))
    store.put("odd", tensors[:1])
    assert len(store.get("odd")) == 1


@pytest.mark.parametrize("columns", [1, 20, 400, 770])
def test_gram_matrices_survive_their_file(columns, tmp_path):
    rows = torch.randn(columns, columns, generator=torch.Generator().manual_seed(0)).double()
    gram = rows.T @ rows
    gram = gram.triu() + gram.triu(1).T
    for store in (spill.FileStore(tmp_path), spill.MemoryStore()):
        spill.put_gram(store, "gram", gram)
        assert torch.equal(spill.get_gram(store, "gram", columns, torch.device("cpu")), gram)
    files = [load_file(path).values() for path in tmp_path.iterdir()]
    written = sum(tensor.nbytes for tensors in files for tensor in tensors)
    assert written == spill.gram_file_bytes(columns)


def test_files_are_removed_after_errors(tmp_path, monkeypatch):
    model = pico_model("bert")

    def fail(*arguments):
        assert list(tmp_path.glob("stat_repro.*/gram-0-0.safetensors"))
        raise RuntimeError("stopped")

    monkeypatch.setattr(stat_layers.stat, "allocate", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        stat_repro.compress(model, pico_batches(model), engine="layers", spill=tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_little_room_is_told_before_the_work(tmp_path, monkeypatch):
    model = pico_model("bert")
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(stat_layers.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CalibrationError, match=r"free space .* got 0\.0 GB"):
        stat_repro.compress(model, pico_batches(model), engine="layers", spill=tmp_path)
    with pytest.raises(CalibrationError, match="existing folder"):
        stat_repro.compress(model, pico_batches(model), engine="layers", spill=tmp_path / "nowhere")
    monkeypatch.setattr(stat_layers.os, "access", lambda folder, mode: False)
    with pytest.raises(CalibrationError, match="expected a folder that can be written to"):
        stat_repro.compress(model, pico_batches(model), engine="layers", spill=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "layers", "method": "flap"}, r"pruning\.method=stat; got flap"),
        ({"engine": "layers", "statistics": "exact"}, r"statistics=gram; got exact"),
        ({"engine": "layers", "statistics": "sketch"}, r"statistics=gram; got sketch"),
        ({"engine": "blocks"}, "expected one of model, layers"),
        ({"spill": "somewhere"}, "expected engine=layers; got engine=model"),
    ],
)
def test_what_is_not_served_is_refused(options, message):
    model = pico_model("bert")
    with pytest.raises(ConfigError, match=message):
        stat_repro.compress(model, pico_batches(model), **options)


def test_statistics_that_would_not_be_read_are_refused():
    model = pico_model("bert")
    batches = pico_batches(model)
    calibration = stat_repro.calibrate(model, batches)
    with pytest.raises(CalibrationError, match="those of 6 sites"):
        stat_repro.compress(model, batches, calibration=calibration, engine="layers")


def test_the_configuration_has_the_engine():
    by_layers = RunConfig(calibration=CalibrationConfig(engine="layers"))
    assert run_id(by_layers) != run_id(RunConfig())
    with pytest.raises(ConfigError, match=r"calibration\.engine: expected one of model, layers"):
        CalibrationConfig(engine="both")
    with pytest.raises(ConfigError, match="engine=layers serves"):
        RunConfig(
            calibration=CalibrationConfig(engine="layers"), pruning=PruningConfig(method="random")
        )


def test_the_whole_program_runs_layer_by_layer(tmp_path: Path):
    checkpoint = save_checkpoint(tmp_path / "llama", "llama_grouped")
    arguments = [*text_overrides(tmp_path), f"model.path={checkpoint}", "ratio=0.3"]
    usual = run_experiment(compose_here(arguments), SweepCache())
    by_layers = run_experiment(
        compose_here([*arguments, "calibration.engine=layers"]), SweepCache()
    )
    same_compression(by_layers.compression, usual.compression)
    assert by_layers.record.metrics == usual.record.metrics
    timings = by_layers.record.timings
    stages = ("calibrate_s", "errors_s", "spill_s", "fold_ffn_s", "recalibrate_s", "fold_heads_s")
    assert sum(timings[key] for key in stages) <= timings["compress_s"]
