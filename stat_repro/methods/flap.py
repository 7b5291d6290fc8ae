"""FLAP: Fluctuation-based Adaptive Structured Pruning (An et al., AAAI 2024, arXiv 2312.11983).

A column of the consumer is scored by its weighted input fluctuation, the sample variance of its
input times its squared norm: what is lost when the column is replaced by its mean contribution,
which goes into the consumer's bias (`correction=bias`). Scores are standardised inside every layer
and kind, averaged over the columns of a head, and all units of the model are ranked together, each
paid by its cost (`allocation=global`; "AL-AM" in their code).

Differs from the authors' code: their attention score is the square of the formula, which is not
repeated; a unit is paid by its MACs instead of its parameters, and the budget is met within one
neuron; a key/value group is one unit where queries are grouped, and existing biases are added to;
every site keeps `min_units`. As theirs: statistics of the dense model for all layers.
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
    """Plan and edits for the units whose inputs fluctuate most."""
    watch = Stopwatch(next(task.model.parameters()).device)
    with watch.stage("scores_s"):
        scores = fluctuation_scores(task.model, task.adapter, task.calibration)
    return prune_by_scores(task, scores, "joint", watch)


def fluctuation_scores(
    model: nn.Module, adapter: Adapter, calibration: Calibration
) -> dict[Key, torch.Tensor]:
    """Standardised weighted fluctuation of every unit, shape (units,) per site.

    Columns: var(A[:, j]) ||W[:, j]||^2 (variance with n - 1; one token fluctuates by nothing), then
    the mean over the site's columns taken off and divided by their sample deviation; where all are
    equal the score is 0.
    """

    def score(site: Site) -> torch.Tensor:
        statistics = calibration.statistics[site.layer, site.kind]
        weight = float64(consumer_weight(model, site))
        spread = statistics.centred().square_sums / max(statistics.tokens - 1, 1)
        columns = spread.to(weight.device) * weight.square().sum(dim=0)
        columns = columns - columns.mean()
        if len(columns) > 1 and float(columns.std()) > 0:
            columns = columns / columns.std()
        return columns.view(site.units, site.width).mean(dim=1)

    return scores_by_site(adapter, score)
