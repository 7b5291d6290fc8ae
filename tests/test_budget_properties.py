"""Whatever the sizes, costs and ratio: the budget holds, and threads do not change a plan."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pico_models import pico_batches, pico_model

import stat_repro
from stat_repro.allocation.allocate import allocate_global, allocate_ranked, allocate_uniform
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.scores import UnitErrors

SPLITS = ("proportional", "joint", "additive")


@st.composite
def problems(draw):
    """Layers of any widths, the costs of a head and of a neuron, and scores, some of them equal."""
    heads = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    neurons = [draw(st.integers(1, 60)) for _ in heads]
    costs = UnitCosts(
        float(draw(st.integers(1, 4000))), float(draw(st.integers(1, 900))), tuple(heads),
        tuple(neurons),
    )  # fmt: skip
    random = np.random.RandomState(draw(st.integers(0, 10_000)))
    levels = draw(st.sampled_from([3, 1000]))

    def falling(n):
        return np.sort(random.randint(1, levels, n) / 8.0)[::-1]

    tails = tuple(np.append(falling(n), 0.0) for n in neurons)
    errors = UnitErrors(
        heads=tuple(falling(n) for n in heads),
        neurons=tuple(falling(n) for n in neurons),
        neuron_tails=tails,
    )
    return errors, costs


def sizes_of(errors, budget, how):
    if how == "global":
        return allocate_global(errors, budget, 2.0)
    if how == "uniform":
        return allocate_uniform(errors, budget)
    return allocate_ranked(errors.heads, errors.neurons, budget, uniform=False, split=how)


def spent(sizes, costs):
    return sum(sizes.heads) * costs.head + sum(sizes.neurons) * costs.neuron


@given(problems(), st.floats(0.0, 0.95), st.sampled_from(["global", "uniform", *SPLITS]))
@settings(max_examples=200, deadline=None)
def test_the_budget_is_never_exceeded_nor_missed_by_a_unit(problem, ratio, how):
    errors, costs = problem
    try:
        sizes = sizes_of(errors, Budget(costs, ratio, 0), how)
    except BudgetError:
        assume(False)
    budget = (1 - ratio) * costs.total
    slack = 1e-6 * costs.total
    assert spent(sizes, costs) <= budget + slack
    if sizes.neurons != costs.neurons:
        assert spent(sizes, costs) > budget - costs.neuron - slack
    elif sizes.heads != costs.heads:
        assert spent(sizes, costs) > budget - costs.head - slack


@given(problems(), st.floats(0.0, 0.9), st.floats(0.0, 0.9), st.sampled_from(["global", *SPLITS]))
@settings(max_examples=200, deadline=None)
def test_a_higher_ratio_never_keeps_more_macs(problem, first, second, how):
    errors, costs = problem
    low, high = sorted((first, second))
    try:
        more, less = (sizes_of(errors, Budget(costs, r, 0), how) for r in (low, high))
    except BudgetError:
        assume(False)
    unit = max(costs.head, costs.neuron)
    assert spent(less, costs) <= spent(more, costs) + unit
    assert spent(less, costs) <= (1 - low) * costs.total * (1 + 1e-9)


@given(problems(), st.floats(0.0, 0.9))
@settings(max_examples=200, deadline=None)
def test_at_equal_costs_units_go_in_the_order_of_their_scores(problem, ratio):
    errors, costs = problem
    costs = UnitCosts(1.0, 1.0, costs.heads, costs.neurons)
    sizes = sizes_of(errors, Budget(costs, ratio, 0), "joint")
    pairs = [*zip(errors.heads, sizes.heads, strict=True)]
    pairs += zip(errors.neurons, sizes.neurons, strict=True)
    kept = [score for scores, n in pairs for score in scores[:n]]
    lost = [score for scores, n in pairs for score in scores[n:]]
    assert not kept or not lost or min(kept) >= max(lost)


@given(st.integers(0, 10_000), st.integers(20, 400), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_threads_do_not_change_what_integers_give(seed, tokens, columns):
    """Sums of integers are exact in any order."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randint(-8, 9, (tokens, columns), generator=random).double()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append((rows.T @ rows, rows.sum(0)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_threads_do_not_change_a_plan(name):
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model)
    before = torch.get_num_threads()
    plans = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            plans.append(stat_repro.compress(model, batches, ratio=0.4).plan)
    finally:
        torch.set_num_threads(before)
    assert plans[0].layers == plans[1].layers
