"""What a consumer takes over from the removed units, against cases with a known answer."""

import pytest
import torch
from pico_models import pico_batches, pico_model
from torch import nn

import stat_repro
from stat_repro.calibration.capture import Calibration, collect_statistics
from stat_repro.calibration.statistics import ActivationStatistics, GramStatistics
from stat_repro.config import CORRECTIONS, PruningConfig
from stat_repro.linalg.pivoting import LinAlgInputError
from stat_repro.methods.correction import fold_site
from stat_repro.models.adapter import Site, adapter_for
from stat_repro.models.projections import linear

KINDS = ("gram", "exact")


def statistics_of(a, kind):
    if kind == "exact":
        return ActivationStatistics(a)
    wide = a.double()
    return GramStatistics(wide.T @ wide, len(a), a.dtype, wide.sum(dim=0))


def activations(n=60, columns=6, seed=0, mean=2.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, columns, generator=generator, dtype=torch.float64) + mean


class OneSite(nn.Module):
    """A consumer alone, with a site that reads it."""

    def __init__(self, columns, width=1, bias=True, dtype=torch.float64):
        super().__init__()
        self.consumer = nn.Linear(columns, 4, bias=bias, dtype=dtype)
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
        self.site = Site(0, "ffn", columns // width, width, (), "consumer", 1, 0, 1)


def folded(model, a, kept, kind="gram", **options):
    """Output of the new consumer on the kept columns, and the error told."""
    calibration = Calibration({(0, "ffn"): statistics_of(a, kind)}, len(a), 1)
    config = PruningConfig(**options)
    edit = fold_site(model, model.site, torch.tensor(kept, dtype=torch.int64), calibration, config)
    columns = [u * model.site.width + i for u in sorted(kept) for i in range(model.site.width)]
    bias = model.consumer.bias if edit.consumer_bias is None else edit.consumer_bias
    output = nn.functional.linear(a[:, columns], edit.consumer_weight, bias)
    return output.detach(), edit.relative_error, edit


def dense_output(model, a):
    return model.consumer(a).detach()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_means_spreads_and_constants(kind, dtype):
    a = activations().to(dtype)
    a[:, 2] = 0.1  # no binary fraction: its sums round
    a[:, 3] = 0.0
    found = statistics_of(a, kind)
    wide = a.double()
    torch.testing.assert_close(found.mean, wide.mean(dim=0))
    torch.testing.assert_close(found.square_sums, wide.square().sum(dim=0))
    centred = found.centred()
    rest = wide - wide.mean(dim=0)
    live = [0, 1, 4, 5]
    torch.testing.assert_close(centred.square_sums[live], rest.square().sum(dim=0)[live])
    assert centred.square_sums[[2, 3]].tolist() == [0.0, 0.0]
    torch.testing.assert_close(
        centred.interpolation(torch.tensor([0, 1]), 0.0)[:, 4],
        torch.linalg.lstsq(rest[:, [0, 1]], rest[:, 4]).solution,
    )
    assert centred.dtype == found.dtype == dtype


def test_the_streamed_means_are_those_of_the_stored_activations():
    model = pico_model("opt", dtype=torch.float64)
    batches = pico_batches(model)
    gram = collect_statistics(model, adapter_for(model), batches)
    exact = collect_statistics(model, adapter_for(model), batches, statistics="exact")
    for key, statistics in gram.statistics.items():
        torch.testing.assert_close(statistics.mean, exact.statistics[key].mean)


def test_a_gram_matrix_alone_has_no_means():
    with pytest.raises(LinAlgInputError, match="column sums"):
        _ = GramStatistics(torch.eye(2, dtype=torch.float64), 3).mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_affine_recovers_constants_and_affine_functions_exactly(kind, bias):
    a = activations()
    a[:, 1] = 3.7
    a[:, 3] = 2.0 * a[:, 0] - a[:, 2] + 5.0
    model = OneSite(6, bias=bias)
    output, error, edit = folded(model, a, [0, 2, 4, 5], kind, correction="affine")
    torch.testing.assert_close(output, dense_output(model, a), rtol=1e-9, atol=1e-9)
    assert error < 1e-7
    assert edit.consumer_bias is not None
    _, without_constant, _ = folded(model, a, [0, 2, 4, 5], kind, correction="lstsq")
    assert without_constant > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_affine_keeps_a_constant_column_and_an_empty_site(kind):
    a = activations().float()
    a[:, 1] = 0.1
    model = OneSite(6, dtype=torch.float32)
    _, _, edit = folded(model, a, [0, 1], kind, correction="affine")
    assert float(edit.consumer_weight.abs().max()) < 100  # rounding noise is not fitted
    output, _, edit = folded(model, a, [], kind, correction="affine")
    assert edit.consumer_weight.shape == (4, 0)
    mean = dense_output(model, a.double().mean(dim=0).float()[None])
    torch.testing.assert_close(output[:1], mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_bias_compensation_is_the_mean_contribution(kind, bias):
    a = activations()
    model = OneSite(6, bias=bias)
    _, _, edit = folded(model, a, [5, 0, 3], kind, correction="bias")
    weight = model.consumer.weight.detach()
    expected = a.mean(dim=0)[[1, 2, 4]] @ weight[:, [1, 2, 4]].T
    if bias:
        expected = expected + model.consumer.bias.detach()
    torch.testing.assert_close(edit.consumer_bias, expected)
    assert torch.equal(edit.consumer_weight, weight[:, [0, 3, 5]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 2])
def test_scales_are_the_least_squares_factors(kind, width):
    a = activations(mean=0.5)
    model = OneSite(6, width)
    kept = [0, 2] if width == 2 else [0, 2, 3, 5]
    _, _, edit = folded(model, a, kept, kind, correction="scale")
    weight = model.consumer.weight.detach()
    parts = [
        (a[:, u * width : (u + 1) * width] @ weight[:, u * width : (u + 1) * width].T).flatten()
        for u in kept
    ]
    target = (a @ weight.T).flatten()[:, None]
    factors = torch.linalg.lstsq(torch.stack(parts, dim=1), target).solution[:, 0]
    columns = [u * width + i for u in kept for i in range(width)]
    expected = weight[:, columns] * factors.repeat_interleave(width)
    torch.testing.assert_close(edit.consumer_weight, expected)


def test_scales_of_units_that_add_nothing_stay_one_and_a_ridge_draws_to_one():
    a = activations(mean=0.5)
    a[:, 3] = 0.0
    model = OneSite(6)
    _, _, edit = folded(model, a, [0, 3], correction="scale")
    weight = model.consumer.weight.detach()
    torch.testing.assert_close(edit.consumer_weight[:, 1], weight[:, 3])
    _, _, damped = folded(model, a, [0, 3], correction="scale", ridge=1e9)
    torch.testing.assert_close(damped.consumer_weight, weight[:, [0, 3]])


def test_a_wild_factor_leaves_the_site_as_it_is(caplog):
    a = activations(mean=0.0)
    a[:, 1] = 100 * a[:, 0]
    model = OneSite(6)
    model.consumer.weight.data[:, 1] = model.consumer.weight.data[:, 0]
    _, _, edit = folded(model, a, [0], correction="scale")
    assert "keeps its scale" in caplog.text
    assert torch.equal(edit.consumer_weight, model.consumer.weight.detach()[:, [0]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("kept", [[], [1], [0, 2]])
def test_the_error_told_is_the_realised_one(kind, correction, kept):
    a = activations()
    model = OneSite(6, width=2)
    output, error, _ = folded(model, a, kept, kind, correction=correction)
    difference = output - dense_output(model, a)
    energy = (dense_output(model, a) - model.consumer.bias.detach()).norm()
    assert error == pytest.approx(float(difference.norm() / energy), rel=1e-9)


def test_each_correction_is_at_least_as_good_as_what_it_contains():
    a = activations()
    model = OneSite(6)
    error = {c: folded(model, a, [0, 2], correction=c)[1] for c in CORRECTIONS}
    assert error["affine"] < min(error["lstsq"], error["bias"])
    assert error["lstsq"] < error["scale"] < error["none"]
    assert error["bias"] < error["none"]


def test_a_correction_without_statistics_is_refused():
    model = OneSite(6)
    empty = Calibration({}, 1, 1)
    kept = torch.tensor([0])
    edit = fold_site(model, model.site, kept, empty, PruningConfig(correction="none"))
    assert edit.relative_error is None
    assert edit.kept == (0,)
    with pytest.raises(ValueError, match="correction=lstsq needs its statistics"):
        fold_site(model, model.site, kept, empty, PruningConfig())


@pytest.mark.parametrize("correction", ["bias", "affine"])
def test_bias_free_models_get_output_biases_that_are_saved(correction, tmp_path):
    model = pico_model("llama_grouped", dtype=torch.float64)
    batches = pico_batches(model)
    result = stat_repro.compress(model, batches, ratio=0.4, method="flap", correction=correction)
    site = adapter_for(result.model).site(0, "ffn")
    assert linear(model, site.consumer).bias is None
    assert float(linear(result.model, site.consumer).bias.detach().abs().max()) > 0
    result.model.save_pretrained(tmp_path)
    loaded = type(result.model).from_pretrained(tmp_path, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(loaded(**batches[0]).logits, result.model(**batches[0]).logits)
