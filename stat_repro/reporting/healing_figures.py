"""Figures of recovery: how good a pruned model is after how much time of pruning and training."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pandas as pd

from stat_repro.config import RECOVERIES
from stat_repro.reporting.figure_data import Figure, Line, Panel, file_stem
from stat_repro.reporting.points import headline, protocol_lines, record_lines
from stat_repro.reporting.styles import DENSE, in_words, quantity_style
from stat_repro.reporting.variants import with_variants
from stat_repro.results.record import BEFORE_RECOVERY

_SETTINGS = "config.recovery."
_LINES = dict(zip(RECOVERIES[1:], ("-", "--", ":"), strict=True))
_CAPTION = (
    "against the seconds of pruning and training together, a panel per share of the prunable MACs "
    "that is removed. A line starts with the model before its training and goes on with one more "
    "budget at every point; of several seeds the mean"
)


def healing_figures(frame: pd.DataFrame) -> list[Figure]:
    """Per model and data set the task's metric and the KL of runs with a recovery, by their time.

    Args:
        frame: Successful runs of one study, as `stat_repro.results.to_frame` gives them.
    """
    figures = []
    if f"{_SETTINGS}method" not in frame:
        return []
    healed = frame[frame[f"{_SETTINGS}method"].isin(RECOVERIES[1:])]
    for (model, dataset), rows in healed.groupby(["model", "dataset"]):
        # Runs that differ in their recovery alone are one variant.
        alike = rows.copy()
        alike[rows.columns[rows.columns.str.startswith(_SETTINGS)]] = None
        steps, kinds = (list(rows[f"{_SETTINGS}{key}"]) for key in ("steps", "method"))
        runs = with_variants(alike).assign(steps=steps, recovery=kinds)
        title = f"{in_words(str(model))} on {in_words(str(dataset))}, trained after pruning"
        for name in (headline(rows.iloc[0]), "kl"):
            if f"metrics.{BEFORE_RECOVERY}.{name}" not in runs:
                continue
            panels = tuple(_panel(part, name) for _, part in runs.groupby("ratio"))
            words = [f"{title}: {quantity_style(name).label} {_CAPTION}"]
            words += [f"Protocol of {line}" for line in protocol_lines(rows)]
            stem = file_stem(str(model), str(dataset), name, "by_time")
            records, caption = record_lines(rows)[0], ". ".join(words)
            figures.append(Figure(stem, title, records, f"{caption}.", panels))
    return figures


def _panel(runs: pd.DataFrame, name: str) -> Panel:
    style, dense = quantity_style(name), f"metrics.dense.{name}"
    lines = []
    if dense in runs:
        ids = (tuple(sorted(runs["run_id"])),)
        lines.append(Line("dense", DENSE, ids, (), (style.scale * statistics.fmean(runs[dense]),)))
    for (_, _, kind), group in runs.groupby(["order", "variant", "recovery"]):
        lines.append(_line(group, str(kind), name))
    seconds = [x for line in lines for x in line.x]
    places = [k * 10**power for power in range(-2, 7) for k in (1, 2, 3, 5)]
    return Panel(
        title=f"{100 * runs.iloc[0]['ratio']:g} % of MACs removed",
        x_label="pruning and training (s)",
        y_label=style.label,
        lines=tuple(lines),
        log=style.log,
        x_scale="log",
        ticks=tuple((x, f"{x:g}") for x in places if min(seconds) <= x <= max(seconds)),
    )


def _line(group: pd.DataFrame, kind: str, name: str) -> Line:
    """One variant with one recovery: before it, then a point per budget."""
    first, pruning = group.iloc[0], group["timings.compress_s"]
    after = next(c for c in (f"metrics.{g}.{name}" for g in ("pruned", "fidelity")) if c in group)
    points = [(pruning, group[f"metrics.{BEFORE_RECOVERY}.{name}"], group["run_id"])]
    for _, runs in group.groupby("steps"):
        seconds = runs["timings.compress_s"] + runs["timings.recover_s"]
        points.append((seconds, runs[after], runs["run_id"]))
    return Line(
        label=f"{first['variant']}, {kind}",
        style=replace(first["style"], line=_LINES[kind]),
        run_ids=tuple(tuple(sorted(ids)) for _, _, ids in points),
        x=tuple(statistics.fmean(seconds) for seconds, _, _ in points),
        y=tuple(quantity_style(name).scale * statistics.fmean(values) for _, values, _ in points),
    )
