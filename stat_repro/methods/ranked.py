"""From one score per unit to a pruned model: what all methods that rank units have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from stat_repro.allocation.allocate import Sizes
from stat_repro.allocation.costs import unit_costs
from stat_repro.allocation.ranking import Split, allocate_ranked
from stat_repro.allocation.restrict import completed, kind_or_none, restricted
from stat_repro.allocation.rounding import round_neurons
from stat_repro.linalg.pivoting import check_finite
from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import REFITTED, Key, fold_all, output_of
from stat_repro.methods.stat import stat_sizes
from stat_repro.models.adapter import Site

# What a method may do after the sizes are known: kept units of a site from its number of units.
Choice = Callable[[Site, int], torch.Tensor]


def prune_by_scores(
    task: MethodInput,
    scores: Mapping[Key, torch.Tensor],
    split: Split,
    watch: Stopwatch,
    choice: Choice | None = None,
) -> MethodOutput:
    """Keep the units of the highest scores under the configured sizes, and correct the consumers.

    Args:
        task: What the method was given.
        scores: Per site one score per unit, shape (units,); higher is kept first.
        split: How heads and neurons share the budget under `allocation=global`.
        watch: Has the seconds that the scores took.
        choice: Another choice of a site's kept units for a given number; by default the highest
            scores, the earlier unit among equals.
    """
    for site in task.adapter.sites:
        if site.units:
            check_finite(scores[site.layer, site.kind], f"{site.name}, scores of the units")
    orders = {
        key: torch.argsort(values.cpu(), descending=True, stable=True)
        for key, values in scores.items()
    }
    if task.config.allocation == "stat":
        sizes, _ = stat_sizes(task, watch)
        sizes = replace(sizes, details={**sizes.details, "allocation": "stat"})
    else:
        with watch.stage("allocate_s"):
            sizes = _own_sizes(task, scores, orders, split)

    def kept(site: Site) -> torch.Tensor:
        key = (site.layer, site.kind)
        count = (sizes.heads if site.kind == "attention" else sizes.neurons)[site.layer]
        if choice is None or count in (0, site.units):
            return orders[key][:count]
        return choice(site, count)

    with watch.stage("select_s"):
        chosen = {(site.layer, site.kind): kept(site) for site in task.adapter.sites}
    folded = fold_all(
        task,
        {layer: units for (layer, kind), units in chosen.items() if kind == "ffn"},
        lambda site, _: chosen[site.layer, site.kind],
        watch,
        refit=task.config.correction in REFITTED,
    )
    return output_of(task, folded, sizes.details, watch)


def _own_sizes(
    task: MethodInput,
    scores: Mapping[Key, torch.Tensor],
    orders: Mapping[Key, torch.Tensor],
    split: Split,
) -> Sizes:
    """Units per layer by the method's own scores, neurons rounded."""
    config = task.config
    ordered = {key: values.cpu().double()[orders[key]].numpy() for key, values in scores.items()}
    layers = range(task.adapter.num_layers)
    heads = [ordered[i, "attention"] for i in layers]
    neurons = [ordered[i, "ffn"] for i in layers]
    costs = unit_costs(task.adapter, task.sequence_length)
    if config.neuron_mac_share is not None:
        costs = costs.with_neuron_share(config.neuron_mac_share)
    own, own_ratio = restricted(costs, task.ratio, config.kinds)
    sizes = allocate_ranked(
        kind_or_none(heads, config.kinds, "attention"),
        kind_or_none(neurons, config.kinds, "ffn"),
        own,
        own_ratio,
        config.min_units,
        uniform=config.allocation == "uniform",
        split=split,
    )
    target = (own, own_ratio, config.min_units)
    return completed(round_neurons(sizes, neurons, *target, task.round_to), costs, config.kinds)
