"""Figures of what happens layer by layer: how much is kept, and at which error."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from stat_repro.reporting.figure_data import Figure, Line, Panel, file_stem
from stat_repro.reporting.points import record_lines
from stat_repro.reporting.styles import graded_style, in_words
from stat_repro.reporting.variants import with_variants
from stat_repro.results import RunRecord, to_frame

Runs = dict[float, list[RunRecord]]  # by ratio, ascending

_METHODS = ("stat", "stat_plus")  # whose plans are shown
_LEAST = 3  # ratios that make a figure
_KINDS = {"attention": "heads", "ffn": "neurons"}
_NAMED = 7  # layers in a legend
_KEPT = "units kept in each layer by ratio, in percent, mean of the seeds"
_ERRORS = (
    "relative error of a site against the share of its units that is kept, one line per layer, a "
    "point per ratio of the sweep, mean of the seeds"
)


def layer_figures(records: Sequence[RunRecord]) -> list[Figure]:
    """Per model and data set the share of units kept by layer and ratio, and their errors.

    Shown are the first forms of STAT and STAT+ that a study has at three ratios or more. A record
    has the error of every site at the size that it was given; the runs of a sweep together show
    how it falls with the size.

    Args:
        records: Successful runs of one study.
    """
    figures = []
    frame = with_variants(to_frame(records)).assign(record=pd.Series(records, dtype=object))
    for (model, dataset), rows in frame.groupby(["model", "dataset"]):
        forms = [_first_form(rows[rows["method"] == method]) for method in _METHODS]
        shown = [one for one in forms if not one.empty]
        kept, errors = [], []
        for one in shown:
            runs: Runs = defaultdict(list)
            for record in sorted(one["record"], key=lambda r: (r.ratio, r.run_id)):
                runs[record.ratio].append(record)
            for kind, units in _KINDS.items():
                title = f"{one.iloc[0]['variant']}: {units}"
                kept.append(_kept(title, runs, units))
                lines = _errors(runs, kind)
                if lines:
                    axes = f"{units} kept (%)", "relative error"
                    errors.append(Panel(title, *axes, lines, log=True))
        title = f"{in_words(str(model))} on {in_words(str(dataset))}"
        for name, words, panels in (("kept", _KEPT, kept), ("errors", _ERRORS, errors)):
            if panels:
                stem, made_from = file_stem(str(model), str(dataset), name), pd.concat(shown)
                caption = f"{title}: {words}."
                figures.append(
                    Figure(stem, title, record_lines(made_from)[0], caption, tuple(panels))
                )
    return figures


def _first_form(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of the first variant with enough ratios."""
    for order in sorted(set(rows["order"])):
        form = rows[[one == order for one in rows["order"]]]
        if form["ratio"].nunique() >= _LEAST:
            return form
    return rows.iloc[:0]


def _kept(title: str, runs: Runs, units: str) -> Panel:
    lines = []
    for ratio, records in runs.items():
        plans = zip(*(record.layers for record in records), strict=True)
        y = tuple(
            100
            * statistics.fmean(len(getattr(p, f"kept_{units}")) / getattr(p, units) for p in layer)
            for layer in plans
        )
        x, ids = tuple(map(float, range(len(y)))), tuple(record.run_id for record in records)
        lines.append(Line(f"{100 * (1 - ratio):g}", graded_style(0), (ids,) * len(y), x, y))
    ticks = tuple((x, f"{x + 1:g}") for x in lines[0].x)
    return Panel(f"{title} kept (%)", "layer", "MACs kept (%)", tuple(lines), "cells", ticks=ticks)


def _errors(runs: Runs, kind: str) -> tuple[Line, ...]:
    """A line per layer; none where no error was stored, or everything was kept."""
    layers = defaultdict(list)
    for records in runs.values():
        sites = defaultdict(list)
        for site in (site for record in records for site in record.site_errors):
            # Nothing is lost where everything is kept, which a logarithmic axis cannot show.
            if site["kind"] == kind and (site.get("relative_error") or 0) > 0:
                point = 100 * site["kept"] / site["units"], site["relative_error"]
                sites[site["layer"]].append(point)
        ids = tuple(record.run_id for record in records)
        for layer, points in sites.items():
            means = (statistics.fmean(values) for values in zip(*points, strict=True))
            layers[layer].append((*means, ids))
    last = max(layers, default=0)
    step = max(1, -(-(last + 1) // _NAMED))
    lines = []
    for layer, shown in sorted(layers.items()):
        x, y, run_ids = zip(*sorted(shown), strict=True)
        label = f"layer {layer + 1}" if layer % step == 0 or layer == last else ""
        lines.append(Line(label, graded_style(layer / max(last, 1)), run_ids, x, y))
    return tuple(lines)
