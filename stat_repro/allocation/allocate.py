"""From scores and a budget to sizes: how many heads and neurons every layer keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.scores import UnitErrors, Vector

# A budget that is met exactly must not lose a unit to rounding of the quotient.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Sizes:
    """Units that every layer keeps.

    Attributes:
        heads: Per layer.
        neurons: Per layer.
        details: Values that explain the choice, for the plan.
    """

    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    details: dict[str, Any] = field(default_factory=dict)


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

    def counts(self, kept: int) -> NDArray[np.int64]:
        """Units per layer among the first `kept`."""
        return np.bincount(self.layers[:kept], minlength=self.num_layers)

    def cutoff(self, kept: int) -> float:
        """Largest score that is lost when `kept` units stay."""
        return float(self.scores[kept]) if kept < len(self.scores) else 0.0

    def score(self, place: int) -> float:
        """Score at a place; infinite before the first, minus infinity after the last."""
        if place < 0:
            return math.inf
        return float(self.scores[place]) if place < len(self.scores) else -math.inf


def rank(scores: tuple[Vector, ...], min_units: int, *, uniform: bool = False) -> Ranking:
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


def floor_units(units: tuple[int, ...], min_units: int) -> int:
    """Units that stay whatever the budget says."""
    return sum(min(n, min_units) for n in units)


def head_splits(costs: UnitCosts, ratio: float, min_units: int) -> Iterator[tuple[int, int]]:
    """All (heads, neurons) totals that use the budget.

    As in the authors' code attention is never pruned harder than the whole: totals start at the
    share 1 - ratio of the heads, rounded down, and neurons get what is left.

    Raises:
        BudgetError: Not even the floor fits.
    """
    keep = 1.0 - ratio
    budget = keep * costs.total
    all_heads, all_neurons = sum(costs.heads), sum(costs.neurons)
    fewest = floor_units(costs.neurons, min_units)
    start = max(floor_units(costs.heads, min_units), math.floor(keep * all_heads + ROUNDING))
    found = False
    unusable: tuple[int, int] | None = None
    for heads in range(start, all_heads + 1):
        left = budget - heads * costs.head
        # A model without any neurons left (already pruned) has no price for one.
        neurons = (
            math.floor(left / costs.neuron + ROUNDING)
            if all_neurons
            else min(0, math.floor(left + ROUNDING))
        )
        if neurons < fewest:
            break
        if neurons <= all_neurons:
            found = True
            yield heads, neurons
        else:
            unusable = heads, all_neurons
    if not found and unusable is not None:
        # One head more costs more than the budget has, all neurons cost less: some is left over.
        yield unusable
    elif not found:
        needed = start * costs.head + fewest * costs.neuron
        raise BudgetError(
            f"ratio={ratio} leaves {budget:.0f} MACs per token, but {start} heads and {fewest} "
            f"neurons (min_units={min_units}) need {needed:.0f}; lower ratio or min_units"
        )


def allocate_global(
    scores: UnitErrors, costs: UnitCosts, ratio: float, min_units: int, balance_factor: float
) -> Sizes:
    """One ranking over all layers per kind; heads and neurons balanced as in STAT.

    Among all splits of the budget the one is taken where the largest head score that is lost is
    closest to `balance_factor` times the mean neuron residual of the layers.
    """
    heads = rank(scores.heads, min_units)
    neurons = rank(scores.neurons, min_units)
    best: tuple[float, int, int, float, float] | None = None
    for n_heads, n_neurons in head_splits(costs, ratio, min_units):
        counts = neurons.counts(n_neurons)
        residual = float(np.mean([t[k] for t, k in zip(scores.neuron_tails, counts, strict=True)]))
        cutoff = heads.cutoff(n_heads)
        gap = abs(cutoff - balance_factor * residual)
        if best is None or gap < best[0]:
            best = (gap, n_heads, n_neurons, cutoff, residual)
    assert best is not None  # head_splits yields or raises
    _, n_heads, n_neurons, cutoff, residual = best
    return Sizes(
        heads=tuple(heads.counts(n_heads).tolist()),
        neurons=tuple(neurons.counts(n_neurons).tolist()),
        details={
            "allocation": "global",
            "head_cutoff": cutoff,
            "neuron_cutoff": neurons.cutoff(n_neurons),
            "mean_neuron_residual": residual,
        },
    )


def allocate_uniform(scores: UnitErrors, costs: UnitCosts, ratio: float, min_units: int) -> Sizes:
    """The same share of heads and of neurons in every layer.

    What does not divide evenly goes, unit by unit, to the layers that would lose most by score.
    """
    n_heads, n_neurons = next(head_splits(costs, ratio, min_units))
    heads = rank(scores.heads, min_units, uniform=True)
    neurons = rank(scores.neurons, min_units, uniform=True)
    return Sizes(
        heads=tuple(heads.counts(n_heads).tolist()),
        neurons=tuple(neurons.counts(n_neurons).tolist()),
        details={"allocation": "uniform"},
    )
