"""Pruning one kind of units only: the other keeps all its units and its part of the budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from stat_repro.allocation.allocate import Sizes
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.scores import UnitErrors, Vector

Kinds = Literal["all", "attention", "ffn"]


def restricted(costs: UnitCosts, ratio: float, kinds: str) -> tuple[UnitCosts, float]:
    """Costs of the units that may go, and the share of these costs to remove.

    Args:
        costs: Of all units.
        ratio: Share of all prunable MACs to remove.
        kinds: `all`, `attention` or `ffn`.

    Raises:
        BudgetError: The units of this kind cost less than is to be removed.
    """
    if kinds == "all":
        return costs, ratio
    layers = len(costs.heads)
    if kinds == "ffn":
        own = replace(costs, heads=(0,) * layers)
    else:
        own = replace(costs, neurons=(0,) * layers)
    if own.total <= ratio * costs.total:
        raise BudgetError(
            f"ratio={ratio} with kinds={kinds}: expected a ratio below "
            f"{own.total / costs.total:.3f}, the {kinds} share of the prunable MACs"
        )
    return own, ratio * costs.total / own.total


def of_kinds(scores: UnitErrors, kinds: str) -> UnitErrors:
    """The scores of the units that may go."""
    heads, neurons = (
        kind_or_none(s, kinds, k) for s, k in ((scores.heads, "attention"), (scores.neurons, "ffn"))
    )
    tails = scores.neuron_tails
    if kinds == "attention":
        tails = tuple(np.zeros(1) for _ in tails)
    return UnitErrors(heads, neurons, tails)


def kind_or_none(
    vectors: tuple[Vector, ...] | list[Vector], kinds: str, own: str, empty: int = 0
) -> tuple[Vector, ...]:
    """Per layer the values of a kind, or `empty` zeros where it is not pruned."""
    if kinds in ("all", own):
        return tuple(vectors)
    return tuple(np.zeros(empty) for _ in vectors)


def completed(sizes: Sizes, costs: UnitCosts, kinds: str) -> Sizes:
    """The sizes with all units of the kind that is not pruned."""
    if kinds == "all":
        return sizes
    whole = {"heads": costs.heads} if kinds == "ffn" else {"neurons": costs.neurons}
    return replace(sizes, **whole, details={**sizes.details, "kinds": kinds})
