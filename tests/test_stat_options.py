"""Options of the method, its refusals, and what runs share."""

import functools
import re

import pytest
import torch
from pico_duplicates import logits
from pico_models import (
    PICO_CONFIGS,
    pico_batches,
    pico_model,
    random_plan,
    selection_edits,
)
from transformers import BertForPreTraining

import stat_repro
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.ranking import proportional_splits
from stat_repro.config import ConfigError
from stat_repro.linalg.pivoting import LinAlgInputError
from stat_repro.methods import stat
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import UnsupportedModelError, linear
from stat_repro.surgery.edit import prune_model


def test_layers_of_different_sizes_are_refused_by_the_authors_allocation():
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model)
    once = stat_repro.compress(model, batches, ratio=0.4).model
    with pytest.raises(BudgetError, match="layers of one size"):
        stat_repro.compress(once, batches, ratio=0.2, authors_compat=True)


def test_a_budget_that_cannot_be_used_up_is_not_refused():
    """One head costs more than all neurons: what is left over stays unused."""
    model = pico_model("llama_multi_query", dtype=torch.float64)
    adapter = adapter_for(model)
    length = 5.0
    head = adapter.of_kind("attention")[0].unit_macs(length)
    neurons = sum(s.units * s.unit_macs(length) for s in adapter.of_kind("ffn"))
    costs = UnitCosts(head=head + neurons, neuron=1.0, heads=(1, 1), neurons=(5, 5))
    assert proportional_splits(Budget(costs, 0.2)) == [(1, 10)]


def test_non_finite_weights_name_the_site():
    model = pico_model("bert")
    linear(model, "bert.encoder.layer.2.output.dense").weight.data[0, 0] = float("nan")
    with pytest.raises(LinAlgInputError, match=r"layer 2 ffn .*expected finite values; got 1"):
        stat_repro.compress(model, pico_batches(model))


def test_an_unknown_task_head_is_refused_before_the_work(monkeypatch):
    model = BertForPreTraining(PICO_CONFIGS["bert"])
    monkeypatch.setattr("stat_repro.api.calibrate", lambda *a, **k: pytest.fail("calibrated"))
    with pytest.raises(UnsupportedModelError, match="no pruned form of BertForPreTraining"):
        stat_repro.compress(model, pico_batches(model))


@pytest.mark.parametrize("gone", ["attention", "ffn"])
@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_a_model_that_lost_one_kind_entirely_can_be_pruned_further(name, gone):
    model = pico_model(name, dtype=torch.float64)
    plan = random_plan(model, empty=[(layer, gone) for layer in range(3)])
    emptied = prune_model(model, plan, selection_edits(model, plan))
    batches = pico_batches(model)
    for allocation in ("global", "uniform"):
        result = stat_repro.compress(
            emptied, batches, ratio=0.4, allocation=allocation, min_units=0
        )
        assert result.report.mac_kept_fraction <= 0.6 + 1e-9
        assert bool(torch.isfinite(logits(result.model, batches[0])).all())


def test_floor_of_units():
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model)
    result = stat_repro.compress(model, batches, ratio=0.6, min_units=2)
    assert min(result.plan.head_counts + result.plan.neuron_counts) >= 2
    with pytest.raises(BudgetError, match="min_units=20"):
        stat_repro.compress(model, batches, ratio=0.6, min_units=20)


def test_ridge_shrinks_the_correction():
    model = pico_model("bert", dtype=torch.float64)
    batches = pico_batches(model, count=1)  # 36 tokens at most: an ill-posed fit
    plain = stat_repro.compress(model, batches, ratio=0.5)
    damped = stat_repro.compress(model, batches, ratio=0.5, ridge=1.0)

    def norm(result):
        layers = result.model.bert.encoder.layer
        return sum(float(layer.output.dense.weight.detach().norm()) for layer in layers)

    assert norm(damped) < norm(plain)


def test_too_few_tokens_are_told_with_the_layer(caplog):
    model = pico_model("bert", dtype=torch.float64)
    batch = {"input_ids": torch.arange(2, 8)[None]}
    result = stat_repro.compress(model, [batch], ratio=0.3)
    assert "6 calibration tokens are fewer than the neurons kept" in caplog.text
    assert re.search(r"first: layer \d ffn", caplog.text)
    assert bool(torch.isfinite(logits(result.model, batch)).all())


def test_bfloat16_model_is_calibrated_and_stays_bfloat16():
    model = pico_model("llama_grouped", dtype=torch.bfloat16)
    batches = pico_batches(model)
    result = stat_repro.compress(model, batches, ratio=0.3)
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert bool(torch.isfinite(logits(result.model, batches[0])).all())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": 1.0}, ConfigError, "0 <= ratio < 1"),
        ({"ratio": -0.1}, ConfigError, "0 <= ratio < 1"),
        ({"alocation": "global"}, ConfigError, "unknown options alocation; valid: allocation"),
        ({"method": "magic"}, ConfigError, "expected one of stat, stat_plus, random"),
        ({"authors_compat": True, "allocation": "uniform"}, ConfigError, "allocation=global"),
        ({"authors_compat": True, "min_units": 1}, ConfigError, "min_units=0"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    model = pico_model("bert")
    with pytest.raises(error, match=message):
        stat_repro.compress(model, pico_batches(model), **options)


def test_decoder_quirks_and_foreign_models_are_refused():
    model = pico_model("bert")
    llama = pico_model("llama_grouped")
    with pytest.raises(ConfigError, match="decoder"):
        stat_repro.compress(llama, pico_batches(llama), authors_compat=True)
    with pytest.raises(UnsupportedModelError, match=r"expected one of bert, .*llama, "):
        stat_repro.compress(torch.nn.Linear(2, 2), pico_batches(model))


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_ratios_that_share_a_calibration_find_what_separate_runs_find(name, monkeypatch):
    model = pico_model(name)
    batches = pico_batches(model)
    analyses = []
    original = stat.analyses_of
    monkeypatch.setattr(stat, "analyses_of", lambda *a: analyses.append(1) or original(*a))
    ratios = (0.2, 0.4, 0.5)
    calibration = stat_repro.calibrate(model, batches)
    shared = [stat_repro.compress(model, batches, ratio=r, calibration=calibration) for r in ratios]
    assert len(analyses) == 1
    alone = [stat_repro.compress(model, batches, ratio=r) for r in ratios]
    assert len(analyses) == 1 + len(ratios)
    for mine, other in zip(shared, alone, strict=True):
        assert mine.plan == other.plan
        assert mine.report.site_errors == other.report.site_errors
        first, second = mine.model.state_dict(), other.model.state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
    # The time of every point counts the analysis, the time that passed does not.
    timings = [result.report.timings for result in shared]
    assert {t["errors_s"] for t in timings} == {timings[0]["errors_s"]}
    assert [t["shared_s"] for t in timings] == [0.0] + 2 * [timings[0]["errors_s"]]


def test_an_analysis_with_other_options_is_not_shared():
    model = pico_model("bert")
    batches = pico_batches(model)
    calibration = stat_repro.calibrate(model, batches)
    compress = functools.partial(stat_repro.compress, model, batches, ratio=0.4)
    for options in ({}, {"authors_compat": True}, {"allocation": "uniform"}, {"ridge": 0.1}):
        shared, alone = compress(calibration=calibration, **options), compress(**options)
        assert shared.plan == alone.plan
        assert shared.report.site_errors == alone.report.site_errors
