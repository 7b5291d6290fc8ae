"""Units by ridge leverage scores: the selection of MoDeGPT's MLPs, a cheap one beside pivots.

MoDeGPT: Lin et al., Modular Decomposition for Large Language Model Compression, ICLR 2025
(arXiv 2408.09632), keeps the neurons of an MLP that have the largest ridge leverage scores of the
activations' Gram matrix and fits the output projection to them (Nystroem, which is `lstsq` here).
Each score looks at one column beside all others, so two equal neurons are both kept or both dropped
where pivots keep one.

Differs from the paper: activations are scaled by the norms of the consumer's columns, as STAT's
pivots are, and the ridge is relative to their mean square; heads, whose matrices MoDeGPT
factorises, are kept whole by the sum of the scores of their columns; every layer loses the same
share (`allocation=uniform`), where the paper has sizes of its own. `allocation=global` ranks the
scores of all layers together, which the paper does not do.
"""

from __future__ import annotations

import torch
from torch import nn

from stat_repro.calibration.capture import Calibration
from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, once_per_calibration, scores_by_site
from stat_repro.methods.correction import consumer_weight, float64
from stat_repro.methods.ranked import prune_by_scores
from stat_repro.models.adapter import Adapter, Site

# MiniLM, movie_reviews, KL on the validation part at 0.5 / 0.7, one seed, with the sizes and the
# correction of STAT: 0.0270 / 0.0808, 0.0263 / 0.0807, 0.0274 / 0.0764, 0.0294 / 0.0809 for 1e-4 to
# 1e-1; its own units 0.0276 / 0.0784. So it hardly matters.
RIDGE = 1e-2


def prune(task: MethodInput) -> MethodOutput:
    """Plan and edits for the units of the largest leverage."""
    watch = Stopwatch(next(task.model.parameters()).device)

    def work(own: Stopwatch) -> dict[Key, torch.Tensor]:
        with own.stage("scores_s"):
            return leverage_scores(task.model, task.adapter, task.calibration)

    scores = once_per_calibration(task, "leverage", work, watch)
    return prune_by_scores(task, scores, "proportional", watch)


def leverage_scores(
    model: nn.Module, adapter: Adapter, calibration: Calibration, ridge: float = RIDGE
) -> dict[Key, torch.Tensor]:
    """Sum of the leverage scores of a unit's columns, shape (units,) per site."""

    def score(site: Site) -> torch.Tensor:
        norms = float64(consumer_weight(model, site)).norm(dim=0)
        statistics = calibration.statistics[site.layer, site.kind]
        columns = statistics.leverage(norms, ridge)
        return columns.view(site.units, site.width).sum(dim=1)

    return scores_by_site(adapter, score)
