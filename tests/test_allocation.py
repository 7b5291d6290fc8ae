"""Budget arithmetic: realised costs, floors, uniformity, ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stat_repro.allocation.allocate import allocate_global, allocate_uniform
from stat_repro.allocation.authors import allocate_authors
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.scores import UnitErrors, decoder_scores, encoder_scores


def make_errors(layers=4, heads=6, neurons=20, seed=0):
    random = np.random.RandomState(seed)
    falling = lambda n: np.sort(random.rand(n) + 0.01)[::-1]  # noqa: E731
    return UnitErrors(
        heads=tuple(falling(heads) for _ in range(layers)),
        neurons=tuple(falling(neurons) for _ in range(layers)),
        neuron_tails=tuple(np.append(falling(neurons), 0.0) for _ in range(layers)),
    )


def make_costs(layers=4, heads=6, neurons=20):
    return UnitCosts(100.0, 17.0, (heads,) * layers, (neurons,) * layers)


def cost_of(sizes, costs):
    return sum(sizes.heads) * costs.head + sum(sizes.neurons) * costs.neuron


@given(st.floats(0.0, 0.6), st.integers(0, 1000), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_the_budget_is_used_up_to_one_neuron(ratio, seed, min_units):
    errors, costs = make_errors(seed=seed), make_costs()
    budget = (1 - ratio) * costs.total
    for sizes in (
        allocate_global(errors, costs, ratio, min_units, 2.0),
        allocate_uniform(errors, costs, ratio, min_units),
    ):
        used = cost_of(sizes, costs)
        assert used <= budget + 1e-6
        assert used > budget - costs.neuron - 1e-6
        assert min(sizes.heads) >= min_units
        assert min(sizes.neurons) >= min_units


@pytest.mark.parametrize("allocate", ["global", "uniform"])
def test_ratio_zero_keeps_everything(allocate):
    errors, costs = make_errors(), make_costs()
    if allocate == "global":
        sizes = allocate_global(errors, costs, 0.0, 0, 2.0)
    else:
        sizes = allocate_uniform(errors, costs, 0.0, 0)
    assert sizes.heads == costs.heads
    assert sizes.neurons == costs.neurons


def test_global_keeps_the_layer_with_the_larger_errors():
    errors = UnitErrors(
        heads=(np.full(4, 10.0), np.full(4, 1.0)),
        neurons=(np.full(8, 1.0), np.full(8, 10.0)),
        neuron_tails=(np.zeros(9), np.zeros(9)),
    )
    sizes = allocate_global(errors, make_costs(2, 4, 8), 0.5, 0, 2.0)
    assert sizes.heads[0] == 4
    assert sizes.neurons[1] == 8
    floored = allocate_global(errors, make_costs(2, 4, 8), 0.5, 1, 2.0)
    assert floored.heads[1] >= 1
    assert floored.neurons[0] >= 1


def test_uniform_differs_by_one_unit_at_most_and_prefers_large_scores():
    errors, costs = make_errors(), make_costs()
    for ratio in (0.1, 0.33, 0.5, 0.77):
        sizes = allocate_uniform(errors, costs, ratio, 1)
        assert max(sizes.heads) - min(sizes.heads) <= 1
        assert max(sizes.neurons) - min(sizes.neurons) <= 1
    sizes = allocate_uniform(errors, costs, 0.25, 1)
    low, high = min(sizes.heads), max(sizes.heads)
    assert low < high
    gained = [errors.heads[i][low] for i in range(4) if sizes.heads[i] == high]
    missed = [errors.heads[i][low] for i in range(4) if sizes.heads[i] == low]
    assert min(gained) > max(missed)


def test_balance_takes_the_split_closest_to_the_factor():
    # A head score that dwarfs any residual: keeping all heads (cutoff 0) has the smallest gap.
    errors = UnitErrors(
        heads=(np.full(4, 1000.0),),
        neurons=(np.linspace(8, 1, 8),),
        neuron_tails=(np.linspace(8, 0, 9),),
    )
    assert allocate_global(errors, make_costs(1, 4, 8), 0.2, 0, 2.0).heads == (4,)
    # With negligible head errors the neurons get as much as the rule allows.
    small = UnitErrors((np.full(4, 1e-9),), errors.neurons, errors.neuron_tails)
    assert allocate_global(small, make_costs(1, 4, 8), 0.2, 0, 2.0).heads == (3,)


def test_a_floor_above_the_budget_is_refused():
    with pytest.raises(BudgetError, match="min_units=6"):
        allocate_global(make_errors(), make_costs(), 0.9, 6, 2.0)


def test_authors_allocation_fails_where_the_script_fails():
    with pytest.raises(BudgetError, match="ratio=0"):
        allocate_authors(encoder_scores(make_errors()), 0.0, 0.5, 2.0)


def test_encoder_weights_are_the_published_ones():
    errors = make_errors(layers=12)
    scores = encoder_scores(errors)
    first, last = 1 + np.sqrt(13), 1 + np.sqrt(2)
    np.testing.assert_allclose(scores.heads[0], errors.heads[0] * first)
    np.testing.assert_allclose(scores.neurons[-1], errors.neurons[-1] * last)
    np.testing.assert_allclose(scores.neuron_tails[3], errors.neuron_tails[3])


def test_decoder_scores_divide_out_exponential_growth():
    growth = np.exp(0.7 * np.arange(5) + 1.5)
    shape = np.array([1.0, 0.5, 0.25])
    errors = UnitErrors(
        heads=tuple(shape * g for g in growth),
        neurons=tuple(shape * g**2 for g in growth),
        neuron_tails=tuple(np.zeros(4) for _ in growth),
    )
    scores = decoder_scores(errors, head_bonus=1.125)
    for layer in range(5):
        np.testing.assert_allclose(scores.neurons[layer], shape)
        np.testing.assert_allclose(scores.heads[layer], shape * 1.125 ** np.array([3, 2, 1]))


def test_decoder_scores_take_layers_without_any_error():
    errors = UnitErrors(
        heads=(np.zeros(3), np.array([4.0, 2.0, 1.0]), np.zeros(0)),
        neurons=(np.zeros(2),) * 3,
        neuron_tails=(np.zeros(3),) * 3,
    )
    scores = decoder_scores(errors, head_bonus=1.0)
    np.testing.assert_allclose(scores.heads[1], [1.0, 0.5, 0.25])
    assert scores.heads[0].tolist() == [0.0] * 3
