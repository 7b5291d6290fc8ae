"""Sizes from losses, against trying all of them."""

import itertools

import numpy as np
import pytest

from stat_repro.allocation.budget import Budget
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.losses import allocate_losses, fitted_losses


def curves(units, seed, convex=True):
    rng = np.random.default_rng(seed)
    steps = rng.exponential(size=units)
    steps = np.sort(steps)[::-1] if convex else steps
    return np.concatenate([np.cumsum(steps[::-1])[::-1], [0.0]])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_no_other_sizes_lose_less(seed, ratio):
    """Units of one cost and convex losses: the greedy price is exact."""
    costs = UnitCosts(head=1.0, neuron=1.0, heads=(3, 3), neurons=(4, 4))
    losses = [curves(n, seed * 10 + i) for i, n in enumerate((3, 3, 4, 4))]
    sizes = allocate_losses(losses[:2], losses[2:], Budget(costs, ratio, 1))
    found = sizes.heads + sizes.neurons
    budget = (1 - ratio) * costs.total
    ranges = [range(1, n + 1) for n in (3, 3, 4, 4)]
    allowed = [c for c in itertools.product(*ranges) if sum(c) <= budget + 1e-9]
    best = min(sum(x[k] for x, k in zip(losses, c, strict=True)) for c in allowed)
    assert sum(found) <= budget + 1e-9 < sum(found) + 1
    assert sizes.details["predicted_loss"] == pytest.approx(best)


@pytest.mark.parametrize("seed", range(8))
def test_the_budget_is_used_up_to_less_than_a_neuron(seed):
    costs = UnitCosts(head=7.0, neuron=2.0, heads=(4, 4, 4), neurons=(30, 30, 30))
    heads = [curves(4, seed + i, convex=False) for i in range(3)]
    neurons = [curves(30, seed + 50 + i, convex=False) for i in range(3)]
    for ratio in (0.0, 0.1, 0.37, 0.6, 0.75):
        sizes = allocate_losses(heads, neurons, Budget(costs, ratio, 2))
        spent = 7 * sum(sizes.heads) + 2 * sum(sizes.neurons)
        budget = (1 - ratio) * costs.total
        assert spent <= budget + 1e-6 < spent + 2 + 1e-6
        assert min(sizes.heads + sizes.neurons) >= 2


def test_units_without_loss_go_and_a_floor_stays():
    costs = UnitCosts(head=2.0, neuron=1.0, heads=(4, 4), neurons=(8, 8))
    dear, free = np.array([4.0, 3.0, 2.0, 1.0, 0.0]), np.zeros(5)
    wide = np.linspace(8.0, 0.0, 9)
    sizes = allocate_losses([dear, free], [wide, np.zeros(9)], Budget(costs, 0.4, 1))
    assert (sizes.heads[1], sizes.neurons[1]) == (1, 1)
    assert sizes.heads[0] == 4
    with pytest.raises(BudgetError, match="min_units=3"):
        allocate_losses([dear, free], [wide, wide], Budget(costs, 0.9, 3))


def test_layers_without_units_take_part_with_nothing():
    costs = UnitCosts(head=2.0, neuron=1.0, heads=(0, 4), neurons=(8, 0))
    sizes = allocate_losses(
        [np.zeros(1), curves(4, 0)], [curves(8, 1), np.zeros(1)], Budget(costs, 0.5, 1)
    )
    assert sizes.heads[0] == sizes.neurons[1] == 0
    silent = allocate_losses(
        [np.zeros(1), np.zeros(5)], [np.zeros(9), np.zeros(1)], Budget(costs, 0.5, 1)
    )
    assert 2 * sum(silent.heads) + sum(silent.neurons) == 8


def test_a_power_law_is_found_again():
    errors = np.array([100.0, 50.0, 20.0, 5.0, 1.0, 0.0])
    truth = 0.03 * errors**1.25
    found = fitted_losses(errors, [1, 3], [truth[1], truth[3]])
    np.testing.assert_allclose(found, truth)


def test_a_slope_out_of_range_is_cut_and_the_level_kept():
    errors = np.array([8.0, 4.0, 2.0, 1.0, 0.0])
    found = fitted_losses(errors, [1, 3], [1.0, 4.0])  # the loss falls where the error rises
    assert bool((np.diff(found) <= 0).all())
    assert found[2] == pytest.approx(2.0)
    one = fitted_losses(errors, [2], [0.5])
    np.testing.assert_allclose(one, 0.25 * errors)


def test_sizes_without_error_or_loss_are_left_out():
    errors = np.array([8.0, 4.0, 0.0, 0.0])
    np.testing.assert_allclose(fitted_losses(errors, [1, 2], [1.0, 0.3]), 0.25 * errors)
    assert not fitted_losses(errors, [1, 2], [0.0, 0.0]).any()
