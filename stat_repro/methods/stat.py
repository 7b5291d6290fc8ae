"""STAT: Shrinking Transformers After Training (Flynn et al., arXiv 2406.00061).

The order of steps is the one of the authors' released code:

1. statistics of the dense model give the errors of all units, and from them the sizes per layer;
2. every FFN keeps its first pivots, and the interpolation is folded into its output projection;
3. head statistics are taken again on the model with folded FFNs, pivoted, cut and folded.

The model given is not changed: step 3 runs on temporarily exchanged Linears.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stat_repro.allocation.allocate import Sizes, allocate_global, allocate_uniform
from stat_repro.allocation.authors import AUTHORS_NEURON_SHARE, allocate_authors
from stat_repro.allocation.costs import UnitCosts, unit_costs
from stat_repro.allocation.rounding import round_neurons
from stat_repro.allocation.scores import UnitErrors, Vector, decoder_scores, encoder_scores
from stat_repro.calibration.capture import Calibration, collect_statistics
from stat_repro.calibration.statistics import SiteStatistics
from stat_repro.config import ConfigError, PruningConfig
from stat_repro.linalg.pivoting import check_finite
from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput, SiteError
from stat_repro.models.adapter import Adapter, Site, linear, unit_columns
from stat_repro.plan import LayerPlan, PruningPlan
from stat_repro.progress import track
from stat_repro.surgery import SiteEdit, temporarily_pruned

log = logging.getLogger("stat_repro")


def prune(task: MethodInput) -> MethodOutput:
    """Plan and edits of STAT for one model and one ratio."""
    config, adapter, model = task.config, task.adapter, task.model
    watch = Stopwatch(next(model.parameters()).device)
    dense, shared_s = _dense_analysis(task)
    with watch.stage("allocate_s"):
        costs = unit_costs(adapter, task.sequence_length)
        sizes = allocate(dense.errors, costs, adapter.decoder, task.ratio, config, task.round_to)
    with watch.stage("fold_ffn_s"):
        ffn_sites = adapter.of_kind("ffn")
        ffn = [
            fold_site(
                model,
                site,
                dense.neuron_orders[site.layer][: sizes.neurons[site.layer]],
                task.calibration,
                config,
                dense.ffn_norms[site.layer],
            )
            for site in track(ffn_sites, "folding FFNs", unit="sites")
        ]
        ffn_edits = [edit for edit, _ in ffn]
    _warn_of_few_tokens(ffn_sites, ffn_edits, task.calibration.tokens)
    head_sites = [s for s in adapter.of_kind("attention") if s.units]
    with watch.stage("recalibrate_s"), temporarily_pruned(model, ffn_sites, ffn_edits):
        folded = collect_statistics(
            model,
            adapter,
            task.batches,
            sites=head_sites,
            statistics=task.statistics,
            sketch=task.sketch,
            label="statistics of heads with folded FFNs",
        )
    with watch.stage("fold_heads_s"):
        heads = []
        for site in track(head_sites, "folding heads", unit="sites"):
            order = folded.statistics[site.layer, "attention"].pivot_units(site.width).order
            kept = order[: sizes.heads[site.layer]]
            heads.append(fold_site(model, site, kept, folded, config))
    results = sorted(heads + ffn, key=lambda pair: (pair[0].layer, pair[0].kind))
    return MethodOutput(
        plan=_plan(adapter, [edit for edit, _ in results], sizes),
        edits=tuple(edit for edit, _ in results),
        errors=tuple(error for _, error in results),
        timings={"errors_s": dense.seconds, "shared_s": shared_s, **watch.seconds},
    )


@dataclass(frozen=True)
class DenseAnalysis:
    """What the dense statistics say, whatever the ratio.

    Attributes:
        errors: Of all units.
        neuron_orders: Pivot order of each layer's neurons.
        ffn_norms: ||A W^T||_F of each layer's FFN; 0 where it has no neurons.
        seconds: Time that working it out took.
    """

    errors: UnitErrors
    neuron_orders: list[torch.Tensor]
    ffn_norms: list[float]
    seconds: float


def _dense_analysis(task: MethodInput) -> tuple[DenseAnalysis, float]:
    """The analysis, and the seconds that were saved because another ratio had worked it out."""
    known, key = task.calibration.derived, ("stat", task.config.authors_compat)
    if key in known:
        return known[key], known[key].seconds
    watch = Stopwatch(next(task.model.parameters()).device)
    with watch.stage("errors_s"):
        errors, orders = unit_errors(task.model, task.adapter, task.calibration, task.config)
        norms = [
            task.calibration.statistics[site.layer, "ffn"].output_error(
                _float64(consumer_weight(task.model, site))
            )
            if site.units
            else 0.0
            for site in task.adapter.of_kind("ffn")
        ]
    known[key] = DenseAnalysis(errors, orders, norms, watch.seconds["errors_s"])
    return known[key], 0.0


def unit_errors(
    model: nn.Module, adapter: Adapter, calibration: Calibration, config: PruningConfig
) -> tuple[UnitErrors, list[torch.Tensor]]:
    """Errors of all units from the dense statistics, and the pivot order of each layer's neurons.

    Neurons: pivots of the activations whose columns are scaled by the norms of the consumer's
    columns. Heads: pivots of the (tokens * d) x H view; the error of keeping the first i is that
    of the consumer's output after the least-squares correction.
    """
    heads: list[Vector] = []
    neurons: list[Vector] = []
    tails: list[Vector] = []
    orders: list[torch.Tensor] = []
    for site in track(adapter.sites, "decomposing sites", unit="sites"):
        if not site.units:
            (heads if site.kind == "attention" else neurons).append(np.zeros(0))
            if site.kind == "ffn":
                tails.append(np.zeros(1))
                orders.append(torch.zeros(0, dtype=torch.int64))
            continue
        weight = _float64(consumer_weight(model, site))
        statistics = calibration.statistics[site.layer, site.kind]
        if site.kind == "ffn":
            factor = statistics.pivot_columns(weight.norm(dim=0))
            neurons.append(factor.magnitudes.cpu().numpy())
            tails.append(factor.tail_norms.cpu().numpy())
            orders.append(factor.order.cpu())
        else:
            heads.append(_head_errors(statistics, weight, site, config).cpu().numpy())
    return UnitErrors(tuple(heads), tuple(neurons), tuple(tails)), orders


def _head_errors(
    statistics: SiteStatistics, weight: torch.Tensor, site: Site, config: PruningConfig
) -> torch.Tensor:
    order = statistics.pivot_units(site.width).order
    # The authors put the residual's heads back with the permutation instead of its inverse.
    readers = torch.argsort(order) if config.authors_compat else order
    return statistics.removal_errors(order, weight, readers, site.width)[:-1]


def allocate(
    errors: UnitErrors,
    costs: UnitCosts,
    decoder: bool,
    ratio: float,
    config: PruningConfig,
    round_to: int = 1,
) -> Sizes:
    """Sizes per layer by the configured recipe and allocation, neurons rounded to `round_to`.

    Raises:
        ConfigError: `authors_compat` for a decoder, or with rounding.
    """
    recipe = config.recipe
    if recipe == "auto":
        recipe = "decoder" if decoder else "encoder"
    if config.authors_compat:
        if recipe == "decoder":
            raise ConfigError("pruning.authors_compat=true repeats the BERT script: got a decoder")
        if round_to > 1:
            raise ConfigError(
                "pruning.authors_compat=true repeats the authors' script, which rounds nothing: "
                f"expected round_to=1; got {round_to}"
            )
        share = config.neuron_mac_share
        share = AUTHORS_NEURON_SHARE if share is None else share
        return allocate_authors(encoder_scores(errors), ratio, share, config.balance_factor)
    if config.neuron_mac_share is not None:
        costs = costs.with_neuron_share(config.neuron_mac_share)
    scores = (
        encoder_scores(errors) if recipe == "encoder" else decoder_scores(errors, config.head_bonus)
    )
    if config.allocation == "uniform":
        sizes = allocate_uniform(scores, costs, ratio, config.min_units)
    else:
        sizes = allocate_global(scores, costs, ratio, config.min_units, config.balance_factor)
    return round_neurons(sizes, scores.neurons, costs, ratio, config.min_units, round_to)


def fold_site(
    model: nn.Module,
    site: Site,
    kept_units: torch.Tensor,
    calibration: Calibration,
    config: PruningConfig,
    norm: float | None = None,
) -> tuple[SiteEdit, SiteError]:
    """Keep these units of a site and fold the correction into its consumer.

    Args:
        model: The dense model.
        site: A site of it.
        kept_units: Unit indices in any order.
        calibration: Statistics that the correction is fitted to.
        config: `correction` and `ridge` are used.
        norm: ||A W^T||_F of the dense consumer, if it is known already.
    """
    kept = tuple(sorted(kept_units.tolist()))
    weight = consumer_weight(model, site)
    columns = unit_columns(kept, site.width)
    if len(kept) == site.units:
        edit = SiteEdit(site.layer, site.kind, kept, weight.clone(), None)
        return edit, SiteError(site.layer, site.kind, site.units, len(kept), 0.0)
    statistics = calibration.statistics[site.layer, site.kind]
    exact = _float64(weight)
    if config.correction == "lstsq":
        folded = statistics.fold(exact, columns, config.ridge).to(exact.device)
    else:
        folded = exact[:, columns.to(exact.device)]
    norm = statistics.output_error(exact) if norm is None else norm
    difference = exact.clone()
    difference[:, columns.to(exact.device)] -= folded
    error = statistics.output_error(difference) / norm if norm > 0 else None
    new = folded.to(device=weight.device, dtype=weight.dtype)
    return (
        SiteEdit(site.layer, site.kind, kept, new, None),
        SiteError(site.layer, site.kind, site.units, len(kept), error),
    )


def consumer_weight(model: nn.Module, site: Site) -> torch.Tensor:
    """W of the site's consumer, (D, F).

    Raises:
        LinAlgInputError: It is not finite; names the site.
    """
    weight = linear(model, site.consumer).weight.detach()
    check_finite(weight, f"{site.name}, weight of the consumer")
    return weight


def _float64(weight: torch.Tensor) -> torch.Tensor:
    """A float64 copy, on the CPU where the device (mps) has no float64."""
    home = "cpu" if weight.device.type == "mps" else weight.device
    return weight.detach().to(device=home, dtype=torch.float64, copy=True)


def _warn_of_few_tokens(sites: Sequence[Site], edits: Sequence[SiteEdit], tokens: int) -> None:
    """With fewer tokens than kept neurons the fit is exact on the calibration data only."""
    short = [s for s, e in zip(sites, edits, strict=True) if tokens < len(e.kept) < s.units]
    if short:
        log.warning(
            "%d calibration tokens are fewer than the neurons kept in %d of %d FFNs (first: %s); "
            "give more examples or a ridge",
            tokens,
            len(short),
            len(sites),
            short[0].name,
        )


def _plan(adapter: Adapter, edits: Sequence[SiteEdit], sizes: Sizes) -> PruningPlan:
    kept = {(edit.layer, edit.kind): edit.kept for edit in edits}
    layers = tuple(
        LayerPlan(
            kept_heads=kept.get((i, "attention"), ()),
            kept_neurons=kept.get((i, "ffn"), ()),
            heads=adapter.site(i, "attention").units,
            neurons=adapter.site(i, "ffn").units,
        )
        for i in range(adapter.num_layers)
    )
    return PruningPlan(layers=layers, method="stat", details=sizes.details)
