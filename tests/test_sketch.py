"""Random sketches: what they promise on average, and that they only depend on their seed."""

import pytest
import torch
from made_up_matrices import activations
from pico_models import pico_batches, pico_model

import stat_repro
from stat_repro import Sketch
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.capture import collect_statistics
from stat_repro.calibration.collectors import BUFFER_ROWS, SketchSum
from stat_repro.calibration.sketch import SKETCHES
from stat_repro.calibration.statistics import ActivationStatistics, GramStatistics
from stat_repro.models.adapter import Site, adapter_for


def site_of(columns, layer=0):
    return Site(layer, "ffn", columns, 1, (), "consumer", 1, 0, 1)


def sketched(a, sketch, cuts=(), layer=0):
    """Statistics of activations that come in parts."""
    collector = SketchSum(site_of(a.shape[1], layer), a.device, sketch)
    for part in torch.tensor_split(a, cuts):
        collector.add(part)
    return collector.finish()


@pytest.mark.parametrize("kind", SKETCHES)
def test_a_sketch_is_unbiased(kind):
    """The mean of (SA)^T SA over many S is A^T A; its error falls with the number of them."""
    a = activations(40, 5, decades=0.5)
    gram = a.T @ a
    found = [sketched(a, Sketch(kind, 20, seed)).activations for seed in range(400)]
    means = torch.stack([s.T @ s for s in found])
    off = (means.mean(0) - gram).abs()
    spread = means.std(0)
    assert float((off / (spread / 400**0.5)).max()) < 4.5
    assert float((spread / gram.diagonal().max()).max()) > 0.01  # it is random


@pytest.mark.parametrize("kind", SKETCHES)
def test_a_larger_sketch_is_a_better_one(kind):
    a = activations(2000, 12)
    gram = a.T @ a
    mean_errors = []
    for size in (50, 800):
        found = [sketched(a, Sketch(kind, size, seed)).activations for seed in range(20)]
        errors = [torch.linalg.matrix_norm(s.T @ s - gram) for s in found]
        mean_errors.append(float(torch.stack(errors).mean()))
    assert mean_errors[1] == pytest.approx(mean_errors[0] / 4, rel=0.25)  # as 1 / sqrt(size)


@pytest.mark.parametrize("kind", SKETCHES)
def test_how_rows_are_cut_into_batches_does_not_matter(kind):
    a = activations(3 * BUFFER_ROWS + 11, 6)
    whole = sketched(a, Sketch(kind, 16, 3))
    for cuts in ((1,), (BUFFER_ROWS,), (7, 8, 300, 300, 700)):
        assert torch.equal(sketched(a, Sketch(kind, 16, 3), cuts).activations, whole.activations)
    assert whole.tokens == len(a)
    assert not torch.equal(sketched(a, Sketch(kind, 16, 4)).activations, whole.activations)
    assert not torch.equal(sketched(a, Sketch(kind, 16, 3), layer=1).activations, whole.activations)


def test_a_count_sketch_adds_every_row_once_with_a_sign():
    a = torch.eye(30, dtype=torch.float64)
    found = sketched(a, Sketch("countsketch", 8)).activations
    assert found.abs().sum(0).tolist() == [1.0] * 30
    assert 0 < int((found < 0).sum()) < 30


@pytest.mark.parametrize("kind", SKETCHES)
def test_dependent_columns_are_rebuilt_exactly(kind):
    """What is exact for all tokens is exact for combinations of them, whatever S is."""
    a = activations(300, 5)
    doubled = torch.cat([a, 3.0 * a], dim=1)
    weight = torch.randn(4, 10, dtype=torch.float64)
    statistics = sketched(doubled, Sketch(kind, 40))
    order = statistics.pivot_columns(torch.ones(10)).order[:5]
    assert sorted((order % 5).tolist()) == list(range(5))
    folded = statistics.fold(weight, order, 0.0)
    torch.testing.assert_close(doubled[:, order] @ folded.T, doubled @ weight.T)


@pytest.mark.parametrize("kind", SKETCHES)
def test_choice_and_fit_are_nearly_those_of_the_activations(kind):
    a = activations(4000, 24)
    weight = torch.randn(6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = ActivationStatistics(a)
    statistics = sketched(a, Sketch(kind, 480))

    def loss(found):
        kept = found.pivot_columns(weight.norm(dim=0)).order[:12]
        difference = weight.clone()
        difference[:, kept] -= found.fold(weight, kept, 0.0)
        return exact.output_error(difference)

    assert loss(statistics) < 1.1 * loss(exact)
    gram = GramStatistics(a.T @ a, len(a))
    order = gram.pivot_units(4).order
    torch.testing.assert_close(
        statistics.removal_errors(order, weight, order, 4),
        gram.removal_errors(order, weight, order, 4),
        rtol=0.1,
        atol=1e-6,
    )


def test_noise_is_that_of_the_models_precision():
    """Float32 activations of exact rank 12: the float64 sketch does not make their noise real."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(400, 12, generator=generator)
    a = left @ torch.randn(12, 24, generator=generator)
    t = sketched(a, Sketch("gaussian", 100)).interpolation(torch.arange(20), 0.0)
    assert float(t.abs().max()) < 100


def test_sizes_and_what_is_collected():
    model = pico_model("bert")
    adapter, batches = adapter_for(model), pico_batches(model)
    default = collect_statistics(model, adapter, batches, statistics="sketch")
    assert {s.activations.shape for s in default.statistics.values()} == {(48, 24), (40, 20)}
    small = stat_repro.calibrate(model, batches, statistics="sketch", sketch=Sketch(size=7))
    assert {len(s.activations) for s in small.statistics.values()} == {7}
    assert {s.tokens for s in small.statistics.values()} == {small.tokens}
    with pytest.raises(CalibrationError, match="expected statistics=sketch; got gram"):
        collect_statistics(model, adapter, batches, sketch=Sketch())
    with pytest.raises(ValueError, match="gaussian, countsketch; got 'srht'"):
        Sketch("srht")
    with pytest.raises(ValueError, match="at least 1; got 0"):
        Sketch(size=0)


@pytest.mark.parametrize("kind", SKETCHES)
def test_both_passes_of_a_compression_use_the_sketch(kind):
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model)
    found = [
        stat_repro.compress(model, batches, ratio=0.4, statistics="sketch", sketch=Sketch(kind, s))
        for s in (48, 48, 30)
    ]
    assert found[0].report.site_errors == found[1].report.site_errors
    heads = [[e for e in f.report.site_errors if e.kind == "attention"] for f in found]
    assert heads[0] != heads[2]


def test_a_sketch_with_fewer_rows_than_columns_are_kept_is_refused():
    """Its errors are 0 from there on, so that allocation and fold believe in a perfect fit."""
    model, options = pico_model("bert"), {"statistics": "sketch", "ratio": 0.3}
    batches = pico_batches(model)
    with pytest.raises(CalibrationError, match=r"sketch size: expected more rows than the \d"):
        stat_repro.compress(model, batches, sketch=Sketch(size=4), **options)
    stat_repro.compress(model, batches, sketch=Sketch(size=400), **options)
