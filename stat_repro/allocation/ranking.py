"""Units of one kind in the order in which they are kept, and how many of each kind a budget pays.

Heads and neurons are ranked apart; how they share the budget is the method's choice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stat_repro.allocation.budget import ROUNDING, Budget
from stat_repro.allocation.scores import Vector


@dataclass(frozen=True)
class Ranking:
    """All units of one kind over all layers, in the order in which they are kept.

    Attributes:
        layers: Layer of each unit.
        scores: Score of each unit.
        num_layers: Layers of the model.
    """

    layers: NDArray[np.int64]
    scores: Vector
    num_layers: int

    def counts(self, kept: int) -> tuple[int, ...]:
        """Units per layer among the first `kept`."""
        return tuple(np.bincount(self.layers[:kept], minlength=self.num_layers).tolist())

    def cutoff(self, kept: int) -> float:
        """Largest score that is lost when `kept` units stay."""
        return float(self.scores[kept]) if kept < len(self.scores) else 0.0

    def score(self, place: int) -> float:
        """Score at a place; minus infinity after the last."""
        return float(self.scores[place]) if place < len(self.scores) else -math.inf


def rank(scores: Sequence[Vector], min_units: int, *, uniform: bool = False) -> Ranking:
    """Rank units; the first `min_units` of every layer come before all others.

    Globally the score decides. Uniformly the position of the unit in its layer, as a share of the
    layer's units, decides, and the score only among equals.
    """
    layers = np.concatenate([np.full(len(s), i) for i, s in enumerate(scores)])
    position = np.concatenate([np.arange(len(s)) for s in scores])
    share = np.concatenate([np.arange(len(s)) / max(len(s), 1) for s in scores])
    flat = np.concatenate(scores)
    # Ties go to the earlier layer and the earlier pivot, so the result does not depend on sorting.
    keys = (position, layers, -flat, share if uniform else 0 * share, position >= min_units)
    order = np.lexsort(keys)
    return Ranking(layers[order], flat[order], len(scores))


def proportional_splits(budget: Budget) -> list[tuple[int, int]]:
    """All (heads, neurons) totals that use the budget, attention never pruned harder than the FFNs.

    As in the authors' code totals start at the share of the heads that may stay, rounded down, and
    neurons get what is left.

    Raises:
        BudgetError: Not even the floor fits.
    """
    keep = 1.0 - budget.share
    fewest = math.floor(keep * sum(budget.open.heads) + ROUNDING)
    pairs = _affordable(budget, max(budget.floor[0], fewest))
    all_neurons = sum(budget.open.neurons)
    # Where the next head costs too much and all neurons cost less, some of the budget is left over.
    return [pair for pair in pairs if pair[1] <= all_neurons] or [(pairs[-1][0], all_neurons)]


def free_splits(budget: Budget) -> list[tuple[int, int]]:
    """All (heads, neurons) totals that use the budget, from the floor of heads on.

    Raises:
        BudgetError: Not even the floor fits.
    """
    all_neurons = sum(budget.open.neurons)
    pairs = [(h, min(n, all_neurons)) for h, n in _affordable(budget, budget.floor[0])]
    # Where all neurons are kept more heads cost nothing: only the last of these uses the budget.
    full = [pair for pair in pairs if pair[1] == all_neurons]
    return full[-1:] + pairs[len(full) :]


def _affordable(budget: Budget, start: int) -> list[tuple[int, int]]:
    """From `start` heads on, how many neurons the budget would pay beside them, if there were."""
    floor = budget.floor[1]
    pairs = []
    for heads in range(start, sum(budget.open.heads) + 1):
        neurons = budget.neurons_beside(heads)
        if neurons < floor:
            break
        pairs.append((heads, neurons))
    if not pairs:
        raise budget.too_small(start, floor)
    return pairs
