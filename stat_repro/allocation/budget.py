"""The budget of a pruning: what the units that may go cost, and how much of that may stay."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.scores import Vector
from stat_repro.plan import SiteKind

# A budget that is met exactly must not lose a unit to rounding of the quotient.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Budget:
    """What may stay. Where only one kind of units may go, the other keeps all its units.

    Attributes:
        costs: Costs of all units.
        ratio: Share of all prunable MACs to remove.
        min_units: Units that every site keeps at least.
        kinds: Which units may go: `all`, `attention` or `ffn`.

    Raises:
        BudgetError: The units that may go cost less than is to be removed.
    """

    costs: UnitCosts
    ratio: float
    min_units: int = 0
    kinds: str = "all"

    def __post_init__(self) -> None:
        if self.kinds != "all" and self.open.total <= self.ratio * self.costs.total:
            raise BudgetError(
                f"ratio={self.ratio} with kinds={self.kinds}: expected a ratio below "
                f"{self.open.total / self.costs.total:.3f}, the {self.kinds} share of the prunable "
                f"{self.costs.measure}"
            )

    @cached_property
    def open(self) -> UnitCosts:
        """Costs of the units that may go."""
        none = (0,) * len(self.costs.heads)
        if self.kinds == "all":
            return self.costs
        if self.kinds == "ffn":
            return replace(self.costs, heads=none)
        return replace(self.costs, neurons=none)

    @cached_property
    def share(self) -> float:
        """Share of the costs of the units that may go, to be removed."""
        if self.kinds == "all":
            return self.ratio
        return self.ratio * self.costs.total / self.open.total

    @property
    def macs(self) -> float:
        """MACs per token of the units that may go, after the pruning."""
        return (1.0 - self.share) * self.open.total

    @property
    def floor(self) -> tuple[int, int]:
        """Heads and neurons that stay, whatever the ratio."""
        heads, neurons = (
            sum(min(n, self.min_units) for n in units)
            for units in (self.open.heads, self.open.neurons)
        )
        return heads, neurons

    def neurons_beside(self, heads: int) -> int:
        """How many neurons are paid beside these heads, if there were so many; below 0: none."""
        left = self.macs - heads * self.open.head
        if sum(self.open.neurons):
            return math.floor(left / self.open.neuron + ROUNDING)
        # Already pruned: there is no price for a neuron.
        return 0 if left >= -ROUNDING * self.open.total else -1

    def values(self, kind: SiteKind, by_layer: Sequence[Vector], empty: int = 0) -> list[Vector]:
        """What belongs to units of a kind, layer by layer; `empty` zeros if they may not go."""
        if self.kinds in ("all", kind):
            return list(by_layer)
        return [np.zeros(empty) for _ in by_layer]

    def too_small(self, heads: int, neurons: int) -> BudgetError:
        """The error for a budget that does not pay for these units."""
        needed = heads * self.open.head + neurons * self.open.neuron
        return BudgetError(
            f"ratio={self.ratio} leaves {self.macs:.0f} MACs per token, but {heads} heads and "
            f"{neurons} neurons (min_units={self.min_units}) need {needed:.0f}; lower ratio or "
            "min_units"
        )
