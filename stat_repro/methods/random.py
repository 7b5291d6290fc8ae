"""Random units: the floor that every criterion has to clear.

Every unit gets an independent uniform score from one generator, in the order of the sites, so that
the units kept at a smaller ratio contain those kept at a larger one. Under `allocation=global` all
heads of the model are ranked together, and all neurons, so that layers differ in size by chance;
heads and neurons lose the same share.
"""

from __future__ import annotations

import torch

from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, scores_by_site
from stat_repro.methods.ranked import prune_by_scores
from stat_repro.models.adapter import Adapter


def prune(task: MethodInput) -> MethodOutput:
    """Plan and edits for random units, drawn with `task.seed`."""
    watch = Stopwatch()
    with watch.stage("scores_s"):
        scores = random_scores(task.adapter, task.seed)
    return prune_by_scores(task, scores, "proportional", watch)


def random_scores(adapter: Adapter, seed: int) -> dict[Key, torch.Tensor]:
    """Uniform scores in [0, 1), shape (units,) per site; no global generator is touched."""
    generator = torch.Generator().manual_seed(seed)
    return scores_by_site(
        adapter,
        lambda site: torch.rand(site.units, generator=generator, dtype=torch.float64),
    )
