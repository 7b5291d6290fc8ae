"""STAT: Shrinking Transformers After Training (Flynn et al., arXiv 2406.00061).

The order of steps is the one of the authors' released code:

1. statistics of the dense model give the errors of all units, and from them the sizes per layer;
2. every FFN keeps its first pivots, and the interpolation is folded into its output projection;
3. head statistics are taken again on the model with folded FFNs, pivoted, cut and folded.

The model given is not changed: step 3 runs on temporarily exchanged Linears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import nn

from stat_repro.allocation.allocate import Sizes, allocate_global, allocate_uniform
from stat_repro.allocation.authors import AUTHORS_NEURON_SHARE, allocate_authors
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.rounding import final_sizes
from stat_repro.allocation.scores import UnitErrors, Vector, decoder_scores, encoder_scores
from stat_repro.calibration.capture import Calibration
from stat_repro.calibration.statistics import SiteStatistics, pivots_of
from stat_repro.config import ConfigError, PruningConfig
from stat_repro.linalg.pivoting import PivotedFactor
from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, fold_all, once_per_calibration, output_of
from stat_repro.methods.correction import consumer_weight, float64
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.devices import spare_memory
from stat_repro.parallel import exchange, spread
from stat_repro.plan import SiteKind


def prune(request: MethodInput) -> MethodOutput:
    """Plan and edits of STAT for one model and one ratio."""
    watch = Stopwatch(request.device)
    sizes, dense = _sizes(request, watch)

    def kept(site: Site, calibration: Calibration) -> torch.Tensor:
        if site.kind == "ffn":
            return dense.neuron_orders[site.layer][: sizes.of(site)]
        return head_order(site, calibration)[: sizes.of(site)]

    norms: dict[Key, float] = {(i, "ffn"): norm for i, norm in enumerate(dense.ffn_norms)}
    folded = fold_all(request, kept, watch, recalibrate=True, norms=norms)
    return output_of(request, folded, sizes.details, watch)


def sizes_of_stat(request: MethodInput, watch: Stopwatch) -> Sizes:
    """Units per layer by STAT's recipe, for the selection of another method (`allocation=stat`)."""
    sizes, _ = _sizes(request, watch)
    return replace(sizes, details={**sizes.details, "allocation": "stat"})


def _sizes(request: MethodInput, watch: Stopwatch) -> tuple[Sizes, DenseAnalysis]:
    """Units per layer by STAT's recipe, and what they follow from."""
    dense = _dense_analysis(request, watch)
    with watch.stage("allocate_s"):
        return allocate(dense.errors, request), dense


@dataclass(frozen=True)
class DenseAnalysis:
    """What the dense statistics say, whatever the ratio.

    Attributes:
        errors: Of all units.
        neuron_orders: Pivot order of each layer's neurons.
        ffn_norms: ||A W^T||_F of each layer's FFN; 0 where it has no neurons.
    """

    errors: UnitErrors
    neuron_orders: list[torch.Tensor]
    ffn_norms: list[float]


def _dense_analysis(request: MethodInput, watch: Stopwatch) -> DenseAnalysis:
    """The analysis; worked out once for all ratios of one calibration."""
    model, adapter, calibration = request.model, request.adapter, request.calibration

    def norm(site: Site) -> float:
        return ffn_norm(model, site, calibration)

    def work(stages: Stopwatch) -> DenseAnalysis:
        with stages.stage("errors_s"):
            errors, orders = unit_errors(model, adapter, calibration, request.config)
            norms = spread(adapter.of_kind("ffn"), norm, "output norms")
        return DenseAnalysis(errors, orders, norms)

    key = ("stat", request.config.authors_compat, request.config.scaling)
    return once_per_calibration(request, key, work, watch)


def ffn_norm(model: nn.Module, site: Site, calibration: Calibration) -> float:
    """||A W^T||_F of an FFN; 0 where it has no neurons."""
    if not site.units:
        return 0.0
    weight = float64(consumer_weight(model, site))
    return calibration.statistics[site.layer, "ffn"].output_error(weight)


def unit_errors(
    model: nn.Module, adapter: Adapter, calibration: Calibration, config: PruningConfig
) -> tuple[UnitErrors, list[torch.Tensor]]:
    """Errors of all units from the dense statistics, and the pivot order of each layer's neurons.

    See `site_analyses`.
    """

    def analysed(group: list[Site]) -> list[SiteAnalysis]:
        return site_analyses(model, group, calibration, config)

    groups = [[site] for site in adapter.of_kind("attention")]
    groups += equal_sites(adapter.of_kind("ffn"), next(model.parameters()).device)
    analyses = spread(groups, analysed, "decomposing sites")
    by_site = {
        site.key: analysis
        for sites, together in zip(groups, analyses, strict=True)
        for site, analysis in zip(sites, together, strict=True)
    }
    return gathered([by_site[site.key] for site in adapter.sites])


def equal_sites(sites: Sequence[Site], device: torch.device) -> list[list[Site]]:
    """Neighbours of one size in groups of as many as are factored together.

    On the CPU, where LAPACK takes one, groups of one; on a GPU as many as half of its spare memory
    holds with their copies, Schur complements and factors.
    """
    groups: list[list[Site]] = []
    room = min(exchange(spare_memory(device)))
    for size, equal in groupby(sites, key=lambda site: site.columns):
        left, step = list(equal), max(1, room // (2 * 4 * 8 * max(size, 1) ** 2))
        groups += [left[i : i + step] for i in range(0, len(left), step)]
    return groups


@dataclass(frozen=True)
class SiteAnalysis:
    """What the dense statistics say of one site.

    Attributes:
        kind: Of the site.
        errors: Of its units; of an FFN in pivot order, of heads when the first i are kept.
        tails: What is lost with the first i neurons kept; of heads nothing.
        order: Pivot order of the neurons; of heads nothing.
    """

    kind: SiteKind
    errors: Vector
    tails: Vector
    order: torch.Tensor


def site_analyses(
    model: nn.Module, sites: Sequence[Site], calibration: Calibration, config: PruningConfig
) -> list[SiteAnalysis]:
    """Errors of the units of sites; FFNs of one size are factored together.

    Neurons: pivots of the activations whose columns are scaled by the norms of the consumer's
    columns (`scaling=none`: of the activations themselves). Heads: pivots of the (tokens * d) x H
    view; the error of keeping the first i is that of the consumer's output after the least-squares
    correction.
    """
    wide = [site for site in sites if site.kind == "ffn" and site.units]
    scales = [_scale(model, site, config) for site in wide]
    factors = iter(pivots_of([calibration.statistics[site.key] for site in wide], scales))
    return [
        _ffn_analysis(next(factors))
        if site in wide
        else _other_analysis(model, site, calibration, config)
        for site in sites
    ]


def _scale(model: nn.Module, site: Site, config: PruningConfig) -> torch.Tensor:
    """What the columns of the activations are scaled by, (F,)."""
    weight = float64(consumer_weight(model, site))
    return weight.norm(dim=0) if config.scaling == "consumer" else weight.new_ones(site.columns)


def _ffn_analysis(factor: PivotedFactor) -> SiteAnalysis:
    return SiteAnalysis(
        kind="ffn",
        errors=factor.magnitudes.cpu().numpy(),
        tails=factor.tail_norms.cpu().numpy(),
        order=factor.order.cpu(),
    )


def _other_analysis(
    model: nn.Module, site: Site, calibration: Calibration, config: PruningConfig
) -> SiteAnalysis:
    """Of heads, or of a site without units."""
    errors, tails = np.zeros(0), np.zeros(0 if site.units else 1)
    if site.units:
        weight = float64(consumer_weight(model, site))
        statistics = calibration.statistics[site.key]
        errors = _head_errors(statistics, weight, site, config).cpu().numpy()
    return SiteAnalysis(site.kind, errors, tails, torch.zeros(0, dtype=torch.int64))


def gathered(analyses: Sequence[SiteAnalysis]) -> tuple[UnitErrors, list[torch.Tensor]]:
    """Errors of all units and pivot orders of the neurons, from the analyses in layer order."""
    ffn = [analysis for analysis in analyses if analysis.kind == "ffn"]
    errors = UnitErrors(
        tuple(analysis.errors for analysis in analyses if analysis.kind == "attention"),
        tuple(analysis.errors for analysis in ffn),
        tuple(analysis.tails for analysis in ffn),
    )
    return errors, [analysis.order for analysis in ffn]


def head_order(site: Site, calibration: Calibration) -> torch.Tensor:
    """Pivot order of the heads of a site, first to keep first."""
    return calibration.statistics[site.layer, "attention"].pivot_units(site.width).order


def _head_errors(
    statistics: SiteStatistics, weight: torch.Tensor, site: Site, config: PruningConfig
) -> torch.Tensor:
    order = statistics.pivot_units(site.width).order
    # The authors put the residual's heads back with the permutation instead of its inverse.
    readers = torch.argsort(order) if config.authors_compat else order
    return statistics.removal_errors(order, weight, readers, site.width)[:-1]


def allocate(errors: UnitErrors, request: MethodInput) -> Sizes:
    """Sizes per layer by the configured recipe and allocation, neurons rounded.

    Raises:
        ConfigError: `authors_compat` for a decoder.
        BudgetError: The ratio cannot be met.
    """
    config, recipe = request.config, request.config.recipe
    if recipe == "auto":
        recipe = "decoder" if request.adapter.decoder else "encoder"
    if config.authors_compat and recipe == "decoder":
        raise ConfigError(
            "pruning.authors_compat=true repeats the BERT script: expected an encoder; got a "
            "decoder"
        )
    if recipe == "encoder":
        scores = encoder_scores(errors)
    else:
        scores = decoder_scores(errors, config.head_bonus)
    if config.authors_compat:
        share = config.neuron_mac_share
        share = AUTHORS_NEURON_SHARE if share is None else share
        return allocate_authors(scores, request.ratio, share, config.balance_factor)

    def allocated(budget: Budget) -> Sizes:
        open_scores = UnitErrors(
            tuple(budget.values("attention", scores.heads)),
            tuple(budget.values("ffn", scores.neurons)),
            tuple(budget.values("ffn", scores.neuron_tails, empty=1)),
        )
        if config.allocation == "uniform":
            sizes = allocate_uniform(open_scores, budget)
        else:
            sizes = allocate_global(open_scores, budget, config.balance_factor)
        return final_sizes(sizes, open_scores.neurons, budget, request.round_to)

    return request.sized(allocated)
