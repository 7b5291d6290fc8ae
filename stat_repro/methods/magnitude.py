"""Structured magnitude: the L2 norm of a unit's own weights.

The oldest criterion there is, in the structured form of Li et al., Pruning Filters for Efficient
ConvNets, ICLR 2017 (arXiv 1608.08710), who take the L1 norm of a filter's own (producing) weights
in a layer. Here a unit's score is the L2 norm over all weights that are removed with it:

- a neuron: its rows in all input projections of the FFN (gate and up where there are two) and its
  column in the output projection;
- a head or key/value group: its rows in the query, key and value projections and its columns in the
  attention's output projection.

Biases do not count. No data is read. Under `allocation=global` the raw norms of all layers are
ranked together, heads and neurons apart; both lose the same share.
"""

from __future__ import annotations

import torch
from torch import nn

from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, scores_by_site
from stat_repro.methods.correction import consumer_weight, float64
from stat_repro.methods.ranked import prune_by_scores
from stat_repro.models.adapter import Adapter, Site, linear


def prune(task: MethodInput) -> MethodOutput:
    """Plan and edits for the units of the largest norms."""
    watch = Stopwatch(next(task.model.parameters()).device)
    with watch.stage("scores_s"):
        scores = magnitude_scores(task.model, task.adapter)
    return prune_by_scores(task, scores, "proportional", watch)


def magnitude_scores(model: nn.Module, adapter: Adapter) -> dict[Key, torch.Tensor]:
    """L2 norm of the weights of every unit, shape (units,) per site."""

    def score(site: Site) -> torch.Tensor:
        columns = float64(consumer_weight(model, site)).square().sum(dim=0)
        squares = columns.view(site.units, site.width).sum(dim=1)
        for producer in site.producers:
            rows = float64(linear(model, producer.module).weight).square().sum(dim=1)
            squares += rows.view(site.units, producer.rows_per_unit).sum(dim=1)
        return squares.sqrt()

    return scores_by_site(adapter, score)
