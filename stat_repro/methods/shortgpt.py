"""ShortGPT: whole layers go, the least influential first (Men et al. 2024, arXiv 2403.03853).

A layer's influence is 1 - mean cos(x_in, x_out) over the tokens of the calibration set, x the
residual stream. Layers are removed in ascending order of influence, all from one measurement of the
dense model. With norms before the branches a layer without attention and FFN hands the stream on
unchanged, so that removing it is exact. With norms behind the sums (encoders) it still normalises,
so the norm in front of it gives its weights up to the last norm of the removed layer: what lies
between is normalised already, and the model is the dense one without the layer but for the norms'
eps. In front of the first layer stands a norm of the embeddings; there the first layer stays.

Differs from the authors' code: a removed layer stays as an empty one (no heads, no neurons, no
output bias; two norms are left of it), which the model classes of this package load, and the number
of layers follows from the MAC budget. The realised MACs never exceed the budget; a ratio that would
be missed by more than half a layer is refused.
"""

from dataclasses import replace

import torch
from torch import nn

from stat_repro.allocation.budget import ROUNDING
from stat_repro.allocation.costs import BudgetError
from stat_repro.calibration.influence import layer_influence
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import output_of
from stat_repro.methods.correction import consumer_weight
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.projections import linear
from stat_repro.surgery.edit import SiteEdit


def prune(request: MethodInput) -> MethodOutput:
    """Plan and edits without the least influential layers.

    Raises:
        BudgetError: A ratio that whole layers miss by more than half a layer.
    """
    adapter = request.adapter
    costs = layer_costs(adapter, request.sequence_length)
    may_go = [layer for layer in range(adapter.num_layers) if layer or adapter.pre_norm]
    if len({cost for cost in costs if cost}) == 1:  # refuse the ratio before any work
        layers_to_remove(costs, may_go, request.ratio)
    with request.watch.stage("influence_s"):
        influence = layer_influence(request.model, adapter, request.batches)
    order = [layer for layer in torch.argsort(influence, stable=True).tolist() if layer in may_go]
    removed = layers_to_remove(costs, order, request.ratio)
    edits = [_fold(request, site, removed) for site in adapter.sites if site.units]
    details = {
        "allocation": "blocks",
        "block_influence": influence.tolist(),
        "removed_blocks": sorted(removed),
    }
    norms = moved_norms(request.model, adapter, removed)
    return replace(output_of(request, edits, details), norms=norms)


def layer_costs(adapter: Adapter, sequence_length: float) -> list[float]:
    """MACs per token of every layer."""
    costs = [0.0] * adapter.num_layers
    for site in adapter.sites:
        costs[site.layer] += site.units * site.unit_macs(sequence_length)
    return costs


def layers_to_remove(costs: list[float], order: list[int], ratio: float) -> set[int]:
    """The first layers of an order, as few as meet the budget.

    Args:
        costs: MACs per layer.
        order: Layers, the first to go first.
        ratio: Share of the MACs to remove.

    Raises:
        BudgetError: They remove more than half a layer more than was asked for, or too little.
    """
    wanted = ratio * sum(costs)
    removed: set[int] = set()
    spent = 0.0
    for layer in order:
        if spent >= wanted - ROUNDING * sum(costs):
            break
        if costs[layer]:  # a layer that is empty already saves nothing
            removed.add(layer)
            spent += costs[layer]
    number = sum(cost > 0 for cost in costs)
    if spent < wanted - ROUNDING * sum(costs):
        raise BudgetError(
            f"ratio={ratio} leaves no whole layer, and the first of {number} stays, because the "
            "norm in front of it belongs to the embeddings; expected at most "
            f"{spent / sum(costs):.3f}"
        )
    excess = (spent - wanted) * number / sum(costs)
    if excess > 0.5 + ROUNDING:
        raise BudgetError(
            f"ratio={ratio} falls {excess:.2f} layers short of the next plan within the budget; "
            f"{number} layers meet ratios of k/{number} and up to half a layer less"
        )
    return removed


def moved_norms(
    model: nn.Module, adapter: Adapter, removed: set[int]
) -> dict[str, dict[str, torch.Tensor]]:
    """Parameters of norms with which removed layers hand on what they read; none with `pre_norm`.

    A layer reads g n + b, n normalised. The norm in front of it then gives n, which the layer's
    first norm leaves as it is, and its second norm applies g and b.

    Args:
        model: The dense model.
        adapter: Its adapter.
        removed: Layers, not the first one.
    """
    moved: dict[str, dict[str, torch.Tensor]] = {}
    for layer in sorted(removed) if not adapter.pre_norm else ():
        before, (first, last) = adapter.norms[layer - 1][-1], adapter.norms[layer]
        given = {key: p.detach() for key, p in model.get_submodule(before).named_parameters()}
        moved[last] = moved.get(before, given)
        for name in (before, first):
            plain = {"weight": torch.ones_like, "bias": torch.zeros_like}
            moved[name] = {key: plain[key](tensor) for key, tensor in given.items()}
    return moved


def _fold(request: MethodInput, site: Site, removed: set[int]) -> SiteEdit:
    """Everything or nothing of a site; nothing has no bias either.

    A removed site's error is not measured: nothing is meant to replace it.
    """
    weight = consumer_weight(request.model, site)
    kept = () if site.layer in removed else tuple(range(site.units))
    bias = linear(request.model, site.consumer).bias
    new_bias = None if kept or bias is None else torch.zeros_like(bias)
    new = weight[:, : len(kept) * site.width].clone()
    return SiteEdit(site, kept, new, new_bias, 0.0 if kept else None)
