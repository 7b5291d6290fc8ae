"""Figures as functions of a frame of records: first plain numbers, then their drawing."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stat_repro.reporting.canvas import canvas, log_axis, plot_variant
from stat_repro.reporting.figure_data import FigureData, StyledLine, file_stem
from stat_repro.reporting.points import aggregate, protocol_text, record_lines
from stat_repro.reporting.styles import quantity_style

_PERCENT = 100.0
_TICK_GAP = 0.06  # share of the x axis that a tick label needs for itself
_LABEL_CHARACTERS = 44  # that fit beside the y axis
_LEGEND_INSIDE = 4  # series whose legend leaves room for them inside the axes
_LEGEND_LINE = 0.185  # inches


@dataclass(frozen=True)
class Series(StyledLine):
    """One variant: a point per ratio, values of the seeds against MACs kept in percent.

    Attributes:
        n: Seeds per point.
        ratios: Ratio of each point.
        left_out: Ratios whose value is not finite; they have no point.
    """

    COLUMNS = (*StyledLine.COLUMNS, "n", "ratios")

    n: tuple[int, ...]
    ratios: tuple[float, ...]
    left_out: tuple[float, ...]


@dataclass(frozen=True)
class MetricFigure(FigureData):
    """One metric against MACs kept.

    Attributes:
        quantity: Name of the metric.
        y_label: Its words, with unit and protocol.
        log: Whether y is logarithmic.
        dense: Values of the dense model, one if all variants share it, in shown units.
        series: One per variant, in the order of the legend.
    """

    quantity: str
    y_label: str
    log: bool
    dense: tuple[float, ...]
    series: tuple[Series, ...]


def figure_data(
    frame: pd.DataFrame, model: str, dataset: str, quantity: str
) -> MetricFigure | None:
    """Numbers of the figure of one metric against MACs kept; None where nothing was measured.

    Args:
        frame: Successful runs, as `stat_repro.results.to_frame` gives them.
        model: Label of the model.
        dataset: Label of the data set.
        quantity: Name of a metric, as in `stat_repro.reporting.styles.QUANTITIES`.
    """
    rows = frame[(frame["model"] == model) & (frame["dataset"] == dataset)]
    points = aggregate(rows)
    points = points[points["quantity"] == quantity]
    if points.empty:
        return None
    style = quantity_style(quantity)
    dense = sorted({float(f"{v * style.scale:.9g}") for v in points["dense"] if math.isfinite(v)})
    series = [_series(group, style.scale) for _, group in points.groupby("variant", sort=False)]
    protocols = sorted(set(rows["metrics.protocol"]))
    protocol = protocol_text(protocols[0], brief=True) if len(protocols) == 1 else "see the table"
    lowest = min((y for one in series for y in one.low), default=0.0)
    return MetricFigure(
        name=file_stem(model, dataset, quantity),
        title=f"{model}, {dataset}",
        records=record_lines(rows)[0],
        quantity=quantity,
        y_label=f"{style.label}\n{protocol}",
        # A divergence of zero (ratio 0) has no logarithm.
        log=style.log and lowest > 0,
        dense=tuple(dense),
        series=tuple(series),
    )


def draw(data: MetricFigure) -> Any:
    """The `matplotlib.figure.Figure` of the numbers, made without global state."""
    crowded = len(data.series) > _LEGEND_INSIDE
    height = max(3.9, _LEGEND_LINE * (len(data.series) + len(data.dense) + 2))
    with canvas(8.4 if crowded else 5.6, height, data.records) as figure:
        axes = figure.add_subplot()
        for value in data.dense:
            axes.axhline(value, color="black", linestyle="--", linewidth=1, label="dense")
        for series in data.series:
            _draw_series(axes, series)
        if data.log:
            log_axis(axes)
        _ratio_ticks(axes, data)
        axes.set_xlabel("MACs kept (%), and the ratio that was asked for")
        label, _, protocol = data.y_label.partition("\n")
        axes.set_ylabel("\n".join([label, *textwrap.wrap(protocol, _LABEL_CHARACTERS)]))
        axes.set_title(data.title)
        if crowded:
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        else:
            axes.legend(fontsize=8)
    return figure


def _series(group: pd.DataFrame, scale: float) -> Series:
    first = group.iloc[0]
    drawn = group[group["not_finite"] == 0].sort_values("mac_kept", kind="stable")
    return Series(
        label=first["variant"],
        run_ids=tuple(drawn["run_ids"]),
        style=first["style"],
        x=tuple(_PERCENT * drawn["mac_kept"]),
        y=tuple(scale * drawn["mean"]),
        low=tuple(scale * drawn["low"]),
        high=tuple(scale * drawn["high"]),
        n=tuple(int(n) for n in drawn["n"]),
        ratios=tuple(drawn["ratio"]),
        left_out=tuple(group.loc[group["not_finite"] > 0, "ratio"]),
    )


def _draw_series(axes: Any, series: Series) -> None:
    label = series.label
    if series.n:
        fewest, most = min(series.n), max(series.n)
        label += f" (n={most})" if fewest == most else f" (n={fewest} to {most})"
    if series.left_out:
        label += f"; not finite at {', '.join(f'{r:g}' for r in series.left_out)}"
    plot_variant(axes, series, label)
    if any(n > 1 for n in series.n):
        colour = series.style.colour
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)


def _ratio_ticks(axes: Any, data: MetricFigure) -> None:
    ratios = sorted({r for one in data.series for r in one.ratios + one.left_out})
    places: list[float] = []
    labels = []
    low, high = axes.get_xlim()
    for ratio in ratios:
        place = _PERCENT * (1 - ratio)
        if all(abs(place - other) >= _TICK_GAP * (high - low) for other in places):
            places.append(place)
            labels.append(f"{place:.3g}\n({ratio:g})")
    axes.set_xticks(places, labels)
