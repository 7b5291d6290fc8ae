"""Figures of metrics: against the share of MACs kept, one panel per data set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from stat_repro.reporting.figure_data import Figure, Line, Panel, file_stem
from stat_repro.reporting.points import aggregate, protocol_lines, record_lines
from stat_repro.reporting.styles import DENSE, in_words, quantity_style

_PERCENT = 100.0
# Beside the task's headline: zero-shot tasks where there are some, and how far the pruned model is
# from the dense one, which is far less noisy than accuracy.
_FURTHER = ("zero_shot_mean", "kl", "agreement", "mse_to_dense")
# What stands in the file name of a figure with several data sets, whose metrics differ.
_METRIC = "metric"


def metric_figures(
    frame: pd.DataFrame, points: pd.DataFrame | None = None, others: Sequence[str] = ()
) -> list[Figure]:
    """A figure per model of the task's metric and of every distance to the dense model.

    Args:
        frame: Successful runs, as `stat_repro.results.to_frame` gives them.
        points: What `aggregate` makes of them.
        others: Further quantities to show.
    """
    figures = []
    for model, of_model in aggregate(frame if points is None else points).groupby("model"):
        datasets = of_model["dataset"].unique().tolist()
        for quantity in (_METRIC, *_FURTHER, *others):
            wanted = of_model["headline"] if quantity == _METRIC else quantity
            shown = of_model[of_model["quantity"] == wanted]
            if shown.empty:
                continue
            panels = tuple(_panel(group) for _, group in shown.groupby("dataset", sort=False))
            rows = frame[(frame["model"] == model) & frame["dataset"].isin(set(shown["dataset"]))]
            title = in_words(str(model))
            names = [str(model), quantity]
            if len(datasets) == 1:
                title += f" on {in_words(datasets[0])}"
                names = [str(model), datasets[0], shown.iloc[0]["quantity"]]
            caption = _caption(title, shown, panels, rows)
            records = record_lines(rows)[0]
            figures.append(Figure(file_stem(*names), title, records, caption, panels))
    return figures


def spread_words(counts: Sequence[int]) -> str:
    """What is shown of several seeds."""
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "One calibration seed"
    number = str(most) if fewest == most else f"{fewest} to {most}"
    return f"Mean of {number} calibration seeds, with the range from the lowest to the highest"


def _caption(title: str, points: pd.DataFrame, panels: Sequence[Panel], rows: pd.DataFrame) -> str:
    labels = dict.fromkeys(panel.y_label for panel in panels)
    words = [f"{title}: {', '.join(labels)}"]
    if panels[0].kind == "lines":
        words[0] += " against the share of the prunable MACs that is kept"
    else:
        ratios = ", ".join(f"{_PERCENT * (1 - r):g}" for r in sorted(set(points["ratio"])))
        words[0] += f" at {ratios} % of the prunable MACs"
    words.append(spread_words(points["n"].tolist()))
    if any(line.style == DENSE for panel in panels for line in panel.lines):
        words.append("Dashed: the dense model")
    return ". ".join([*words, *(f"Protocol of {line}" for line in protocol_lines(rows))]) + "."


def _panel(points: pd.DataFrame) -> Panel:
    """One quantity on one data set: lines, or rows where every variant has one ratio."""
    quantity = points.iloc[0]["quantity"]
    style = quantity_style(quantity)
    groups = [group for _, group in points.groupby("variant", sort=False)]
    single = len(groups) > 1 and all(len(group) == 1 for group in groups)
    lines = tuple(
        _line(group, style.scale, place if single else None) for place, group in enumerate(groups)
    )
    dense: dict[float, tuple[str, ...]] = {}
    for value, ids in zip(points["dense"], points["dense_ids"], strict=True):
        if math.isfinite(value):
            key = float(f"{value * style.scale:.9g}")
            dense[key] = tuple(sorted({*dense.get(key, ()), *ids}))
    levels = tuple(Line("dense", DENSE, (dense[y],), (), (y,)) for y in sorted(dense))
    if single:
        ticks = tuple((float(i), line.label) for i, line in enumerate(lines))
    else:
        ratios = sorted(points["ratio"].unique())
        ticks = tuple((_PERCENT * (1 - r), f"{_PERCENT * (1 - r):.3g}") for r in ratios)
    lowest = min((y for line in lines for y in line.low), default=0.0)
    return Panel(
        title=in_words(points.iloc[0]["dataset"]),
        x_label="" if single else "MACs kept (%)",
        y_label=style.label,
        lines=levels + lines,
        kind="rows" if single else "lines",
        # A divergence of zero (ratio 0) has no logarithm.
        log=style.log and lowest > 0,
        ticks=ticks,
    )


def _line(group: pd.DataFrame, scale: float, place: int | None) -> Line:
    first = group.iloc[0]
    drawn = group[group["not_finite"] == 0].sort_values("mac_kept", kind="stable")
    left_out = group.loc[group["not_finite"] > 0, "ratio"]
    label = first["variant"]
    if len(left_out):
        label += f"; not finite at {', '.join(f'{_PERCENT * (1 - r):g} %' for r in left_out)}"
    return Line(
        label=label,
        style=first["style"],
        run_ids=tuple(drawn["run_ids"]),
        x=tuple(_PERCENT * drawn["mac_kept"]) if place is None else (float(place),) * len(drawn),
        y=tuple(scale * drawn["mean"]),
        low=tuple(scale * drawn["low"]),
        high=tuple(scale * drawn["high"]),
    )
