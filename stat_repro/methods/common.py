"""What methods share: work done once for several ratios, corrections of all sites, and the plan.

Sites are corrected in STAT's order, whatever chose the units: every FFN from the dense statistics;
then, where a correction is fitted, the heads' statistics are taken again on the model with
corrected FFNs, and the heads are corrected from those. Methods then differ by what they are
compared in.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.capture import Calibration, collect_statistics
from stat_repro.config import FITTED, LEAST_SQUARES
from stat_repro.measure import Stopwatch
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.correction import fold_site
from stat_repro.models.adapter import Adapter, Site
from stat_repro.parallel import spread, world
from stat_repro.plan import SiteKind
from stat_repro.surgery.edit import SiteEdit, evenly_sized, temporarily_pruned

log = logging.getLogger("stat_repro")

T = TypeVar("T")
Key = tuple[int, SiteKind]
# One score per unit of every site, shape (units,); higher is kept first.
Scores = dict[Key, torch.Tensor]


def once_per_calibration(
    request: MethodInput, key: Hashable, work: Callable[[MethodInput], T]
) -> T:
    """What is the same for all ratios of one calibration: done for the first of them only.

    A calibration without statistics does not belong to one model, and nothing is kept with it.

    Args:
        request: What the method was given. Its stopwatch gets the seconds of the stages of `work`,
            whoever took them; `shared_s` grows by them where another ratio had done the work.
        key: Names the method and the options that `work` depends on.
        work: Gets the request with a stopwatch for its stages.
    """
    known = request.calibration.derived if request.calibration.statistics else {}
    shared = key in known
    if not shared:
        stages = Stopwatch(request.device)
        known[key] = work(replace(request, watch=stages)), stages.seconds
    result, seconds = known[key]
    total = request.watch.seconds
    total |= seconds
    total["shared_s"] = total.get("shared_s", 0.0) + sum(seconds.values()) * shared
    return result


def scores_by_site(adapter: Adapter, score: Callable[[Site], torch.Tensor]) -> Scores:
    """Scores of the units of every site, shape (units,); a site without units has none."""
    none = torch.zeros(0, dtype=torch.float64)
    return {site.key: score(site) if site.units else none for site in adapter.sites}


def fold_all(
    request: MethodInput,
    kept: Callable[[Site, Calibration], torch.Tensor],
    *,
    recalibrate: bool = False,
    norms: Mapping[Key, float | None] | None = None,
) -> list[SiteEdit]:
    """Edits of all sites, FFNs first.

    Args:
        request: What the method was given.
        kept: Kept units of a site, from the statistics that it is corrected with.
        recalibrate: Take the heads' statistics again on the model with corrected FFNs, also for
            corrections that do not depend on them.
        norms: ||A W^T||_F of sites where they are known already.

    Returns:
        By layer, attention before FFN.
    """
    config, model, adapter = request.config, request.model, request.adapter
    dense, known, watch = request.calibration, norms or {}, request.watch

    def fold(site: Site, calibration: Calibration) -> SiteEdit:
        units = kept(site, calibration)
        _check_sketch(request, site, len(units))
        edit = fold_site(model, site, units, calibration, config, known.get(site.key))
        return edit if world().size == 1 else _on_cpu(edit)

    ffn_sites = adapter.of_kind("ffn")
    with watch.stage("fold_ffn_s"):
        ffn = spread(ffn_sites, lambda site: fold(site, dense), "folding FFNs")
    if config.correction in LEAST_SQUARES:
        warn_of_few_tokens(ffn_sites, [len(edit.kept) for edit in ffn], dense.tokens)
    head_sites = [site for site in adapter.of_kind("attention") if site.units]
    calibration = dense
    # Where something is fitted to the heads, it depends on what the FFNs before them do. `bias`
    # takes the dense means, as FLAP does; `stat` has others at hand, by which it orders heads.
    if recalibrate or config.correction in FITTED:
        wide = evenly_sized(ffn, request.device)
        with watch.stage("recalibrate_s"), temporarily_pruned(model, wide):
            calibration = collect_statistics(
                model,
                adapter,
                request.batches,
                sites=head_sites,
                statistics=request.statistics_kind,
                sketch=request.sketch,
                label="statistics of heads with folded FFNs",
            )
    with watch.stage("fold_heads_s"):
        heads = spread(head_sites, lambda site: fold(site, calibration), "folding heads")
    return sorted(heads + ffn, key=lambda edit: edit.site.key)


def _check_sketch(request: MethodInput, site: Site, kept: int) -> None:
    """Refuse as many columns as a sketch has rows: it has nothing to say of them."""
    rows = None if request.sketch is None else request.sketch.size
    if rows is not None and kept < site.units and kept * site.width >= rows:
        raise CalibrationError(
            f"sketch size: expected more rows than the {kept * site.width} columns that "
            f"{site.name} keeps; got {rows}; choose a larger sketch, such as the default of twice "
            "the columns of a site"
        )


def _on_cpu(edit: SiteEdit) -> SiteEdit:
    """The edit as other processes can be given it."""
    bias = None if edit.consumer_bias is None else edit.consumer_bias.cpu()
    return replace(edit, consumer_weight=edit.consumer_weight.cpu(), consumer_bias=bias)


def output_of(
    request: MethodInput, edits: Sequence[SiteEdit], details: dict[str, Any]
) -> MethodOutput:
    """The method's output for these edits."""
    kept = {edit.site.key: edit.kept for edit in edits}
    plan = request.adapter.plan_keeping(kept, request.config.method, details)
    return MethodOutput(plan, tuple(edits))


def warn_of_few_tokens(sites: Sequence[Site], kept: Sequence[int], tokens: int) -> None:
    """With fewer tokens than kept neurons the fit is exact on the calibration data only."""
    short = [s for s, k in zip(sites, kept, strict=True) if tokens < k < s.units]
    if short:
        log.warning(
            "%d calibration tokens are fewer than the neurons kept in %d of %d FFNs (first: %s); "
            "give more examples or a ridge",
            *(tokens, len(short), len(sites), short[0].name),
        )
