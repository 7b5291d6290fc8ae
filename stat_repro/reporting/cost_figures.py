"""The figure of measured cost: speed-up against MACs kept, beside what the MACs promise."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stat_repro.reporting.canvas import canvas, plot_variant
from stat_repro.reporting.costs import cost_points
from stat_repro.reporting.figure_data import FigureData, StyledLine, file_stem
from stat_repro.reporting.points import record_lines

_PERCENT = 100.0
_CURVE_POINTS = 60


@dataclass(frozen=True)
class SpeedupPanel:
    """One condition: a device, a batch size, a length.

    Attributes:
        title: Its words.
        prunable_share: Share of the dense model's MACs that can be pruned.
        series: One per variant, in the order of the legend, with a point per ratio: measured
            speed-up, with the smallest lower and the largest upper quartile of all runs, against
            MACs of the whole model kept in percent.
    """

    title: str
    prunable_share: float
    series: tuple[StyledLine, ...]


@dataclass(frozen=True)
class CostFigureData(FigureData):
    """One panel per condition: by device, length and batch size."""

    panels: tuple[SpeedupPanel, ...]


def cost_figure_data(frame: pd.DataFrame) -> list[CostFigureData]:
    """Numbers of one figure per model and data set with measured costs.

    Args:
        frame: What `measured_runs` gives, not empty.
    """
    figures = []
    for (model, dataset), points in cost_points(frame).groupby(["model", "dataset"], sort=False):
        panels = [
            SpeedupPanel(
                title=f"batch {batch}, {tokens} tokens\n{device}",
                prunable_share=statistics.fmean(group["prunable_share"]),
                series=tuple(_series(one) for _, one in group.groupby("variant", sort=False)),
            )
            for (device, tokens, batch), group in points.groupby(["device", "tokens", "batch"])
        ]
        rows = frame[(frame["model"] == model) & (frame["dataset"] == dataset)]
        name = file_stem(str(model), str(dataset), "speedup")
        title, shown = f"{model}, {dataset}", record_lines(rows)[0]
        figures.append(CostFigureData(name, title, shown, tuple(panels)))
    return figures


def draw_costs(data: CostFigureData) -> Any:
    """The `matplotlib.figure.Figure` of the numbers, made without global state."""
    with canvas(max(5.6, 3.1 * len(data.panels)), 3.6, data.records) as figure:
        row = figure.subplots(1, len(data.panels), sharex=True, sharey=True, squeeze=False)[0]
        for axes, panel in zip(row, data.panels, strict=True):
            _draw_panel(axes, panel)
        row[0].set_ylabel("measured speed-up (bars: quartiles)")
        row[0].legend(fontsize=7)
        figure.suptitle(data.title, fontsize=10)
    return figure


def _series(points: pd.DataFrame) -> StyledLine:
    points = points.sort_values("ideal", ascending=False, kind="stable")
    return StyledLine(
        label=points.iloc[0]["variant"],
        run_ids=tuple(points["run_ids"]),
        style=points.iloc[0]["style"],
        x=tuple(_PERCENT / points["ideal"]),
        y=tuple(points["speedup"]),
        low=tuple(points["speedup_low"]),
        high=tuple(points["speedup_high"]),
    )


def _draw_panel(axes: Any, panel: SpeedupPanel) -> None:
    share = panel.prunable_share
    lowest = min(x for series in panel.series for x in series.x) / _PERCENT
    kept = [lowest + (1 - lowest) * i / _CURVE_POINTS for i in range(_CURVE_POINTS + 1)]
    promises = {
        "ideal: MACs of the whole model": ("black", "--", [1 / k for k in kept]),
        "bound: MACs of the prunable part": ("0.5", ":", [share / (share - 1 + k) for k in kept]),
    }
    for label, (colour, line, y) in promises.items():
        x = [_PERCENT * k for k in kept]
        axes.plot(x, y, color=colour, linestyle=line, linewidth=1.2, label=label)
    for series in panel.series:
        plot_variant(axes, series, series.label)
        axes.vlines(series.x, series.low, series.high, color=series.style.colour, linewidth=1.2)
    axes.set_title(panel.title, fontsize=8)
    axes.set_xlabel("MACs of the whole model kept (%)")
