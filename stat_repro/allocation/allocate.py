"""From scores and a budget to sizes: how many heads and neurons every layer keeps."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stat_repro.allocation.budget import Budget
from stat_repro.allocation.ranking import Ranking, free_splits, proportional_splits, rank
from stat_repro.allocation.scores import UnitErrors, Vector
from stat_repro.config.methods import Split
from stat_repro.models.adapter import Site


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

    def of(self, site: Site) -> int:
        """Units that a site keeps."""
        return (self.heads if site.kind == "attention" else self.neurons)[site.layer]


def allocate_ranked(
    heads: Sequence[Vector],
    neurons: Sequence[Vector],
    budget: Budget,
    *,
    uniform: bool,
    split: Split,
) -> Sizes:
    """Units per layer for the budget, the highest scores first.

    The realised MACs never exceed the budget and miss it by less than one neuron, unless all
    neurons are kept.

    Args:
        heads: Per layer the scores of its attention units, highest first; comparable over layers.
        neurons: Per layer the scores of its neurons, highest first.
        budget: What may stay.
        uniform: Equal shares of heads and of neurons in every layer instead of one ranking.
        split: How heads and neurons share the budget; `uniform` is always proportional.

    Raises:
        BudgetError: The floor does not fit the budget.
    """
    head_ranking = rank(budget.values("attention", heads), budget.min_units, uniform=uniform)
    neuron_ranking = rank(budget.values("ffn", neurons), budget.min_units, uniform=uniform)
    split = "proportional" if uniform else split
    if split == "proportional":
        n_heads, n_neurons = proportional_splits(budget)[0]
    elif split == "joint":
        n_heads, n_neurons = _joint(head_ranking, neuron_ranking, budget)
    else:
        n_heads, n_neurons = _additive(head_ranking, neuron_ranking, budget)
    details = {"allocation": "uniform" if uniform else "global", "split": split}
    return Sizes(head_ranking.counts(n_heads), neuron_ranking.counts(n_neurons), details)


def _joint(heads: Ranking, neurons: Ranking, budget: Budget) -> tuple[int, int]:
    """Heads are kept down to the score at which heads and neurons together spend the budget."""
    splits = free_splits(budget)
    best = splits[0]
    for n_heads, n_neurons in splits[1:]:
        # Both rankings descend, so this is the split where their cutoffs cross.
        crossed = heads.score(n_heads - 1) < neurons.score(n_neurons)
        if crossed and n_heads > budget.floor[0]:
            break
        best = n_heads, n_neurons
    return best


def _additive(heads: Ranking, neurons: Ranking, budget: Budget) -> tuple[int, int]:
    """The split that keeps the largest sum of scores."""
    kept_heads = np.concatenate([[0.0], np.cumsum(heads.scores)])
    kept_neurons = np.concatenate([[0.0], np.cumsum(neurons.scores)])
    return max(free_splits(budget), key=lambda pair: kept_heads[pair[0]] + kept_neurons[pair[1]])


def allocate_uniform(scores: UnitErrors, budget: Budget) -> Sizes:
    """The same share of heads and of neurons in every layer.

    What does not divide evenly goes, unit by unit, to the layers that would lose most by score.
    """
    sizes = allocate_ranked(
        scores.heads, scores.neurons, budget, uniform=True, split="proportional"
    )
    return replace(sizes, details={"allocation": "uniform"})


def allocate_global(scores: UnitErrors, budget: Budget, balance_factor: float) -> Sizes:
    """One ranking over all layers per kind; heads and neurons balanced as in STAT.

    Among all splits of the budget the one is taken where the largest head score that is lost is
    closest to `balance_factor` times the mean neuron residual of the layers.
    """
    heads = rank(budget.values("attention", scores.heads), budget.min_units)
    neurons = rank(budget.values("ffn", scores.neurons), budget.min_units)
    tails_by_layer = budget.values("ffn", scores.neuron_tails, empty=1)

    def residual(kept: int) -> float:
        pairs = zip(tails_by_layer, neurons.counts(kept), strict=True)
        return float(np.mean([tails[count] for tails, count in pairs]))

    n_heads, n_neurons = min(
        proportional_splits(budget),
        key=lambda pair: abs(heads.cutoff(pair[0]) - balance_factor * residual(pair[1])),
    )
    details = {
        "allocation": "global",
        "head_cutoff": heads.cutoff(n_heads),
        "neuron_cutoff": neurons.cutoff(n_neurons),
        "mean_neuron_residual": residual(n_neurons),
    }
    return Sizes(heads.counts(n_heads), neurons.counts(n_neurons), details)
