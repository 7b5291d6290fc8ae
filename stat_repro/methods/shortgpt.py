"""ShortGPT: whole blocks go, the least influential first (Men et al. 2024, arXiv 2403.03853).

A block's influence is 1 - mean cos(x_in, x_out) over the tokens of the calibration set, x the
residual stream. Blocks are removed in ascending order of influence, all from one measurement of the
dense model. Decoders with norms before the branches only: there a block without attention and FFN
hands the stream on unchanged, so that removing it is exact.

Differs from the authors' code: a removed block stays as an empty layer (no heads, no neurons, no
output bias; two norms are left of it), which the model classes of this package load, and the number
of blocks follows from the MAC budget. The realised MACs never exceed the budget; a ratio that would
be missed by more than half a block is refused.
"""

from __future__ import annotations

import torch

from stat_repro.allocation.costs import BudgetError
from stat_repro.calibration.influence import layer_influence
from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput, SiteError
from stat_repro.methods.common import plan_of
from stat_repro.methods.correction import consumer_weight
from stat_repro.models.adapter import Adapter, Site, UnsupportedModelError, linear
from stat_repro.surgery.edit import SiteEdit

# A budget that is met exactly must not lose a block to rounding.
_ROUNDING = 1e-9


def prune(task: MethodInput) -> MethodOutput:
    """Plan and edits without the least influential blocks.

    Raises:
        UnsupportedModelError: No decoder, or one with its norms after the sums.
        BudgetError: A ratio that whole blocks miss by more than half a block.
    """
    adapter = task.adapter
    if not adapter.pre_norm:
        raise UnsupportedModelError(
            "method=shortgpt removes whole blocks, which needs a decoder with norms before "
            f"attention and FFN; got {adapter.model_type}"
        )
    watch = Stopwatch(next(task.model.parameters()).device)
    costs = block_costs(adapter, task.sequence_length)
    _check_ratio(costs, task.ratio)
    with watch.stage("influence_s"):
        influence = layer_influence(task.model, adapter, task.batches)
    order = torch.argsort(influence, stable=True).tolist()
    removed = blocks_to_remove(costs, order, task.ratio)
    edits = [_edit(task, site, removed) for site in adapter.sites if site.units]
    details = {
        "allocation": "blocks",
        "block_influence": influence.tolist(),
        "removed_blocks": sorted(removed),
    }
    return MethodOutput(
        plan=plan_of(adapter, edits, task.config.method, details),
        edits=tuple(edits),
        errors=tuple(_error(site, edit) for site, edit in zip(_live(adapter), edits, strict=True)),
        timings=watch.seconds,
    )


def block_costs(adapter: Adapter, sequence_length: float) -> list[float]:
    """MACs per token of every block."""
    costs = [0.0] * adapter.num_layers
    for site in adapter.sites:
        costs[site.layer] += site.units * site.unit_macs(sequence_length)
    return costs


def blocks_to_remove(costs: list[float], order: list[int], ratio: float) -> set[int]:
    """The first blocks of an order, as few as meet the budget.

    Args:
        costs: MACs per block.
        order: Blocks, the first to go first.
        ratio: Share of the MACs to remove.

    Raises:
        BudgetError: They remove more than half a block more than was asked for.
    """
    wanted = ratio * sum(costs)
    removed: set[int] = set()
    spent = 0.0
    for block in order:
        if spent >= wanted - _ROUNDING * sum(costs):
            break
        if costs[block]:  # a block that is empty already saves nothing
            removed.add(block)
            spent += costs[block]
    number = sum(cost > 0 for cost in costs)
    excess = (spent - wanted) * number / sum(costs)
    if excess > 0.5 + _ROUNDING:
        raise BudgetError(
            f"ratio={ratio} falls {excess:.2f} blocks short of the next plan within the budget; "
            f"{number} blocks meet ratios of k/{number} and up to half a block less"
        )
    return removed


def _check_ratio(costs: list[float], ratio: float) -> None:
    """Where all blocks cost the same, refuse a ratio before any work."""
    if len({cost for cost in costs if cost}) == 1:
        blocks_to_remove(costs, list(range(len(costs))), ratio)


def _live(adapter: Adapter) -> list[Site]:
    return [site for site in adapter.sites if site.units]


def _edit(task: MethodInput, site: Site, removed: set[int]) -> SiteEdit:
    """Everything or nothing of a site; nothing has no bias either."""
    weight = consumer_weight(task.model, site)
    if site.layer not in removed:
        return SiteEdit(site.layer, site.kind, tuple(range(site.units)), weight.clone())
    bias = linear(task.model, site.consumer).bias
    return SiteEdit(
        site.layer,
        site.kind,
        (),
        weight[:, :0].clone(),
        None if bias is None else torch.zeros_like(bias),
    )


def _error(site: Site, edit: SiteEdit) -> SiteError:
    """A removed site's error is not measured: nothing in its place is meant to replace it."""
    error = 0.0 if edit.kept else None
    return SiteError(site.layer, site.kind, site.units, len(edit.kept), error)
