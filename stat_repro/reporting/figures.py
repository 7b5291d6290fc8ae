"""Figures of metrics and speed-ups against the MACs kept, and of recoveries against time."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from stat_repro.config import RECOVERIES
from stat_repro.reporting.costs import cost_points
from stat_repro.reporting.figure_data import Figure, Line, Panel, figure_of, mean_line
from stat_repro.reporting.points import aggregate, headline
from stat_repro.reporting.styles import DENSE, VariantStyle, in_words, quantity_style, words_of
from stat_repro.reporting.variants import budget_words, with_variants
from stat_repro.results.record import BEFORE_RECOVERY

_CURVE_POINTS = 60
_IDEAL = VariantStyle("#444444", "", "--", -2)
_BOUND = VariantStyle("#888888", "", ":", -1)
_COST_WORDS = (
    "dense by pruned time of a forward pass against the share of the whole model's MACs that is "
    "kept; bars: quartiles. Dashed: if time followed the MACs of the whole model; dotted: if the "
    "prunable part took all the time and followed its MACs"
)
# Beside the task's headline: zero-shot tasks where there are some, and how far the pruned model is
# from the dense one, which is far less noisy than accuracy.
_FURTHER = ("zero_shot_mean", "kl", "mse_to_dense")
# What stands in the file name of a figure with several data sets, whose metrics differ.
_METRIC = "metric"
_SETTINGS = "config.recovery."
_LINES = dict(zip(RECOVERIES[1:], ("-", "--", ":"), strict=True))
_CAPTION = (
    "against the seconds of pruning and training together, a panel per share of the prunable MACs "
    "that is removed. A line starts with the model before its training and goes on with one more "
    "budget at every point; of several seeds the mean"
)


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
        words = words_of(datasets)
        for quantity in (_METRIC, *_FURTHER, *others):
            wanted = of_model["headline"] if quantity == _METRIC else quantity
            shown = of_model[of_model["quantity"] == wanted]
            if shown.empty:
                continue
            panels = tuple(
                _panel(group, words[str(dataset)])
                for dataset, group in shown.groupby("dataset", sort=False)
            )
            rows = frame[(frame["model"] == model) & frame["dataset"].isin(set(shown["dataset"]))]
            title, names = in_words(str(model)), [quantity]
            if len(datasets) == 1:
                title += f" on {in_words(datasets[0])}"
                names = [datasets[0], shown.iloc[0]["quantity"]]
            caption = _words(title, shown, panels)
            figures.append(figure_of(rows, [str(model), *names], title, caption, panels))
    return figures


def spread_words(counts: Sequence[int]) -> str:
    """What is shown of several seeds."""
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "One calibration seed"
    number = str(most) if fewest == most else f"{fewest} to {most}"
    return f"Mean of {number} calibration seeds, with the range from the lowest to the highest"


def _words(title: str, points: pd.DataFrame, panels: Sequence[Panel]) -> str:
    labels = dict.fromkeys(panel.y_label for panel in panels)
    words = [f"{title}: {', '.join(labels)}"]
    if panels[0].kind == "lines":
        words[0] += " against the share of the prunable MACs that is kept"
    else:
        ratios = ", ".join(f"{100 * (1 - r):g}" for r in sorted(set(points["ratio"])))
        shares = {"MACs": "prunable MACs", "time": "time of heads and neurons"}
        words[0] += f" at {ratios} % of the "
        words[0] += " or ".join(shares[name] for name in sorted(set(points["budget"])))
    words.append(spread_words(points["n"].tolist()))
    if any(line.style == DENSE for panel in panels for line in panel.lines):
        words.append("Dashed, without marks: the dense model")
    return ". ".join(words)


def _panel(points: pd.DataFrame, title: str) -> Panel:
    """One quantity on one data set: lines, or rows where all variants have the same one ratio."""
    quantity = points.iloc[0]["quantity"]
    style = quantity_style(quantity)
    groups = [group for _, group in points.groupby("variant", sort=False)]
    single = len(groups) > 1 and points["ratio"].nunique() == 1
    lines = tuple(_line(group, style.scale, i, single=single) for i, group in enumerate(groups))
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
        ticks = tuple((100 * (1 - r), f"{100 * (1 - r):.3g}") for r in ratios)
    return Panel(
        title=title,
        x_label="" if single else "MACs kept (%)",
        y_label=style.label,
        lines=levels + lines,
        kind="rows" if single else "lines",
        log=style.log,
        ticks=ticks,
    )


def _line(group: pd.DataFrame, scale: float, place: int, *, single: bool) -> Line:
    first = group.iloc[0]
    drawn = group[group["not_finite"] == 0].sort_values("mac_kept", kind="stable")
    left_out = group.loc[group["not_finite"] > 0, "ratio"]
    label = first["variant"]
    if len(left_out):
        label += f"; not finite at {', '.join(f'{100 * (1 - r):g} %' for r in left_out)}"
    x = drawn["mac_kept"].map(lambda kept: float(place) if single else 100 * kept)
    values = (scale * drawn[name] for name in ("mean", "low", "high"))
    return Line(label, first["style"], *map(tuple, (drawn["run_ids"], x, *values)))


def cost_figures(frame: pd.DataFrame) -> list[Figure]:
    """One figure per model and data set with measured costs, a panel for each condition.

    Args:
        frame: What `measured_runs` gives, not empty.
    """
    figures = []
    for (model, dataset), points in cost_points(frame).groupby(["model", "dataset"], sort=False):
        conditions = points.groupby(["device", "tokens", "batch"])
        panels = tuple(
            _cost_panel(f"batch {batch}, {tokens} tokens\n{device}", group)
            for (device, tokens, batch), group in conditions
        )
        rows = frame[(frame["model"] == model) & (frame["dataset"] == dataset)]
        title = f"Speed-up of {in_words(str(model))}"
        words = f"{title}, pruned for {in_words(str(dataset))}: {_COST_WORDS}"
        parts = [str(model), str(dataset), "speedup"]
        figures.append(figure_of(rows, parts, title, words, panels, protocol=False, timed=True))
    return figures


def _cost_panel(title: str, points: pd.DataFrame) -> Panel:
    series = tuple(_cost_series(group) for _, group in points.groupby("variant", sort=False))
    share = statistics.fmean(points["prunable_share"])
    lowest = (1 / points["ideal"]).min()
    kept = [lowest + (1 - lowest) * i / _CURVE_POINTS for i in range(_CURVE_POINTS + 1)]
    x = tuple(100 * k for k in kept)
    # Range and share of what the MACs promise are those of all runs of the panel.
    runs = (tuple(sorted({run for one in points["run_ids"] for run in one})),) * len(x)
    promises = (
        Line("ideal (whole model)", _IDEAL, runs, x, tuple(1 / k for k in kept)),
        Line("bound (prunable part)", _BOUND, runs, x,
             tuple(share / (share - 1 + k) for k in kept)),
    )  # fmt: skip
    return Panel(title, "MACs of the whole model kept (%)", "measured speed-up", promises + series)


def _cost_series(points: pd.DataFrame) -> Line:
    points = points.sort_values("ideal", ascending=False, kind="stable")
    first, x = points.iloc[0], 100 / points["ideal"]
    values = (points[name] for name in ("speedup", "speedup_low", "speedup_high"))
    shown = map(tuple, (points["run_ids"], x, *values))
    return Line(first["variant"], first["style"], *shown, bars=True)


def healing_figures(frame: pd.DataFrame) -> list[Figure]:
    """Per model and data set the task's metric and the KL of runs with a recovery, by their time.

    Args:
        frame: Successful runs of one study, as `stat_repro.results.to_frame` gives them.
    """
    figures = []
    healed = frame[frame[f"{_SETTINGS}method"].isin(RECOVERIES[1:])]
    for (model, dataset), rows in healed.groupby(["model", "dataset"]):
        # Runs that differ in the kind and budget of their recovery alone are one variant.
        runs = with_variants(rows, [f"{_SETTINGS}method", f"{_SETTINGS}steps"])
        title = f"{in_words(str(model))} on {in_words(str(dataset))}, trained after pruning"
        for name in (headline(rows.iloc[0]), "kl"):
            before = f"metrics.{BEFORE_RECOVERY}.{name}"
            if before not in runs or runs[before].isna().all():  # a task without KL
                continue
            panels = tuple(_healing_panel(part, name) for _, part in runs.groupby("ratio"))
            words = f"{title}: {quantity_style(name).label} {_CAPTION}"
            parts = [str(model), str(dataset), name, "by_time"]
            figures.append(figure_of(rows, parts, title, words, panels, timed=True))
    return figures


def _healing_panel(runs: pd.DataFrame, name: str) -> Panel:
    style, dense = quantity_style(name), f"metrics.dense.{name}"
    lines = []
    if dense in runs:
        level = dict(zip(runs["run_id"], style.scale * runs[dense], strict=True))
        lines.append(mean_line("dense", DENSE, [(None, level)]))
    for (_, _, kind), group in runs.groupby(["order", "variant", f"{_SETTINGS}method"]):
        lines.append(_healing_line(group, str(kind), name))
    seconds = [x for line in lines for x in line.x]
    places = [k * 10**power for power in range(-2, 7) for k in (1, 2, 3, 5)]
    return Panel(
        title=f"{100 * runs.iloc[0]['ratio']:g} % of {budget_words(runs.iloc[0])} removed",
        x_label="pruning and training (s)",
        y_label=style.label,
        lines=tuple(lines),
        log=style.log,
        x_scale="log",
        ticks=tuple((x, f"{x:g}") for x in places if min(seconds) <= x <= max(seconds)),
    )


def _healing_line(group: pd.DataFrame, kind: str, name: str) -> Line:
    """One variant with one recovery: before it, then a point per budget."""
    first, scale = group.iloc[0], quantity_style(name).scale
    before = f"metrics.{BEFORE_RECOVERY}.{name}"
    after = next(c for c in (f"metrics.{g}.{name}" for g in ("pruned", "fidelity")) if c in group)
    whole = group["timings.compress_s"] + group["timings.recover_s"]
    group = group.assign(pruning=group["timings.compress_s"], whole=whole)
    shown = [(group, "pruning", before)]
    shown += [(runs, "whole", after) for _, runs in group.groupby(f"{_SETTINGS}steps")]
    points = [
        (statistics.fmean(runs[time]), dict(zip(runs["run_id"], scale * runs[value], strict=True)))
        for runs, time, value in shown
    ]
    style = replace(first["style"], line=_LINES[kind])
    return mean_line(f"{first['variant']}, {kind}", style, points)
