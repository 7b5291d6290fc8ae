"""Inputs at the edge of what the core takes: they are refused in one sentence, or right."""

import pytest
import torch
from pico_models import pico_batches, pico_model, random_plan, selection_edits

from stat_repro import Sketch, calibrate, compress
from stat_repro.allocation.costs import prunable_costs
from stat_repro.allocation.latency import LatencyTable
from stat_repro.calibration.batches import CalibrationError
from stat_repro.config import ConfigError
from stat_repro.cost import latency_table
from stat_repro.models.adapter import adapter_for
from stat_repro.surgery.edit import prune_model


@pytest.mark.parametrize("empty", [(), ((1, "ffn"),)])
def test_latencies_of_layers_with_different_sizes_add_up(empty, monkeypatch):
    """Where the time is that of the MACs, the table gives it for the sizes that the layers have."""
    model = pico_model("bert")
    plan = random_plan(model, seed=3, whole=[(0, "ffn"), (0, "attention")], empty=empty)
    for one in (model, prune_model(model, plan, selection_edits(model, plan))):
        adapter = adapter_for(one)

        def seconds(works, device, warmup, repeats, adapter=adapter, one=one):
            return [[prunable_costs(adapter_for(one), 5).macs + 1000.0] * repeats]

        monkeypatch.setattr(latency_table, "time_in_turns", seconds)
        times = latency_table._measured(one, {}, 1)
        table = LatencyTable(*(tuple(times[kind]) for kind in ("attention", "ffn")), 1.0)
        sizes = [[site.units for site in adapter.of_kind(kind)] for kind in ("attention", "ffn")]
        assert table.seconds(*sizes) == pytest.approx(prunable_costs(adapter, 5).macs)


def test_a_calibration_of_other_statistics_is_refused():
    model = pico_model("bert")
    batches = pico_batches(model)
    sketch = Sketch(size=30, seed=1)
    made = calibrate(model, batches, statistics="sketch", sketch=sketch)
    again = compress(model, batches, statistics="sketch", sketch=sketch, calibration=made)
    assert again.plan == compress(model, batches, statistics="sketch", sketch=sketch).plan
    for options in ({}, {"statistics": "sketch", "sketch": Sketch(size=30, seed=2)}):
        with pytest.raises(CalibrationError, match=r"expected statistics=.*; got sketch Sketch"):
            compress(model, batches, calibration=made, **options)
    gram = calibrate(model, batches)
    with pytest.raises(CalibrationError, match=r"expected statistics=sketch .*; got gram; choose"):
        compress(model, batches, statistics="sketch", sketch=sketch, calibration=gram)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": -50.0}, "sequence_length: expected a value of more than 0; got -50"),
        ({"sequence_length": float("nan")}, "sequence_length: expected a finite value of more"),
        ({"sequence_length": float("inf")}, "sequence_length: expected a finite value of more"),
        ({"round_to": 2.5}, "round_to: expected an integer; got 2.5"),
        ({"min_units": 2.5}, "min_units: expected an integer; got 2.5"),
        ({"ridge": float("inf")}, "ridge: expected a finite value of at least 0; got inf"),
        ({"ridge": "0.1"}, "pruning.ridge: expected a number; got '0.1'"),
        ({"ridge": None}, "pruning.ridge: expected a number; got None"),
        ({"neuron_mac_share": "0.5"}, "neuron_mac_share: expected a number; got '0.5'"),
        ({"sequence_length": "9"}, "^sequence_length: expected a number; got '9'"),
        ({"ratio": "0.5"}, "^ratio: expected a number; got '0.5'"),
        ({"ratio": None}, "^ratio: expected a number; got None"),
        # A text that says no counted as yes.
        ({"authors_compat": "false"}, "authors_compat: expected true or false; got 'false'"),
        ({"method": "stat_plus", "refit": "no"}, "pruning.refit: expected true or false; got 'no'"),
    ],
)
def test_numbers_that_cannot_be(options, message):
    model = pico_model("bert")
    with pytest.raises(ConfigError, match=message):
        compress(model, pico_batches(model), **options)


@pytest.mark.parametrize("name", ["bert", "gpt2", "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_that_are_constant_can_be_refitted(name, dtype):
    model = pico_model(name, dtype=dtype)
    site = adapter_for(model).of_kind("ffn")[1]
    producer = model.get_submodule(site.producers[0].module)
    with torch.no_grad():
        producer.weight.zero_()
        producer.bias.normal_()
    for count in (1, 2, 6):
        result = compress(model, pico_batches(model, count=count), method="stat_plus", ratio=0.3)
        assert all(bool(torch.isfinite(p).all()) for p in result.model.parameters())


def test_batches_may_be_transposed():
    model = pico_model("bert")
    batches = pico_batches(model)
    columns = [{k: v.T.contiguous().T for k, v in batch.items()} for batch in batches]
    assert not columns[0]["input_ids"].is_contiguous()
    assert compress(model, columns).plan == compress(model, batches).plan


def test_calibrate_knows_the_engines_too():
    model = pico_model("bert")
    with pytest.raises(ConfigError, match=r"^engine: expected one of model, layers; got 'layer'"):
        calibrate(model, pico_batches(model), engine="layer")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "stat_plus", "curvature": "fisher"},
        {"method": "random"},
        {"statistics": "sketch"},
        {"engine": "layers"},
    ],
)
def test_another_default_device_changes_nothing(options):
    """As torch.set_default_device("cuda") is, from which generators of the CPU made no numbers."""
    model = pico_model("bert")
    batches = pico_batches(model)
    wanted = compress(model, batches, **options)
    with torch.device("meta"):
        got = compress(model, batches, **options)
    assert got.plan == wanted.plan
    for name, tensor in got.model.state_dict().items():
        assert torch.equal(tensor, wanted.model.state_dict()[name]), name
