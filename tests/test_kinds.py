"""Pruning heads or neurons only, and STAT's pivots without scaling."""

import pytest
import torch
from pico_models import pico_batches, pico_model

import stat_repro
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.calibration.capture import collect_statistics
from stat_repro.config import ConfigError, PruningConfig
from stat_repro.linalg.pivoting import pivoted_cholesky
from stat_repro.methods.stat import analyses_of
from stat_repro.models.adapter import adapter_for


def compressed(method, kinds, **options):
    model = pico_model("bert", dtype=torch.float64)
    batches = [
        {**batch, "labels": torch.arange(len(batch["input_ids"])) % 2}
        for batch in pico_batches(model, count=3)
    ]
    result = stat_repro.compress(model, batches, ratio=0.25, method=method, kinds=kinds, **options)
    return adapter_for(model), result


@pytest.mark.parametrize("allocation", ["global", "uniform", "stat"])
@pytest.mark.parametrize("kinds", ["attention", "ffn"])
@pytest.mark.parametrize("method", ["stat", "stat_plus", "flap", "fisher", "magnitude"])
def test_the_other_kind_stays_whole_and_the_budget_is_kept(method, kinds, allocation):
    if (method, allocation) == ("stat", "stat"):
        return
    adapter, result = compressed(method, kinds, allocation=allocation)
    counts = {"attention": result.plan.head_counts, "ffn": result.plan.neuron_counts}
    for kind, found in counts.items():
        whole = tuple(site.units for site in adapter.of_kind(kind))
        assert (found == whole) == (kind != kinds)
    unit = adapter.of_kind(kinds)[0].unit_macs(result.report.sequence_length)
    dense, pruned = result.report.prunable_macs
    assert 0 <= 0.75 * dense - pruned + 1e-6 < unit
    assert result.plan.details["kinds"] == kinds


def test_a_kind_that_is_too_small_for_the_ratio_is_told():
    costs = UnitCosts(head=10.0, neuron=1.0, heads=(2, 2), neurons=(60, 60))
    budget = Budget(costs, 0.2, kinds="attention")
    assert (budget.open.total, budget.open.neurons) == (40.0, (0, 0))
    assert budget.share == pytest.approx(0.8)
    assert (Budget(costs, 0.2).open, Budget(costs, 0.2).share) == (costs, 0.2)
    with pytest.raises(BudgetError, match=r"expected a ratio below 0\.250, the attention share"):
        Budget(costs, 0.25, kinds="attention")


def test_pivots_without_scaling_are_those_of_the_activations():
    model = pico_model("bert", dtype=torch.float64)
    adapter = adapter_for(model)
    calibration = collect_statistics(model, adapter, pico_batches(model, count=3))
    orders = {}
    for scaling in ("consumer", "none"):
        config = PruningConfig(scaling=scaling)
        found = analyses_of(model, adapter, calibration, config)
        orders[scaling] = [found[site.key].order for site in adapter.of_kind("ffn")]
    for site, scaled, plain in zip(adapter.of_kind("ffn"), *orders.values(), strict=True):
        gram = calibration.statistics[site.layer, "ffn"].gram
        assert plain.tolist() == pivoted_cholesky(gram.clone()).order.tolist()
        assert plain.tolist() != scaled.tolist()


def test_options_of_another_method_and_unknown_kinds_are_refused():
    with pytest.raises(ConfigError, match=r"pruning.kinds: expected one of all, attention, ffn"):
        PruningConfig(kinds="heads")
    with pytest.raises(ConfigError, match=r"pruning\.scaling=none is an option of stat: expected"):
        PruningConfig(method="flap", scaling="none")
    with pytest.raises(ConfigError, match="kinds=all; got kinds=ffn"):
        PruningConfig(method="shortgpt", correction="none", min_units=0, kinds="ffn")
    with pytest.raises(ConfigError, match="kinds=all; got kinds=ffn"):
        PruningConfig(authors_compat=True, min_units=0, kinds="ffn")
