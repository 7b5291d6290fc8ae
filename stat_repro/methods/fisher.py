"""Fisher mask search, rearrangement and tuning (Kwon et al. 2022).

A Fast Post-Training Pruning Framework for Transformers, NeurIPS 2022, arXiv 2204.09656.

Uses labels and gradients, unlike all other methods here: the loss of every calibration example is
differentiated with respect to a mask variable per unit. Three steps:

1. Mask search: the diagonal of the Fisher information, the mean squared gradient, estimates what
   the loss gains without a unit; the split of the budget between heads and neurons removes the
   smallest sum (`allocation=global`).
2. Rearrangement: inside every site, for its number of units, the removed units are exchanged one by
   one while the block of the Fisher information asks for it, because units that are harmless alone
   may not be harmless together.
3. Mask tuning: one factor per kept unit by least squares (`correction=scale`), folded into the
   consumer's columns.

Differs from the paper and its code. Step 1: gradients are squared per example, as in the paper; the
code squares means of batches. Every site keeps `min_units`. Units are physically removed. Step 3:
the target is the dense site's output on dense inputs, for heads on inputs behind corrected FFNs,
all from the streamed statistics; theirs is the sum of output and residual of a half-pruned teacher,
layer by layer on the pruned student's inputs, with the first attention left out, and in the last
FFN of a classifier only the first token. Damping is `pruning.ridge` towards factor 1 instead of
LSMR's. A factor beyond 10 leaves that site as it is; theirs ends the tuning there.

Losses: cross-entropy of classes, squared error of a number, token cross-entropy of running text
(not in the paper). Other task heads are refused.
"""

import torch

from stat_repro.calibration.divergence import problem_of
from stat_repro.calibration.gradients import mask_gradients
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, Scores, once_per_calibration, scores_by_site
from stat_repro.methods.ranked import prune_by_scores
from stat_repro.models.adapter import Adapter, Site

# Per site with units (examples, units).
Gradients = dict[Key, torch.Tensor]


def prune(request: MethodInput) -> MethodOutput:
    """Plan and edits for the units that the loss depends on."""

    def work(request: MethodInput) -> Gradients:
        with request.watch.stage("gradients_s"):
            return mask_gradients(request.model, request.adapter, request.batches)

    # What the loss depends on beside model and inputs.
    labels = str([batch["labels"].tolist() for batch in request.batches if "labels" in batch])
    key = ("fisher", problem_of(request.model), labels)
    gradients = once_per_calibration(request, key, work)

    def choice(site: Site, count: int) -> torch.Tensor:
        return rearranged(gradients[site.key], site.units - count)

    scores = fisher_scores(request.adapter, gradients)
    return prune_by_scores(request, scores, choice)


def fisher_scores(adapter: Adapter, gradients: Gradients) -> Scores:
    """Diagonal of the empirical Fisher information, shape (units,) per site.

    Args:
        adapter: Names the sites, those without units included.
        gradients: Per site with units (examples, units).
    """
    return scores_by_site(adapter, lambda site: gradients[site.key].square().mean(dim=0))


def rearranged(gradients: torch.Tensor, removed: int) -> torch.Tensor:
    """Units to keep when `removed` of them go, by the block of the Fisher information F = g^T g.

    Minimises 1_R^T F 1_R over sets R of removed units greedily, as section 3.2 of the paper: from
    the smallest diagonal entries, every other unit in ascending order is put in, and the unit
    whose leaving lowers the sum most is taken out again.

    Args:
        gradients: g, per example and unit, (examples, units).
        removed: Number of units to remove.

    Returns:
        Kept units, ascending, (units - removed,).
    """
    fisher = gradients.T @ gradients
    diagonal = fisher.diagonal()
    order = torch.argsort(diagonal, stable=True)
    gone = torch.zeros(len(order), dtype=torch.bool)
    gone[order[:removed]] = True
    coupling = fisher[:, gone].sum(dim=1)  # F 1_R
    for unit in order[removed:].tolist():
        gone[unit] = True
        coupling = coupling + fisher[unit]
        # The sum without u is the sum minus 2 (F 1_R)_u - F_uu.
        gain = torch.where(gone, 2.0 * coupling - diagonal, -torch.inf)
        back = int(torch.argmax(gain))
        gone[back] = False
        coupling = coupling - fisher[back]
    return torch.nonzero(~gone).flatten()
