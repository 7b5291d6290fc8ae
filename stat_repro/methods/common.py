"""Steps that all methods share: corrections folded site by site, and the plan.

Sites are corrected in STAT's order, whatever chose the units: every FFN from the dense statistics;
then, where a correction is fitted, head statistics are taken again on the model with corrected
FFNs, and the heads are corrected from those. Methods then differ by what they are compared in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from stat_repro.calibration.capture import Calibration, collect_statistics
from stat_repro.config import FITTED, LEAST_SQUARES
from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput, SiteError
from stat_repro.methods.correction import fold_site
from stat_repro.models.adapter import Adapter, Site
from stat_repro.parallel import spread, world
from stat_repro.plan import LayerPlan, PruningPlan, SiteKind
from stat_repro.surgery.edit import SiteEdit, temporarily_pruned

log = logging.getLogger("stat_repro")

T = TypeVar("T")
Key = tuple[int, SiteKind]
Folded = list[tuple[SiteEdit, SiteError]]

# Corrections whose fit depends on what the FFNs before a head do. `bias` takes the dense means, as
# FLAP does; only `stat`, which orders heads by statistics taken again, has those at hand for it.
REFITTED = FITTED


def once_per_calibration(
    task: MethodInput, key: Hashable, work: Callable[[Stopwatch], T], watch: Stopwatch
) -> T:
    """What is the same for all ratios of one calibration: worked out by the first that asks.

    Args:
        task: What the method was given.
        key: Names the method and the options that `work` depends on.
        work: Gets a stopwatch for its stages.
        watch: Gets the seconds of these stages, whoever took them; `shared_s` grows by them where
            another ratio had done the work.
    """
    known = task.calibration.derived
    shared = key in known
    if not shared:
        own = Stopwatch(next(task.model.parameters()).device)
        known[key] = work(own), own.seconds
    found, seconds = known[key]
    watch.seconds |= seconds
    before = watch.seconds.get("shared_s", 0.0)
    watch.seconds["shared_s"] = before + sum(seconds.values()) * shared
    return found


def scores_by_site(
    adapter: Adapter, score: Callable[[Site], torch.Tensor]
) -> dict[Key, torch.Tensor]:
    """Scores of the units of every site, shape (units,); a site without units has none."""
    return {
        (site.layer, site.kind): score(site) if site.units else torch.zeros(0, dtype=torch.float64)
        for site in adapter.sites
    }


def fold_all(
    task: MethodInput,
    neurons: Mapping[int, torch.Tensor],
    heads: Callable[[Site, Calibration], torch.Tensor],
    watch: Stopwatch,
    *,
    refit: bool,
    ffn_norms: Sequence[float | None] | None = None,
) -> Folded:
    """Edits of all sites, FFNs first.

    Args:
        task: What the method was given.
        neurons: Kept neurons by layer.
        heads: Kept heads of a site, from the statistics that it is corrected with.
        watch: Gets the seconds of the stages.
        refit: Whether head statistics are taken again on the model with corrected FFNs.
        ffn_norms: ||A W^T||_F of the FFNs by layer, where they are known already.

    Returns:
        Edits and errors by layer, attention before FFN.
    """
    config, model, adapter = task.config, task.model, task.adapter
    ffn_sites = adapter.of_kind("ffn")
    norms = [None] * len(ffn_sites) if ffn_norms is None else ffn_norms
    with watch.stage("fold_ffn_s"):
        ffn = _spread_folds(
            ffn_sites,
            lambda site: fold_site(
                model, site, neurons[site.layer], task.calibration, config, norms[site.layer]
            ),
            "folding FFNs",
        )
    ffn_edits = [edit for edit, _ in ffn]
    if config.correction in LEAST_SQUARES:
        kept = [len(edit.kept) for edit in ffn_edits]
        warn_of_few_tokens(ffn_sites, kept, task.calibration.tokens)
    head_sites = [site for site in adapter.of_kind("attention") if site.units]
    calibration = task.calibration
    if refit:
        with watch.stage("recalibrate_s"), temporarily_pruned(model, ffn_sites, ffn_edits):
            calibration = collect_statistics(
                model,
                adapter,
                task.batches,
                sites=head_sites,
                statistics=task.statistics,
                sketch=task.sketch,
                label="statistics of heads with folded FFNs",
            )
    with watch.stage("fold_heads_s"):
        folded = _spread_folds(
            head_sites,
            lambda site: fold_site(model, site, heads(site, calibration), calibration, config),
            "folding heads",
        )
    return sorted(folded + ffn, key=lambda pair: (pair[0].layer, pair[0].kind))


def _spread_folds(
    sites: Sequence[Site], fold: Callable[[Site], tuple[SiteEdit, SiteError]], label: str
) -> Folded:
    """Every site's edit and error; where there are several processes, each folds some sites."""
    if world().size == 1:
        return spread(sites, fold, label)

    def portable(site: Site) -> tuple[SiteEdit, SiteError]:
        edit, error = fold(site)
        bias = edit.consumer_bias
        return replace(
            edit,
            consumer_weight=edit.consumer_weight.cpu(),
            consumer_bias=None if bias is None else bias.cpu(),
        ), error

    return spread(sites, portable, label)


def output_of(
    task: MethodInput, folded: Folded, details: dict[str, Any], watch: Stopwatch
) -> MethodOutput:
    """The method's output for these edits."""
    edits = [edit for edit, _ in folded]
    return MethodOutput(
        plan=plan_of(task.adapter, edits, task.config.method, details),
        edits=tuple(edits),
        errors=tuple(error for _, error in folded),
        timings=watch.seconds,
    )


def plan_of(
    adapter: Adapter, edits: Sequence[SiteEdit], method: str, details: dict[str, Any]
) -> PruningPlan:
    """The plan that these edits carry out; a site without an edit has nothing to keep."""
    kept = {(edit.layer, edit.kind): edit.kept for edit in edits}
    return plan_keeping(adapter, kept, method, details)


def plan_keeping(
    adapter: Adapter, kept: Mapping[Key, tuple[int, ...]], method: str, details: dict[str, Any]
) -> PruningPlan:
    """The plan that keeps these units; a site that is not among them has nothing to keep."""
    layers = tuple(
        LayerPlan(
            kept_heads=kept.get((i, "attention"), ()),
            kept_neurons=kept.get((i, "ffn"), ()),
            heads=adapter.site(i, "attention").units,
            neurons=adapter.site(i, "ffn").units,
        )
        for i in range(adapter.num_layers)
    )
    return PruningPlan(layers=layers, method=method, details=details)


def warn_of_few_tokens(sites: Sequence[Site], kept: Sequence[int], tokens: int) -> None:
    """With fewer tokens than kept neurons the fit is exact on the calibration data only."""
    short = [s for s, k in zip(sites, kept, strict=True) if tokens < k < s.units]
    if short:
        log.warning(
            "%d calibration tokens are fewer than the neurons kept in %d of %d FFNs (first: %s); "
            "give more examples or a ridge",
            tokens,
            len(short),
            len(sites),
            short[0].name,
        )
