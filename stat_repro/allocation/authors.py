"""The allocation of the authors' BERT script, recorded slips included (`authors_compat`).

Kept apart so that the method itself stays free of switches; what differs is said in the docstring.
"""

import numpy as np

from stat_repro.allocation.allocate import Sizes
from stat_repro.allocation.costs import BudgetError
from stat_repro.allocation.scores import UnitErrors

# FFN share of BERT-base at 30.55 tokens (the mean length of QQP), hard-coded in the script for
# every model and task.
AUTHORS_NEURON_SHARE = 0.6622759267443489


def allocate_authors(
    scores: UnitErrors, ratio: float, neuron_share: float, balance_factor: float
) -> Sizes:
    """Sizes per layer as the script computes them.

    Not repeated is where the script fails or cannot be meant: negative neuron budgets (which it
    only survives with 12 layers), the truncation of R at 3,100 rows and 14 heads, and pinv's
    minimum-norm solution with fewer tokens than kept units.

    Differences from `allocate_global`: only whole average head counts are tried; the head cutoff
    is the smallest error that was avoided, not the largest that is lost; counts come from
    comparisons with cutoffs (ties under-fill neurons and over-fill heads); the neuron budget is
    taken again from the truncated mean of the counts.

    Args:
        scores: Weighted errors; all layers of equal size.
        ratio: Share of the MACs removed; the script's mu is 1 - ratio.
        neuron_share: FFN share of the MACs that the budget assumes.
        balance_factor: The script's 2.

    Raises:
        BudgetError: A ratio at which the script itself fails.
    """
    for kind, units in (("heads", scores.heads), ("neurons", scores.neurons)):
        sizes = sorted({len(u) for u in units})
        if len(sizes) != 1:
            raise BudgetError(
                f"authors_compat: the script knows layers of one size; got {kind} {sizes}"
            )
    mu = round(1.0 - ratio, 12)  # the script is given mu itself, 0.1 and not 1 - 0.9
    layers, heads, width = len(scores.heads), len(scores.heads[0]), len(scores.neurons[0])
    head_errors = np.sort(np.concatenate(scores.heads))[::-1]
    neuron_errors = np.sort(np.concatenate(scores.neurons))[::-1]
    splits = []
    for average in range(int(mu * heads), heads + 1):
        neurons = int(width * (mu - (1.0 - neuron_share) * average / heads) / neuron_share)
        if not 0 <= neurons < width:
            continue
        cutoff = 0.0 if average == heads else float(head_errors[average * layers - 1])
        counts = _above(scores, neuron_errors[neurons * layers])
        residual = np.mean([t[k] for t, k in zip(scores.neuron_tails, counts, strict=True)])
        splits.append((abs(cutoff - balance_factor * float(residual)), average, counts))
    if not splits:
        raise BudgetError(f"authors_compat: the authors' script has no split at ratio={ratio}")
    _, average, counts = min(splits, key=lambda split: split[0])
    mean_count = int(np.mean(counts))
    neuron_cutoff = float(neuron_errors[mean_count * layers])
    head_cutoff = float(head_errors[average * layers - 1])
    return Sizes(
        heads=tuple(int(np.sum(h >= head_cutoff)) for h in scores.heads),
        neurons=tuple(_above(scores, neuron_cutoff)),
        details={
            "allocation": "authors",
            "head_average": average,
            "neuron_average": mean_count,
            "head_cutoff": head_cutoff,
            "neuron_cutoff": neuron_cutoff,
        },
    )


def _above(scores: UnitErrors, cutoff: float) -> list[int]:
    """Neurons per layer with a score above the cutoff."""
    return [int(np.sum(e > cutoff)) for e in scores.neurons]
