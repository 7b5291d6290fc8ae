"""Sizes from one score per unit: what the baselines share.

Scores of one kind are comparable over layers. How heads and neurons share the budget is the
method's: `proportional`, `joint` or `additive`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from stat_repro.allocation.allocate import ROUNDING, Ranking, Sizes, head_splits, rank
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.scores import Vector

# How heads and neurons share the budget under `allocation=global`:
# - proportional: both lose the same share; for scores that mean nothing across kinds;
# - joint: one ranking of all units, walked down until the budget is spent (FLAP);
# - additive: the split that removes the smallest sum of scores (Kwon et al. 2022).
Split = Literal["proportional", "joint", "additive"]


def allocate_ranked(
    heads: Sequence[Vector],
    neurons: Sequence[Vector],
    costs: UnitCosts,
    ratio: float,
    min_units: int,
    *,
    uniform: bool,
    split: Split,
) -> Sizes:
    """Units per layer for the budget, the highest scores first.

    The realised MACs never exceed the budget and miss it by less than one neuron, unless all
    neurons are kept.

    Args:
        heads: Per layer the scores of its attention units, highest first.
        neurons: Per layer the scores of its neurons, highest first.
        costs: Costs of a unit of each kind.
        ratio: Share of the prunable MACs to remove.
        min_units: Units that every site keeps at least.
        uniform: Equal shares of heads and of neurons in every layer instead of one ranking.
        split: How heads and neurons share the budget; `uniform` is always proportional.

    Raises:
        BudgetError: The floor does not fit the budget.
    """
    head_ranking = rank(tuple(heads), min_units, uniform=uniform)
    neuron_ranking = rank(tuple(neurons), min_units, uniform=uniform)
    if uniform or split == "proportional":
        n_heads, n_neurons = next(head_splits(costs, ratio, min_units))
    elif split == "joint":
        n_heads, n_neurons = _joint(head_ranking, neuron_ranking, costs, ratio, min_units)
    else:
        n_heads, n_neurons = _additive(head_ranking, neuron_ranking, costs, ratio, min_units)
    return Sizes(
        heads=tuple(head_ranking.counts(n_heads).tolist()),
        neurons=tuple(neuron_ranking.counts(n_neurons).tolist()),
        details={
            "allocation": "uniform" if uniform else "global",
            "split": "proportional" if uniform else split,
        },
    )


def _joint(
    heads: Ranking, neurons: Ranking, costs: UnitCosts, ratio: float, min_units: int
) -> tuple[int, int]:
    """Heads are kept down to the score at which heads and neurons together spend the budget."""
    best = None
    for n_heads, n_neurons in _all_splits(costs, ratio, min_units):
        # Both rankings descend, so this is the split where their cutoffs cross.
        last_head, next_neuron = heads.score(n_heads - 1), neurons.score(n_neurons)
        floor = n_heads <= sum(min(n, min_units) for n in costs.heads)
        if best is None or floor or last_head >= next_neuron:
            best = n_heads, n_neurons
        else:
            break
    assert best is not None  # _all_splits yields or raises
    return best


def _additive(
    heads: Ranking, neurons: Ranking, costs: UnitCosts, ratio: float, min_units: int
) -> tuple[int, int]:
    """The split that keeps the largest sum of scores."""
    kept_heads = np.concatenate([[0.0], np.cumsum(heads.scores)])
    kept_neurons = np.concatenate([[0.0], np.cumsum(neurons.scores)])
    splits = list(_all_splits(costs, ratio, min_units))
    return max(splits, key=lambda pair: kept_heads[pair[0]] + kept_neurons[pair[1]])


def _all_splits(costs: UnitCosts, ratio: float, min_units: int) -> list[tuple[int, int]]:
    """All (heads, neurons) totals that use the budget, from the floor of heads on.

    Unlike `head_splits` attention may be pruned harder than the whole.
    """
    budget = (1.0 - ratio) * costs.total
    all_neurons = sum(costs.neurons)
    lowest = [sum(min(n, min_units) for n in units) for units in (costs.heads, costs.neurons)]
    found = []
    for heads in range(lowest[0], sum(costs.heads) + 1):
        left = budget - heads * costs.head
        if left < -ROUNDING * costs.total:
            break
        neurons = math.floor(left / costs.neuron + ROUNDING) if all_neurons else 0
        if neurons < lowest[1]:
            break
        found.append((heads, min(neurons, all_neurons)))
    # Where all neurons are kept more heads cost nothing: only the last of these uses the budget.
    full = [pair for pair in found if pair[1] == all_neurons]
    found = full[-1:] + found[len(full) :]
    if not found:
        needed = lowest[0] * costs.head + lowest[1] * costs.neuron
        raise BudgetError(
            f"ratio={ratio} leaves {budget:.0f} MACs per token, but {lowest[0]} heads and "
            f"{lowest[1]} neurons (min_units={min_units}) need {needed:.0f}; lower ratio or "
            "min_units"
        )
    return found
