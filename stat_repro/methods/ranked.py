"""From one score per unit to a pruned model: what all methods that rank units have in common."""

from collections.abc import Callable, Mapping

import torch

from stat_repro.allocation.allocate import Sizes, allocate_ranked
from stat_repro.allocation.budget import Budget
from stat_repro.config import METHODS
from stat_repro.linalg.pivoting import check_finite
from stat_repro.methods.base import MethodInput, MethodOutput, Prune
from stat_repro.methods.common import Key, Scores, fold_all, once_per_calibration, output_of
from stat_repro.methods.stat import sizes_of_stat
from stat_repro.models.adapter import Site

# What a method may do after the sizes are known: kept units of a site from its number of units.
Choice = Callable[[Site, int], torch.Tensor]


def by_scores(score: Callable[[MethodInput], Scores]) -> Prune:
    """The method that keeps the units of the highest scores.

    Args:
        score: Scores of all units; they must not depend on ratio or options.
    """

    def prune(request: MethodInput) -> MethodOutput:
        method = request.config.method

        def work(request: MethodInput) -> Scores:
            with request.watch.stage("scores_s"):
                return score(request)

        return prune_by_scores(request, once_per_calibration(request, (method, request.seed), work))

    return prune


def prune_by_scores(
    request: MethodInput, scores: Scores, choice: Choice | None = None
) -> MethodOutput:
    """Keep the units of the highest scores under the configured sizes, and correct the consumers.

    Args:
        request: What the method was given.
        scores: Scores of all units.
        choice: Another choice of a site's kept units for a given number; by default the highest
            scores, the earlier unit among equals.
    """
    for site in request.adapter.sites:
        if site.units:
            check_finite(scores[site.key], f"{site.name}, scores of the units")
    orders = {
        key: torch.argsort(values.cpu(), descending=True, stable=True)
        for key, values in scores.items()
    }
    if request.config.allocation == "stat":
        sizes = sizes_of_stat(request)
    else:
        with request.watch.stage("allocate_s"):
            sizes = _sizes(request, scores, orders)

    def kept(site: Site) -> torch.Tensor:
        count = sizes.of(site)
        if choice is None or count in (0, site.units):
            return orders[site.key][:count]
        return choice(site, count)

    with request.watch.stage("select_s"):
        chosen = {site.key: kept(site) for site in request.adapter.sites}
    edits = fold_all(request, lambda site, _: chosen[site.key])
    return output_of(request, edits, sizes.details)


def _sizes(request: MethodInput, scores: Scores, orders: Mapping[Key, torch.Tensor]) -> Sizes:
    """Units per layer by these scores, neurons rounded."""
    config, adapter = request.config, request.adapter
    ordered = {key: values.cpu().double()[orders[key]].numpy() for key, values in scores.items()}
    heads = [ordered[site.key] for site in adapter.of_kind("attention")]
    neurons = [ordered[site.key] for site in adapter.of_kind("ffn")]

    def allocated(budget: Budget) -> Sizes:
        uniform, split = config.allocation == "uniform", METHODS[config.method].split
        return allocate_ranked(heads, neurons, budget, uniform=uniform, split=split)

    return request.sized(allocated, neurons)
