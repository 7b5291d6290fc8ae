"""Scores of the methods for units that are known."""

import pytest
import torch
from method_requests import request_for
from pico_labels import data_for
from pico_models import PICO_NAMES, pico_model

import stat_repro
from stat_repro.calibration.capture import collect_statistics
from stat_repro.linalg.units import unit_columns
from stat_repro.methods.baselines import (
    fluctuation_scores,
    leverage_scores,
    magnitude_scores,
    random_scores,
    wanda_scores,
)
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear


def test_random_units_follow_the_seed_and_nest():
    model = pico_model("bert")
    batches = data_for(model, 1)

    def kept(ratio, seed):
        plan = stat_repro.compress(model, batches, ratio=ratio, method="random", seed=seed).plan
        return [set(layer.kept_neurons) for layer in plan.layers]

    state = torch.get_rng_state()
    assert kept(0.4, 1) == kept(0.4, 1) != kept(0.4, 2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(less <= more for less, more in zip(kept(0.5, 1), kept(0.3, 1), strict=True))
    first = random_scores(request_for(model, seed=7))[0, "attention"]
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(first, torch.rand(4, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("name", PICO_NAMES)
def test_magnitude_counts_every_removed_weight(name):
    """The squared scores of a site add up to all its weights."""
    model = pico_model(name, dtype=torch.float64)
    scores = magnitude_scores(request_for(model))
    for site in adapter_for(model).sites:
        modules = [site.consumer, *(p.module for p in site.producers if not p.norm)]
        total = sum(linear(model, module).weight.detach().square().sum() for module in modules)
        torch.testing.assert_close(scores[site.layer, site.kind].square().sum(), total)


def test_magnitude_of_one_unit():
    model = pico_model("llama_grouped", dtype=torch.float64)
    scores = magnitude_scores(request_for(model))
    mlp, attention = model.model.layers[1].mlp, model.model.layers[1].self_attn
    neuron = [mlp.gate_proj.weight[3], mlp.up_proj.weight[3], mlp.down_proj.weight[:, 3]]
    group = [  # 6 query heads, 3 groups of 2, head dimension 6
        attention.q_proj.weight[12:24],
        attention.k_proj.weight[6:12],
        attention.v_proj.weight[6:12],
        attention.o_proj.weight[:, 12:24],
    ]
    for found, parts in ((scores[1, "ffn"][3], neuron), (scores[1, "attention"][1], group)):
        expected = torch.cat([part.detach().flatten() for part in parts]).norm()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "opt"])
def test_wanda_and_flap_scores_by_hand(name):
    model = pico_model(name, dtype=torch.float64)
    adapter = adapter_for(model)
    batches = data_for(model, 2)
    exact = collect_statistics(model, adapter, batches, statistics="exact")
    gram = collect_statistics(model, adapter, batches)
    wanda = wanda_scores(request_for(model, gram))
    flap = fluctuation_scores(request_for(model, gram))
    for site in adapter.sites:
        rows = exact.statistics[site.layer, site.kind].activations
        weight = linear(model, site.consumer).weight.detach()
        terms = (weight.abs() * rows.norm(dim=0)).sum(dim=0)
        column = rows.var(dim=0) * weight.norm(dim=0) ** 2
        column = (column - column.mean()) / column.std()
        for unit in range(site.units):
            own = slice(unit * site.width, (unit + 1) * site.width)
            torch.testing.assert_close(wanda[site.layer, site.kind][unit], terms[own].sum())
            torch.testing.assert_close(flap[site.layer, site.kind][unit], column[own].mean())


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_leverage_scores_by_hand(name):
    model = pico_model(name, dtype=torch.float64)
    adapter = adapter_for(model)
    batches = data_for(model, 2)
    exact = collect_statistics(model, adapter, batches, statistics="exact")
    gram = collect_statistics(model, adapter, batches)
    found, again = (leverage_scores(request_for(model, known), 0.1) for known in (gram, exact))
    for site in adapter.sites:
        rows = exact.statistics[site.layer, site.kind].activations
        rows = rows * linear(model, site.consumer).weight.detach().norm(dim=0)
        damping = 0.1 * rows.square().sum(dim=0).mean()
        values = torch.linalg.svdvals(rows) ** 2
        columns = (rows @ torch.linalg.inv(rows.T @ rows + damping * torch.eye(rows.shape[1]))).T
        columns = (columns * rows.T).sum(dim=1)
        expected = columns.view(site.units, site.width).sum(dim=1)
        key = (site.layer, site.kind)
        torch.testing.assert_close(found[key], expected)
        torch.testing.assert_close(again[key], expected)
        assert float(found[key].sum()) == pytest.approx(float((values / (values + damping)).sum()))


def test_flap_scores_of_a_site_without_fluctuation_are_zero():
    model = pico_model("bert", dtype=torch.float64)
    adapter = adapter_for(model)
    linear(model, adapter.site(1, "ffn").consumer).weight.data.zero_()
    calibration = collect_statistics(model, adapter, data_for(model))
    scores = fluctuation_scores(request_for(model, calibration))
    assert scores[1, "ffn"].tolist() == [0.0] * 20


def test_flap_replaces_units_by_their_mean_contribution():
    model = pico_model("bert", dtype=torch.float64)
    batches = data_for(model)
    adapter = adapter_for(model)
    result = stat_repro.compress(model, batches, ratio=0.4, method="flap")
    exact = collect_statistics(model, adapter, batches, statistics="exact")
    changed = 0
    for site in adapter.sites:
        old, new = (linear(m, site.consumer) for m in (model, result.model))
        kept = torch.tensor(result.plan.layers[site.layer].kept(site.kind))
        dropped = sorted(set(range(site.units)) - set(kept.tolist()))
        columns = unit_columns(torch.tensor(dropped, dtype=torch.int64), site.width)
        mean = exact.statistics[site.layer, site.kind].activations.mean(dim=0)
        expected = old.bias + old.weight[:, columns] @ mean[columns]
        torch.testing.assert_close(new.bias, expected)
        assert torch.equal(new.weight, old.weight[:, unit_columns(kept, site.width)])
        changed += bool(dropped)
    assert changed > 3
