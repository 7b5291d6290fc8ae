"""Time as the budget: what units cost in measured seconds, and sizes that meet a share of them.

The allocations price every head alike, and every neuron. So a table of times gives them two prices,
and the ratio that they are asked for is moved until the table says that the sizes are fast enough:
it knows steps and bends that two prices do not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from textwrap import shorten
from typing import Any

import numpy as np

from stat_repro.allocation.allocate import Sizes
from stat_repro.allocation.budget import ROUNDING, Budget
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.config import ConfigError
from stat_repro.models.adapter import Adapter

# Halvings of the interval of ratios: below one neuron of the largest models.
_HALVINGS = 24
_LEAST_S = 1e-12  # of what was too quick to be measured


@dataclass(frozen=True)
class LatencyTable:
    """How long the attention and the FFN of one layer take, by the units that they keep.

    Attributes:
        heads: Attention units and seconds, ascending; seconds are those beyond a layer without any.
        neurons: Likewise of the FFN.
        dense_s: Seconds of a forward pass of the whole dense model.
        measured_on: Model, machine and inputs that it holds for (JSON types only).
    """

    heads: tuple[tuple[int, float], ...]
    neurons: tuple[tuple[int, float], ...]
    dense_s: float
    measured_on: dict[str, Any] = field(default_factory=dict)

    def check(self, adapter: Adapter) -> None:
        """Refuse a table without a time, or without some sizes of a model.

        Raises:
            ConfigError: Says which.
        """
        if not 0 < self.dense_s < math.inf:
            raise ConfigError(f"latency.dense_s: expected seconds above 0; got {self.dense_s}")
        of_kind = adapter.of_kind
        for key, sites in (("heads", of_kind("attention")), ("neurons", of_kind("ffn"))):
            points, largest = getattr(self, key), max(site.units for site in sites)
            rising = all(a < b and s <= t < math.inf for (a, s), (b, t) in pairwise(points))
            if not points or points[0] != (0, 0) or points[-1][0] < largest or not rising:
                raise ConfigError(
                    f"latency.{key}: expected units and seconds that rise from (0, 0) to the "
                    f"largest layer's {largest} units; got {shorten(str(points), 80)}; choose a "
                    "table of this model"
                )

    def seconds(self, heads: Sequence[int], neurons: Sequence[int]) -> float:
        """Seconds of all sites with these units per layer, linear between what was measured."""
        sites = ((self.heads, heads), (self.neurons, neurons))
        return sum(float(np.interp(kept, *np.array(points).T).sum()) for points, kept in sites)

    def prices(self, costs: UnitCosts) -> UnitCosts:
        """Seconds of one head and of one neuron, the mean over all of a layer, in place of MACs."""
        heads, neurons = (
            max(time, _LEAST_S) / units if units else 0.0
            for units, time in (self.heads[-1], self.neurons[-1])
        )
        return replace(costs, head=heads, neuron=neurons, measure="time")


def within_latency(
    budget: Budget, table: LatencyTable, allocate: Callable[[Budget], Sizes]
) -> Sizes:
    """The largest sizes of an allocation that are as fast as asked for.

    Args:
        budget: With the prices of the table; its `ratio` is the share of the seconds of all units
            that is removed.
        table: What units cost.
        allocate: The allocation, for any budget.

    Raises:
        BudgetError: The allocation has no sizes that are fast enough.
    """
    units_s = table.seconds(budget.costs.heads, budget.costs.neurons)
    target = (1.0 - budget.ratio) * units_s
    best, best_s = None, -1.0
    low, high, ratio = 0.0, 1.0, budget.ratio
    for _ in range(_HALVINGS):
        try:
            sizes = allocate(replace(budget, ratio=ratio))
            seconds = table.seconds(sizes.heads, sizes.neurons)
        except BudgetError:  # this allocation cannot remove so much
            seconds = -1.0
        if seconds > target + ROUNDING * units_s:
            low = ratio
        else:
            high = ratio
            if seconds > best_s:
                best, best_s = sizes, seconds
        ratio = (low + high) / 2.0
    if best is None:
        raise BudgetError(
            f"ratio={budget.ratio} with budget=latency: expected units that take {target:.6f} s of "
            f"{units_s:.6f} s; the sizes that this method and min_units={budget.min_units} can "
            "have take more; choose a lower ratio or min_units"
        )
    others = table.dense_s - units_s
    shares = {"target": target + others, "predicted": best_s + others}
    of_dense = {name: seconds / table.dense_s for name, seconds in shares.items()}
    points = {"heads": [*map(list, table.heads)], "neurons": [*map(list, table.neurons)]}
    latency = {**of_dense, "dense_s": table.dense_s, "units_s": units_s, **points,
               "measured_on": table.measured_on}  # fmt: skip
    return replace(best, details={**best.details, "budget": "latency", "latency": latency})
