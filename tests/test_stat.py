"""The method end to end on tiny models, against cases with a known answer."""

import pytest
import torch
from pico_duplicates import duplicate_heads, duplicate_neurons, logits
from pico_models import (
    PICO_NAMES,
    pico_batches,
    pico_model,
    pico_outputs,
)

import stat_repro
from stat_repro.config import PruningConfig
from stat_repro.methods.correction import fold_site
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear
from stat_repro.surgery.edit import temporarily_pruned


@pytest.mark.parametrize("name", PICO_NAMES)
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_realised_macs_meet_the_ratio(name, allocation):
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model)
    result = stat_repro.compress(model, batches, ratio=0.3, allocation=allocation)
    adapter = adapter_for(model)
    report = result.report
    neuron = adapter.of_kind("ffn")[0].unit_macs(report.sequence_length)
    assert report.prunable_macs[1] <= 0.7 * report.prunable_macs[0] + 1e-6
    assert report.prunable_macs[1] > 0.7 * report.prunable_macs[0] - neuron
    assert report.params[1] == result.model.num_parameters() < model.num_parameters()
    assert report.params[0] - report.params[1] == (
        report.prunable_params[0] - report.prunable_params[1]
    )
    assert min(result.plan.head_counts) >= 1
    assert min(result.plan.neuron_counts) >= 1
    assert bool(torch.isfinite(pico_outputs(result.model, batches[0])).all())


@pytest.mark.parametrize("name", PICO_NAMES)
def test_ratio_zero_gives_equal_logits(name):
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model)
    result = stat_repro.compress(model, batches, ratio=0.0)
    assert torch.equal(logits(result.model, batches[0]), logits(model, batches[0]))
    assert result.report.mac_kept_fraction == 1.0


@pytest.mark.parametrize("statistics", ["gram", "exact"])
@pytest.mark.parametrize("name", PICO_NAMES)
def test_duplicated_units_are_recovered_exactly(name, statistics):
    model = pico_model(name, dtype=torch.float64)
    duplicate_neurons(model)
    adapter = adapter_for(model)
    heads = adapter.of_kind("attention")[0].units
    if heads > 1:
        duplicate_heads(model)
    batches = pico_batches(model, count=4)
    calibration = stat_repro.calibrate(model, batches, statistics=statistics)
    edits = []
    for site in adapter.sites:
        weight = linear(model, site.consumer).weight.detach()
        found = calibration.statistics[site.layer, site.kind]
        if site.kind == "ffn":
            kept = found.pivot_columns(weight.norm(dim=0)).order[: site.units - site.units // 2]
        else:
            kept = found.pivot_units(site.width).order[: max(heads - 1, 1)]
        edit = fold_site(model, site, kept, calibration, PruningConfig())
        assert edit.relative_error < 1e-6
        edits.append(edit)
    with temporarily_pruned(model, edits):
        pruned = logits(model, batches[0])
    torch.testing.assert_close(pruned, logits(model, batches[0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "distilbert", "llama_grouped"])
def test_gram_and_exact_statistics_agree(name):
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model, count=6)
    gram = stat_repro.compress(model, batches, ratio=0.4)
    exact = stat_repro.compress(model, batches, ratio=0.4, statistics="exact")
    assert gram.plan.layers == exact.plan.layers
    for key, value in gram.model.state_dict().items():
        torch.testing.assert_close(value, exact.model.state_dict()[key], rtol=1e-6, atol=1e-8)


def test_correction_lowers_the_error_of_the_same_selection():
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model, count=4)
    corrected = stat_repro.compress(model, batches, ratio=0.4)
    selected = stat_repro.compress(model, batches, ratio=0.4, correction="none")
    assert corrected.plan.neuron_counts == selected.plan.neuron_counts
    for kind in ("ffn", "attention"):
        pairs = [
            (a.relative_error, b.relative_error)
            for a, b in zip(corrected.report.site_errors, selected.report.site_errors, strict=True)
            if a.kind == kind == b.kind and a.kept < a.units
        ]
        assert pairs
        assert sum(a for a, _ in pairs) < sum(b for _, b in pairs)


def test_site_errors_are_those_of_the_pruned_layer():
    """The first attention sees the same input in both models: compare what it puts out."""
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model, count=2)
    result = stat_repro.compress(model, batches, ratio=0.5)
    error = next(e for e in result.report.site_errors if e.kind == "attention" and e.layer == 0)
    assert error.kept < error.units
    mask = torch.cat([batch["attention_mask"].reshape(-1) for batch in batches]).bool()
    outputs = []
    for m in (model, result.model):
        seen = []
        dense = m.bert.encoder.layer[0].attention.output.dense
        handle = dense.register_forward_hook(lambda mod, args, out, seen=seen: seen.append(out))
        for batch in batches:
            logits(m, batch)
        handle.remove()
        rows = torch.cat([value.reshape(-1, value.shape[-1]) for value in seen])[mask]
        outputs.append(rows - dense.bias.detach())
    expected = (outputs[0] - outputs[1]).norm() / outputs[0].norm()
    assert error.relative_error == pytest.approx(float(expected), rel=1e-9)


def test_source_model_is_untouched_and_shares_nothing():
    model = pico_model("bert").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = stat_repro.compress(model, pico_batches(model), ratio=0.5)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for parameter in result.model.parameters():
        parameter.data.zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_same_input_gives_the_same_model():
    model = pico_model("llama_grouped")
    batches = pico_batches(model)
    first, second = (stat_repro.compress(model, batches, ratio=0.4) for _ in range(2))
    assert first.plan == second.plan
    states = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_shared_calibration_changes_nothing():
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model)
    shared = stat_repro.calibrate(model, batches)
    for ratio in (0.3, 0.6):
        alone = stat_repro.compress(model, batches, ratio=ratio)
        reused = stat_repro.compress(model, batches, ratio=ratio, calibration=shared)
        assert alone.plan == reused.plan
        assert torch.equal(logits(alone.model, batches[0]), logits(reused.model, batches[0]))


def test_pruned_models_can_be_pruned_again():
    model = pico_model("llama_grouped", dtype=torch.float64)
    batches = pico_batches(model)
    once = stat_repro.compress(model, batches, ratio=0.3)
    twice = stat_repro.compress(once.model, batches, ratio=0.3)
    assert twice.model.num_parameters() < once.model.num_parameters()
    assert bool(torch.isfinite(logits(twice.model, batches[0])).all())
