"""Wanda-sp: the structured form of Wanda, |W| ||X||_2 summed over a unit.

Wanda: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024
(arXiv 2306.11695), scores single weights by |W_ij| ||X_j||_2, X_j the j-th input over all tokens.
Wanda-sp is the structured baseline of An et al. (FLAP, AAAI 2024, arXiv 2312.11983): the
scores of the consumer's column are added up, over all columns of a head for heads, and every layer
loses the same share of heads and of neurons (`allocation=uniform`).

Differs from FLAP's code: a key/value group is one unit where queries are grouped; statistics are
those of the dense model for all layers. `allocation=global` ranks the raw scores of all layers
together, which the paper does not do.
"""

from __future__ import annotations

import torch
from torch import nn

from stat_repro.calibration.capture import Calibration
from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, scores_by_site
from stat_repro.methods.correction import consumer_weight, float64
from stat_repro.methods.ranked import prune_by_scores
from stat_repro.models.adapter import Adapter, Site


def prune(task: MethodInput) -> MethodOutput:
    """Plan and edits for the units of the largest weighted norms."""
    watch = Stopwatch(next(task.model.parameters()).device)
    with watch.stage("scores_s"):
        scores = wanda_scores(task.model, task.adapter, task.calibration)
    return prune_by_scores(task, scores, "proportional", watch)


def wanda_scores(
    model: nn.Module, adapter: Adapter, calibration: Calibration
) -> dict[Key, torch.Tensor]:
    """Sum over a unit's columns j of ||W[:, j]||_1 ||A[:, j]||_2, shape (units,) per site."""

    def score(site: Site) -> torch.Tensor:
        lengths = calibration.statistics[site.layer, site.kind].square_sums.sqrt()
        weight = float64(consumer_weight(model, site))
        columns = weight.abs().sum(dim=0) * lengths.to(weight.device)
        return columns.view(site.units, site.width).sum(dim=1)

    return scores_by_site(adapter, score)
