"""Neurons in whole steps: multiples, budget, floors, determinism, and the whole way to a model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pico_models import REPRESENTATIVES, pico_batches, pico_model
from pico_project import sentence_overrides
from pico_runs import compose_here

from stat_repro.allocation.allocate import Sizes, allocate_global, allocate_uniform
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.rounding import round_neurons
from stat_repro.allocation.scores import UnitErrors
from stat_repro.api import compress
from stat_repro.config import ConfigError
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache

HEADS = 6
HEAD, NEURON = 100.0, 17.0


@st.composite
def problems(draw, step=1):
    """An allocation of layers of different widths, and how it is to be rounded."""
    widths = st.integers(1, 90 if step == 1 else 5).map(lambda n: step * n)
    units = draw(st.lists(widths, min_size=1, max_size=6))
    random = np.random.RandomState(draw(st.integers(0, 10_000)))
    scores = tuple(np.sort(random.rand(n) + 0.01)[::-1] for n in units)
    errors = UnitErrors(
        heads=tuple(np.sort(random.rand(HEADS))[::-1] for _ in units),
        neurons=scores,
        neuron_tails=tuple(np.append(s, 0.0) for s in scores),
    )
    costs = UnitCosts(HEAD, NEURON, (HEADS,) * len(units), tuple(units))
    ratio = draw(st.floats(0.0, 0.6))
    min_units = draw(st.integers(0, 3))
    round_to = draw(st.sampled_from([2, 3, 8, 16]))
    try:
        if draw(st.booleans()):
            sizes = allocate_uniform(errors, Budget(costs, ratio, min_units))
        else:
            sizes = allocate_global(errors, Budget(costs, ratio, min_units), 2.0)
    except BudgetError:
        sizes = Sizes(heads=(HEADS,) * len(units), neurons=tuple(units))
        ratio = 0.0
    return sizes, scores, Budget(costs, ratio, min_units), round_to


def spent(sizes):
    return sum(sizes.heads) * HEAD + sum(sizes.neurons) * NEURON


def next_steps(sizes, costs, round_to):
    """Neurons that each layer would get with one step more."""
    pairs = zip(sizes.neurons, costs.neurons, strict=True)
    return [min(n - k, round_to - k % round_to) for k, n in pairs if k < n]


@given(problems())
@settings(max_examples=200, deadline=None)
def test_multiples_within_the_budget_as_full_as_steps_allow(problem):
    sizes, _, given_budget, round_to = problem
    costs, min_units = given_budget.costs, given_budget.min_units
    budget = (1 - given_budget.ratio) * costs.total
    try:
        rounded = round_neurons(*problem)
    except BudgetError:
        floor = sum(min(n, -(-min_units // round_to) * round_to) for n in costs.neurons)
        assert sum(sizes.heads) * HEAD + floor * NEURON > budget
        return
    assert rounded.heads == sizes.heads
    for kept, units in zip(rounded.neurons, costs.neurons, strict=True):
        assert kept % round_to == 0 or kept == units
        assert min(units, -(-min_units // round_to) * round_to) <= kept <= units
    assert spent(rounded) <= budget + 1e-6
    assert all(spent(rounded) + n * NEURON > budget for n in next_steps(rounded, costs, round_to))
    assert rounded.details["neurons_before_rounding"] == list(sizes.neurons)
    assert rounded.details["round_to"] == round_to
    assert round_neurons(*problem) == rounded


@given(problems(step=48))
@settings(max_examples=100, deadline=None)
def test_no_count_moves_by_a_step_where_all_widths_are_multiples(problem):
    sizes, scores, budget, round_to = problem
    costs, ratio = budget.costs, budget.ratio
    rounded = round_neurons(sizes, scores, Budget(costs, ratio), round_to)
    moves = [abs(a - b) for a, b in zip(rounded.neurons, sizes.neurons, strict=True)]
    assert max(moves) < round_to
    if rounded.neurons != costs.neurons:
        assert spent(rounded) > (1 - ratio) * costs.total - round_to * NEURON


def rounded_counts(neurons, scores, *, units=16, min_units=0, round_to=4):
    """Counts after rounding when exactly the given neurons are in the budget."""
    costs = UnitCosts(0.0, 1.0, (0,) * len(neurons), (units,) * len(neurons))
    ratio = 1 - sum(neurons) / costs.total
    sizes = Sizes(heads=(0,) * len(neurons), neurons=tuple(neurons))
    return round_neurons(sizes, scores, Budget(costs, ratio, min_units), round_to).neurons


def test_freed_budget_goes_to_the_largest_remainder_then_to_the_larger_scores():
    flat = [np.ones(16)] * 3
    # 3 + 1 + 2 neurons are freed by rounding down: one step.
    assert rounded_counts([7, 5, 6], flat) == (8, 4, 4)
    # The same remainder everywhere: the step that re-adds the larger errors, then the first layer.
    assert rounded_counts([6, 6, 6], [np.ones(16), np.full(16, 3.0), np.ones(16)]) == (4, 8, 4)
    assert rounded_counts([6, 6, 6], flat) == (8, 4, 4)
    # Only what the step re-adds counts, not the errors of neurons that stay anyway.
    early = np.array([99.0] * 4 + [0.5] * 12)
    assert rounded_counts([6, 6], [early, np.ones(16)]) == (4, 8)


def test_a_floor_is_rounded_up_and_paid_for_by_the_layer_that_loses_least():
    flat = [np.ones(16)] * 3
    assert rounded_counts([1, 9, 11], flat, min_units=1) == (4, 8, 8)
    assert rounded_counts([0, 8, 8], flat, min_units=3) == (4, 8, 4)
    # The layer with the smaller errors pays.
    scores = [np.ones(16), np.ones(16), np.full(16, 2.0)]
    assert rounded_counts([0, 8, 8], scores, min_units=3) == (4, 4, 8)
    # A layer narrower than the step keeps all its neurons or none.
    assert rounded_counts([2, 3], [np.ones(3)] * 2, units=3, round_to=8) == (0, 3)


def test_a_floor_that_does_not_fit_is_refused():
    with pytest.raises(BudgetError, match="round_to=8 with min_units=1 needs 24"):
        rounded_counts([5, 5, 5], [np.ones(16)] * 3, min_units=1, round_to=8)


def test_no_rounding_changes_nothing():
    sizes = Sizes(heads=(0, 0), neurons=(5, 3), details={"allocation": "global"})
    costs = UnitCosts(0.0, 1.0, (0, 0), (8, 8))
    assert round_neurons(sizes, [np.ones(8)] * 2, Budget(costs, 0.5, 1), 1) is sizes


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_compressed_model_has_the_rounded_sizes(name, allocation):
    model = pico_model(name)
    batches = pico_batches(model)
    plain = compress(model, batches, ratio=0.4, allocation=allocation)
    rounded = compress(model, batches, ratio=0.4, round_to=4, allocation=allocation)
    counts = rounded.plan.neuron_counts
    assert all(n % 4 == 0 for n in counts)
    assert counts != plain.plan.neuron_counts
    assert rounded.plan.head_counts == plain.plan.head_counts
    assert rounded.report.mac_kept_fraction <= 0.6
    assert (rounded.report.round_to, plain.report.round_to) == (4, 1)
    details = rounded.plan.details
    assert details["neurons_before_rounding"] == list(plain.plan.neuron_counts)
    assert details["round_to"] == 4
    assert "round_to" not in plain.plan.details
    assert rounded.model(**batches[0]).logits.isfinite().all()


def test_rounding_is_refused_where_it_makes_no_sense():
    model = pico_model("bert")
    with pytest.raises(ConfigError, match="round_to: expected a value of at least 1; got 0"):
        compress(model, pico_batches(model), round_to=0)
    with pytest.raises(ConfigError, match=r"authors' script.*expected round_to=1; got 8"):
        compress(model, pico_batches(model), round_to=8, authors_compat=True)


def test_the_record_says_what_was_rounded(tmp_path):
    overrides = [*sentence_overrides(tmp_path), "ratio=0.4"]
    record = run_experiment(compose_here(overrides, "round_to=4"), SweepCache()).record
    assert record.costs["round_to"] == 4
    assert all(len(layer.kept_neurons) % 4 == 0 for layer in record.layers)
    assert 0.3 < record.mac_kept_fraction <= 0.6
    plain = run_experiment(compose_here(overrides), SweepCache()).record
    assert plain.costs["round_to"] == 1
    assert plain.run_id != record.run_id
