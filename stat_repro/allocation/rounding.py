"""Sizes that suit the hardware: neurons per layer in whole steps, within the same budget.

Matrix kernels work in tiles, so that a layer of 1003 neurons takes the time of one of 1008. Heads
are not rounded: a head is `head_dim` wide, which is a round number already.
"""

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stat_repro.allocation.allocate import Sizes
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.costs import BudgetError
from stat_repro.allocation.scores import Vector


@dataclass
class _Layer:
    """The counts that one layer may have, and the one it has now.

    Attributes:
        index: Number of the layer.
        allowed: Counts it may have, ascending.
        target: Count before rounding.
        scores: Errors of its neurons in the order in which they are kept.
        level: Index into `allowed`.
    """

    index: int
    allowed: list[int]
    target: int
    scores: Vector
    level: int

    @property
    def count(self) -> int:
        return self.allowed[self.level]

    def step(self, direction: int) -> int:
        """Neurons that the next level up (1) or down (-1) adds or removes; 0 if there is none."""
        level = self.level + direction
        return abs(self.allowed[level] - self.count) if 0 <= level < len(self.allowed) else 0

    def urgency(self, direction: int) -> tuple[float, ...]:
        """Sort key: who is furthest from its target, then whose step matters, then the order."""
        ends = sorted((self.count, self.count + direction * self.step(direction)))
        score = float(self.scores[ends[0] : ends[1]].sum())
        return direction * (self.target - self.count), direction * score, -direction * self.index


def final_sizes(sizes: Sizes, scores: Sequence[Vector], budget: Budget, round_to: int) -> Sizes:
    """The sizes with neurons rounded, and with all units of a kind that may not go.

    Args:
        sizes: What an allocation chose.
        scores: As `round_neurons` takes them.
        budget: What the allocation was made with.
        round_to: The step.
    """
    sizes = round_neurons(sizes, scores, budget, round_to)
    if budget.kinds == "all":
        return sizes
    sizes = replace(sizes, details={**sizes.details, "kinds": budget.kinds})
    if budget.kinds == "ffn":
        return replace(sizes, heads=budget.costs.heads)
    return replace(sizes, neurons=budget.costs.neurons)


def round_neurons(sizes: Sizes, scores: Sequence[Vector], budget: Budget, round_to: int) -> Sizes:
    """Round the neurons that every layer keeps; heads stay as they are.

    A layer keeps a multiple of `round_to`, or all its neurons. Counts are rounded down, then the
    budget that this frees goes in whole steps to the layers that lost most by it (equals: to the
    larger scores), until no step fits. Where every layer has a multiple of `round_to` neurons, less
    than one step of the budget stays unused, and no count changes by a whole step.

    Args:
        sizes: What an allocation chose.
        scores: Per layer, errors of the neurons in the order in which they are kept.
        budget: What the allocation was made with; `min_units` is rounded up.
        round_to: The step; 1 returns `sizes`.

    Raises:
        BudgetError: The smallest allowed counts do not fit the budget.
    """
    if round_to == 1:
        return sizes
    floor = math.ceil(budget.min_units / round_to) * round_to
    layers = []
    for i, (units, target) in enumerate(zip(budget.open.neurons, sizes.neurons, strict=True)):
        allowed = sorted({*range(min(floor, units), units + 1, round_to), units})
        # The largest allowed count that is not above the target, if there is one.
        level = max(bisect(allowed, target) - 1, 0)
        layers.append(_Layer(i, allowed, target, scores[i], level))
    left = budget.neurons_beside(sum(sizes.heads)) - sum(layer.count for layer in layers)
    while left < 0:  # the floor lifted some layers above their share
        lower = [layer for layer in layers if layer.step(-1)]
        if not lower:
            needed = sum(layer.count for layer in layers)
            raise BudgetError(
                f"ratio={budget.ratio} leaves {needed + left} neurons beside {sum(sizes.heads)} "
                f"heads, but round_to={round_to} with min_units={budget.min_units} needs {needed}; "
                "lower ratio, round_to or min_units"
            )
        layer = max(lower, key=lambda one: one.urgency(-1))
        left += layer.step(-1)
        layer.level -= 1
    while higher := [layer for layer in layers if 0 < layer.step(1) <= left]:
        layer = max(higher, key=lambda one: one.urgency(1))
        left -= layer.step(1)
        layer.level += 1
    rounding = {"round_to": round_to, "neurons_before_rounding": list(sizes.neurons)}
    neurons = tuple(layer.count for layer in layers)
    return replace(sizes, neurons=neurons, details={**sizes.details, **rounding})
