"""Sizes from losses: the least sum over all sites that the budget allows.

Every site says what the model loses with 0, 1, ... of its units kept. The plan is the knapsack over
(site, size): a Lagrange multiplier prices MACs, every site takes the size with the least loss plus
price, and the price is raised until the budget holds. What is left over then goes unit by unit to
where it saves most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stat_repro.allocation.allocate import ROUNDING, Sizes
from stat_repro.allocation.costs import BudgetError, UnitCosts
from stat_repro.allocation.scores import Vector

# Halvings of the interval of log prices: far below what separates two sizes.
_HALVINGS = 100
# Slopes of log loss over log error that are believed; a noisy measurement must not turn the curve.
_SLOPES = (0.8, 1.6)


def allocate_losses(
    heads: Sequence[Vector],
    neurons: Sequence[Vector],
    costs: UnitCosts,
    ratio: float,
    min_units: int,
) -> Sizes:
    """Units per layer with the least sum of losses within the budget.

    The realised MACs never exceed the budget and miss it by less than one neuron, unless all
    neurons are kept.

    Args:
        heads: Per layer the loss with 0..H attention units kept, shape (H + 1,), never increasing.
        neurons: Likewise with 0..F neurons kept.
        costs: Costs of a unit of each kind.
        ratio: Share of the prunable MACs to remove.
        min_units: Units that every site keeps at least.

    Raises:
        BudgetError: The floor does not fit the budget.
    """
    losses = [*heads, *neurons]
    unit = np.array([costs.head] * len(heads) + [costs.neuron] * len(neurons))
    floors = np.array([min(len(loss) - 1, min_units) for loss in losses])
    budget = (1.0 - ratio) * costs.total + ROUNDING * costs.total
    if floors @ unit > budget:
        raise BudgetError(
            f"ratio={ratio} leaves {budget:.0f} MACs per token, but {floors[: len(heads)].sum()} "
            f"heads and {floors[len(heads) :].sum()} neurons (min_units={min_units}) need "
            f"{floors @ unit:.0f}; lower ratio or min_units"
        )
    counts = _priced(losses, unit, floors, budget)
    _spend(counts, losses, unit, budget)
    total = sum(float(loss[count]) for loss, count in zip(losses, counts, strict=True))
    return Sizes(
        heads=tuple(counts[: len(heads)].tolist()),
        neurons=tuple(counts[len(heads) :].tolist()),
        details={"allocation": "global", "split": "losses", "predicted_loss": total},
    )


def _priced(
    losses: Sequence[Vector], unit: np.ndarray, floors: np.ndarray, budget: float
) -> np.ndarray:
    """Units per site at the lowest price of a MAC at which the budget holds."""

    def at(price: float) -> np.ndarray:
        found = [
            floor + int(np.argmin(loss[floor:] + price * cost * np.arange(floor, len(loss))))
            for loss, cost, floor in zip(losses, unit, floors, strict=True)
        ]
        return np.array(found)

    steepest = max(float(loss.max(initial=0.0)) for loss in losses)
    if at(0.0) @ unit <= budget or steepest == 0.0:
        free = at(0.0)
        return free if free @ unit <= budget else floors.copy()
    # From a price at which nothing is worth its cost down to one that is free in practice.
    high = np.log(2.0 * steepest / min(cost for cost in unit if cost > 0))
    low = high - 100.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if at(float(np.exp(middle))) @ unit > budget:
            low = middle
        else:
            high = middle
    return at(float(np.exp(high)))


def _spend(counts: np.ndarray, losses: Sequence[Vector], unit: np.ndarray, budget: float) -> None:
    """Add units, each time the one that saves most per MAC, until none fits; changes `counts`."""
    left = budget - counts @ unit
    while True:
        open_sites = [
            i for i, loss in enumerate(losses) if counts[i] < len(loss) - 1 and unit[i] <= left
        ]
        if not open_sites:
            return
        best = max(
            open_sites,
            key=lambda i: ((losses[i][counts[i]] - losses[i][counts[i] + 1]) / unit[i], -i),
        )
        counts[best] += 1
        left -= unit[best]


def fitted_losses(errors: Vector, kept: Sequence[int], measured: Sequence[float]) -> Vector:
    """The loss at every size, from few measured ones and the output error of the site.

    What a site does to the output error of its own consumer it does to the model's output times a
    gain, nearly the same at all sizes: loss = gain * error^p, a line in log space. (MiniLM on
    movie_reviews: p is 1.1 to 1.6 where error and loss vary 30-fold and more.)

    Args:
        errors: Squared output error with 0..H units kept, shape (H + 1,), never increasing.
        kept: Sizes at which the loss was measured.
        measured: Losses there. Sizes without error or loss are left out.

    Returns:
        Losses, shape (H + 1,), never increasing; 0 where there is no error, and everywhere if no
        size is left to fit.
    """
    points = [
        (np.log(errors[k]), np.log(loss))
        for k, loss in zip(kept, measured, strict=True)
        if errors[k] > 0 and loss > 0
    ]
    losses = np.zeros_like(errors)
    if not points:
        return losses
    x, y = np.array(points).T
    spread = x - x.mean()
    slope = 1.0 if not spread.any() else float(spread @ y / (spread @ spread))
    slope = float(np.clip(slope, *_SLOPES))
    live = errors > 0
    losses[live] = np.exp(y.mean() + slope * (np.log(errors[live]) - x.mean()))
    return losses
