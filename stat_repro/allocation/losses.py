"""Sizes from losses: the least sum over all sites that the budget allows.

Every site says what the model loses with 0, 1, ... of its units kept. The plan is the knapsack over
(site, size): a Lagrange multiplier prices MACs, every site takes the size with the least loss plus
price, and the price is raised until the budget holds. What is left over then goes unit by unit to
where it saves most. As heads are few and large, another plan may be a few percent better.
"""

from collections.abc import Sequence

import numpy as np

from stat_repro.allocation.allocate import Sizes
from stat_repro.allocation.budget import ROUNDING, Budget
from stat_repro.allocation.scores import Vector

# Halvings of the interval of log prices: far below what separates two sizes.
_HALVINGS = 100
# Limits of the slope of log loss over log error; a noisy measurement must not turn the curve.
_SLOPES = (0.8, 1.6)


def allocate_losses(heads: Sequence[Vector], neurons: Sequence[Vector], budget: Budget) -> Sizes:
    """Units per layer with the least sum of losses within the budget, or nearly.

    The realised MACs never exceed the budget and miss it by less than one neuron, unless all
    neurons are kept.

    Args:
        heads: Per layer the loss with 0..H attention units kept, shape (H + 1,), never increasing.
        neurons: Likewise with 0..F neurons kept.
        budget: What may stay.

    Raises:
        BudgetError: The floor does not fit the budget.
    """
    losses = budget.values("attention", heads, empty=1) + budget.values("ffn", neurons, empty=1)
    costs = budget.open
    unit = np.array([costs.head] * len(heads) + [costs.neuron] * len(neurons))
    floors = np.array([min(len(loss) - 1, budget.min_units) for loss in losses])
    macs = budget.macs + ROUNDING * costs.total
    if floors @ unit > macs:
        raise budget.too_small(*budget.floor)
    counts = _priced(losses, unit, floors, macs)
    _spend(counts, losses, unit, macs)
    total = sum(float(loss[count]) for loss, count in zip(losses, counts, strict=True))
    return Sizes(
        heads=tuple(counts[: len(heads)].tolist()),
        neurons=tuple(counts[len(heads) :].tolist()),
        details={"allocation": "global", "split": "losses", "predicted_loss": total},
    )


def _priced(
    losses: Sequence[Vector], unit: np.ndarray, floors: np.ndarray, macs: float
) -> np.ndarray:
    """Units per site at the lowest price of a MAC at which they cost at most `macs`."""

    def at(price: float) -> np.ndarray:
        return np.array(
            [
                floor + int(np.argmin(loss[floor:] + price * cost * np.arange(floor, len(loss))))
                for loss, cost, floor in zip(losses, unit, floors, strict=True)
            ]
        )

    free = at(0.0)
    if free @ unit <= macs:
        return free
    steepest = max(float(loss.max(initial=0.0)) for loss in losses)
    # From a price at which nothing is worth its cost down to one that is free in practice.
    high = np.log(2.0 * steepest / min(cost for cost in unit if cost > 0))
    low = high - 100.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if at(float(np.exp(middle))) @ unit > macs:
            low = middle
        else:
            high = middle
    return at(float(np.exp(high)))


def _spend(counts: np.ndarray, losses: Sequence[Vector], unit: np.ndarray, macs: float) -> None:
    """Add units, each time the one that saves most per MAC, until none fits; changes `counts`."""
    left = macs - counts @ unit
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

    The model's loss grows with the output error of the site's consumer in nearly the same way at
    all sizes: loss = gain * error^p, a line in log space. (MiniLM on movie_reviews: p is 1.1 to 1.6
    where error and loss vary 30-fold and more.)

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
