"""The figure of measured cost: speed-up against MACs kept, beside what the MACs promise."""

from __future__ import annotations

import statistics

import pandas as pd

from stat_repro.reporting.costs import cost_points
from stat_repro.reporting.figure_data import Figure, Line, Panel, file_stem
from stat_repro.reporting.points import record_lines
from stat_repro.reporting.styles import VariantStyle, in_words

_PERCENT = 100.0
_CURVE_POINTS = 60
_IDEAL = VariantStyle("#444444", "", "--", -2)
_BOUND = VariantStyle("#888888", "", ":", -1)


def cost_figures(frame: pd.DataFrame) -> list[Figure]:
    """One figure per model and data set with measured costs, a panel for each condition.

    Args:
        frame: What `measured_runs` gives, not empty.
    """
    figures = []
    for (model, dataset), points in cost_points(frame).groupby(["model", "dataset"], sort=False):
        conditions = points.groupby(["device", "tokens", "batch"])
        panels = tuple(
            _panel(f"batch {batch}, {tokens} tokens\n{device}", group)
            for (device, tokens, batch), group in conditions
        )
        rows = frame[(frame["model"] == model) & (frame["dataset"] == dataset)]
        title = f"Speed-up of {in_words(str(model))}"
        caption = (
            f"{title}, pruned for {in_words(str(dataset))}: dense by pruned time of a forward pass "
            "against the share of the whole model's MACs that is kept; bars: quartiles. Dashed: "
            "if time followed the MACs of the whole model; dotted: if the prunable part took all "
            "the time and followed its MACs."
        )
        name = file_stem(str(model), str(dataset), "speedup")
        figures.append(Figure(name, title, record_lines(rows)[0], caption, panels))
    return figures


def _panel(title: str, points: pd.DataFrame) -> Panel:
    series = tuple(_series(group) for _, group in points.groupby("variant", sort=False))
    share = statistics.fmean(points["prunable_share"])
    lowest = min(x for one in series for x in one.x) / _PERCENT
    kept = [lowest + (1 - lowest) * i / _CURVE_POINTS for i in range(_CURVE_POINTS + 1)]
    x = tuple(_PERCENT * k for k in kept)
    # Range and share of what the MACs promise are those of all runs of the panel.
    runs = (tuple(sorted({run for one in points["run_ids"] for run in one})),) * len(x)
    promises = (
        Line("ideal (whole model)", _IDEAL, runs, x, tuple(1 / k for k in kept)),
        Line("bound (prunable part)", _BOUND, runs, x,
             tuple(share / (share - 1 + k) for k in kept)),
    )  # fmt: skip
    return Panel(title, "MACs of the whole model kept (%)", "measured speed-up", promises + series)


def _series(points: pd.DataFrame) -> Line:
    points = points.sort_values("ideal", ascending=False, kind="stable")
    return Line(
        label=points.iloc[0]["variant"],
        style=points.iloc[0]["style"],
        run_ids=tuple(points["run_ids"]),
        x=tuple(_PERCENT / points["ideal"]),
        y=tuple(points["speedup"]),
        low=tuple(points["speedup_low"]),
        high=tuple(points["speedup_high"]),
        bars=True,
    )
