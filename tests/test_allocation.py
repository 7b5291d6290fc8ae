"""Budget arithmetic: realised costs, floors, uniformity, ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stat_repro.allocation.allocate import allocate_global, allocate_ranked, allocate_uniform
from stat_repro.allocation.authors import allocate_authors
from stat_repro.allocation.budget import Budget
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
        allocate_global(errors, Budget(costs, ratio, min_units), 2.0),
        allocate_uniform(errors, Budget(costs, ratio, min_units)),
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
        sizes = allocate_global(errors, Budget(costs, 0.0, 0), 2.0)
    else:
        sizes = allocate_uniform(errors, Budget(costs, 0.0, 0))
    assert sizes.heads == costs.heads
    assert sizes.neurons == costs.neurons


def test_global_keeps_the_layer_with_the_larger_errors():
    errors = UnitErrors(
        heads=(np.full(4, 10.0), np.full(4, 1.0)),
        neurons=(np.full(8, 1.0), np.full(8, 10.0)),
        neuron_tails=(np.zeros(9), np.zeros(9)),
    )
    sizes = allocate_global(errors, Budget(make_costs(2, 4, 8), 0.5, 0), 2.0)
    assert sizes.heads[0] == 4
    assert sizes.neurons[1] == 8
    floored = allocate_global(errors, Budget(make_costs(2, 4, 8), 0.5, 1), 2.0)
    assert floored.heads[1] >= 1
    assert floored.neurons[0] >= 1


def test_uniform_differs_by_one_unit_at_most_and_prefers_large_scores():
    errors, costs = make_errors(), make_costs()
    for ratio in (0.1, 0.33, 0.5, 0.77):
        sizes = allocate_uniform(errors, Budget(costs, ratio, 1))
        assert max(sizes.heads) - min(sizes.heads) <= 1
        assert max(sizes.neurons) - min(sizes.neurons) <= 1
    sizes = allocate_uniform(errors, Budget(costs, 0.25, 1))
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
    assert allocate_global(errors, Budget(make_costs(1, 4, 8), 0.2, 0), 2.0).heads == (4,)
    # With negligible head errors the neurons get as much as the rule allows.
    small = UnitErrors((np.full(4, 1e-9),), errors.neurons, errors.neuron_tails)
    assert allocate_global(small, Budget(make_costs(1, 4, 8), 0.2, 0), 2.0).heads == (3,)


def test_a_floor_above_the_budget_is_refused():
    with pytest.raises(BudgetError, match="min_units=6"):
        allocate_global(make_errors(), Budget(make_costs(), 0.9, 6), 2.0)


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


def ranked(errors, costs, ratio, min_units=1, split="joint", uniform=False):
    return allocate_ranked(
        errors.heads,
        errors.neurons,
        Budget(costs, ratio, min_units),
        uniform=uniform,
        split=split,
    )


@given(
    st.floats(0.0, 0.6),
    st.integers(0, 1000),
    st.integers(0, 2),
    st.sampled_from(["proportional", "joint", "additive"]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_ranked_sizes_use_the_budget_up_to_one_neuron(ratio, seed, min_units, split, uniform):
    errors, costs = make_errors(seed=seed), make_costs()
    sizes = ranked(errors, costs, ratio, min_units, split, uniform)
    left = (1 - ratio) * costs.total - cost_of(sizes, costs)
    assert -1e-6 <= left < costs.neuron + 1e-6 or (
        sizes.neurons == costs.neurons and left < costs.head
    )
    assert min(sizes.heads + sizes.neurons) >= min_units


def test_additive_split_removes_the_smallest_sum():
    for seed in range(5):
        errors, costs = make_errors(2, 3, 9, seed=seed), make_costs(2, 3, 9)
        sizes = ranked(errors, costs, 0.4, 0, "additive")

        def kept(heads, neurons, errors=errors):
            found = [
                np.sort(np.concatenate(units))[::-1][:n].sum()
                for units, n in ((errors.heads, heads), (errors.neurons, neurons))
            ]
            return sum(found)

        budget = 0.6 * costs.total
        best = max(
            kept(h, min(int((budget - h * costs.head) // costs.neuron), 18))
            for h in range(7)
            if h * costs.head <= budget
        )
        assert kept(sum(sizes.heads), sum(sizes.neurons)) == pytest.approx(best)


def test_joint_split_keeps_no_unit_below_one_that_it_drops():
    for seed in range(5):
        errors, costs = make_errors(seed=seed), make_costs()
        sizes = ranked(errors, costs, 0.4, 0)
        pairs = [(errors.heads, sizes.heads), (errors.neurons, sizes.neurons)]
        kept = [[s for e, n in zip(u, c, strict=True) for s in e[:n]] for u, c in pairs]
        lost = [[s for e, n in zip(u, c, strict=True) for s in e[n:]] for u, c in pairs]
        assert min(kept[0]) >= max(lost[1])  # heads kept against neurons lost
        assert min(kept[0]) >= max(lost[0])
        # One head costs as much as several neurons: only these may be out of order.
        beyond = [score for score in kept[1] if score < max(lost[0])]
        assert len(beyond) <= costs.head / costs.neuron


def test_joint_and_additive_splits_may_prune_attention_harder_than_the_whole():
    errors = UnitErrors((np.full(4, 0.1),), (np.linspace(8, 1, 8),), (np.zeros(9),))
    costs = make_costs(1, 4, 8)
    for split in ("joint", "additive"):
        assert ranked(errors, costs, 0.5, 1, split).heads == (1,)
    assert ranked(errors, costs, 0.5, 1, "proportional").heads == (2,)


@pytest.mark.parametrize("split", ["joint", "additive"])
def test_ranked_floors_above_the_budget_are_refused(split):
    with pytest.raises(BudgetError, match=r"24 heads and 24 neurons \(min_units=6\)"):
        ranked(make_errors(), make_costs(), 0.9, 6, split)


def test_a_model_without_neurons_or_heads_is_ranked_by_the_other():
    heads, none = (np.array([3.0, 1.0]),) * 2, (np.zeros(0),) * 2
    costs = UnitCosts(10.0, 0.0, (2, 2), (0, 0))
    for split in ("joint", "additive"):
        sizes = allocate_ranked(heads, none, Budget(costs, 0.5, 1), uniform=False, split=split)
        assert (sizes.heads, sizes.neurons) == ((1, 1), (0, 0))
        other = Budget(UnitCosts(0.0, 10.0, (0, 0), (2, 2)), 0.5, 1)
        sizes = allocate_ranked(none, heads, other, uniform=False, split=split)
        assert (sizes.heads, sizes.neurons) == ((0, 0), (1, 1))
