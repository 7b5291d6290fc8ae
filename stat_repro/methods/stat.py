"""STAT: Shrinking Transformers After Training (Flynn et al., arXiv 2406.00061).

The order of steps is the one of the authors' released code:

1. statistics of the dense model give the errors of all units, and from them the sizes per layer;
2. every FFN keeps its first pivots, and the interpolation is folded into its output projection;
3. head statistics are taken again on the model with folded FFNs, pivoted, cut and folded.

The model given is not changed: step 3 runs on temporarily exchanged Linears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import nn

from stat_repro.allocation.allocate import Sizes, allocate_global, allocate_uniform
from stat_repro.allocation.authors import AUTHORS_NEURON_SHARE, allocate_authors
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.scores import UnitErrors, Vector, decoder_scores, encoder_scores
from stat_repro.calibration.capture import Calibration
from stat_repro.calibration.statistics import pivots_of
from stat_repro.config import ConfigError, PruningConfig
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, fold_all, once_per_calibration, output_of
from stat_repro.methods.correction import consumer_weight, float64
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.devices import spare_memory
from stat_repro.parallel import exchange, spread


def prune(request: MethodInput) -> MethodOutput:
    """Plan and edits of STAT for one model and one ratio."""
    sizes, dense = _sizes(request)

    def kept(site: Site, calibration: Calibration) -> torch.Tensor:
        order = dense[site.key].order if site.kind == "ffn" else head_order(site, calibration)
        return order[: sizes.of(site)]

    norms = {key: analysis.norm for key, analysis in dense.items()}
    edits = fold_all(request, kept, recalibrate=True, norms=norms)
    return output_of(request, edits, sizes.details)


def sizes_of_stat(request: MethodInput) -> Sizes:
    """Units per layer by STAT's recipe, for the selection of another method (`allocation=stat`)."""
    sizes, _ = _sizes(request)
    return replace(sizes, details={**sizes.details, "allocation": "stat"})


def _sizes(request: MethodInput) -> tuple[Sizes, Analyses]:
    """Units per layer by STAT's recipe, and the analyses of the dense model that they follow from.

    The analyses are worked out once for all ratios of one calibration.
    """

    def work(request: MethodInput) -> Analyses:
        with request.watch.stage("errors_s"):
            return analyses_of(request.model, request.adapter, request.calibration, request.config)

    key = ("stat", request.config.authors_compat, request.config.scaling)
    dense = once_per_calibration(request, key, work)
    with request.watch.stage("allocate_s"):
        return allocate(dense, request), dense


@dataclass(frozen=True)
class SiteAnalysis:
    """What the dense statistics say of one site, whatever the ratio.

    Attributes:
        errors: Errors of its units: of an FFN in pivot order, of heads when the first i are kept.
        tails: What is lost with the first i neurons kept; of heads nothing.
        order: Pivot order of the neurons; of heads nothing.
        norm: ||A W^T||_F of an FFN; None for heads, which are corrected with other statistics.
    """

    errors: Vector
    tails: Vector
    order: torch.Tensor
    norm: float | None = None


Analyses = Mapping[Key, SiteAnalysis]


def analyses_of(
    model: nn.Module, adapter: Adapter, calibration: Calibration, config: PruningConfig
) -> Analyses:
    """Of all sites; where there are several processes, each takes some; see `site_analyses`."""
    groups = [[site] for site in adapter.of_kind("attention")]
    groups += equal_sites(adapter.of_kind("ffn"), next(model.parameters()).device)
    parts = spread(
        groups, lambda group: site_analyses(model, group, calibration, config), "decomposing sites"
    )
    return {key: analysis for part in parts for key, analysis in part.items()}


def unit_errors(analyses: Analyses) -> UnitErrors:
    """Errors of all units, layer by layer."""
    heads, ffn = (
        [analyses[key] for key in sorted(analyses) if key[1] == kind]
        for kind in ("attention", "ffn")
    )
    return UnitErrors(
        heads=tuple(one.errors for one in heads),
        neurons=tuple(one.errors for one in ffn),
        neuron_tails=tuple(one.tails for one in ffn),
    )


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


def site_analyses(
    model: nn.Module, sites: Sequence[Site], calibration: Calibration, config: PruningConfig
) -> dict[Key, SiteAnalysis]:
    """Errors of the units of sites; FFNs of one size are factored together.

    Neurons: pivots of the activations whose columns are scaled by the norms of the consumer's
    columns (`scaling=none`: of the activations themselves). Heads: pivots of the (tokens * d) x H
    view; the error of keeping the first i is that of the consumer's output after the least-squares
    correction.
    """

    def weight(site: Site) -> torch.Tensor:
        return float64(consumer_weight(model, site))

    def scale(site: Site) -> torch.Tensor:
        w = weight(site)
        return w.norm(dim=0) if config.scaling == "consumer" else w.new_ones(site.columns)

    nothing = torch.zeros(0, dtype=torch.int64)
    wide = [site for site in sites if site.kind == "ffn" and site.units]
    analyses = {
        site.key: SiteAnalysis(np.zeros(0), np.zeros(1), nothing, norm=0.0)
        for site in sites
        if not site.units
    }
    statistics = calibration.statistics
    factors = pivots_of([statistics[site.key] for site in wide], [scale(site) for site in wide])
    for site, factor in zip(wide, factors, strict=True):
        analyses[site.key] = SiteAnalysis(
            errors=factor.magnitudes.cpu().numpy(),
            tails=factor.tail_norms.numpy(),
            order=factor.order.cpu(),
            norm=statistics[site.key].output_error(weight(site)),
        )
    for site in sites:
        if site.kind == "attention" and site.units:
            order = head_order(site, calibration)
            # The authors put the residual's heads back with the permutation, not its inverse.
            readers = torch.argsort(order) if config.authors_compat else order
            errors = statistics[site.key].removal_errors(order, weight(site), readers, site.width)
            analyses[site.key] = SiteAnalysis(errors[:-1].numpy(), np.zeros(0), nothing)
    return analyses


def head_order(site: Site, calibration: Calibration) -> torch.Tensor:
    """Pivot order of the heads of a site, first to keep first."""
    return calibration.statistics[site.layer, "attention"].pivot_units(site.width).order


def allocate(analyses: Analyses, request: MethodInput) -> Sizes:
    """Sizes per layer by the configured recipe and allocation, neurons rounded.

    Raises:
        ConfigError: `authors_compat` for a decoder.
        BudgetError: The ratio cannot be met.
    """
    config, recipe, errors = request.config, request.config.recipe, unit_errors(analyses)
    if recipe == "auto":
        recipe = "decoder" if request.adapter.layout.decoder else "encoder"
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
        if config.allocation == "uniform":
            return allocate_uniform(scores, budget)
        return allocate_global(scores, budget, config.balance_factor)

    return request.sized(allocated, scores.neurons)
