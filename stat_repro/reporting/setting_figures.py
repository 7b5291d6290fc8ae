"""Figures of a number that a study varies: calibration examples, rows of a sketch, the ridge."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stat_repro.reporting.canvas import canvas, log_axis
from stat_repro.reporting.figure_data import FigureData, Line, file_stem
from stat_repro.reporting.points import record_lines
from stat_repro.reporting.variants import with_variants
from stat_repro.results import RunRecord, to_frame

# Settings with a figure: column of a frame, and the words of its axis.
_SETTINGS = {
    "config.calibration.examples": "calibration examples",
    "config.calibration.sketch_size": "rows of the sketch",
    "config.pruning.ridge": "ridge of the corrections",
}
_KL = "metrics.fidelity.kl"
_LEAST = 3  # values of the setting that make a figure
_FADED = 0.18
_HALF_WIDTH = 38  # characters of a legend line that fit beside another one below one panel


@dataclass(frozen=True)
class SettingFigure(FigureData):
    """Values against the setting.

    Attributes:
        x_label: The setting.
        panels: Words of the y axis, whether it is logarithmic, and a line per variant and ratio:
            values of the seeds against the setting, without x where there is no such setting.
    """

    x_label: str
    panels: tuple[tuple[str, bool, tuple[Line, ...]], ...]


def setting_figures(records: Sequence[RunRecord]) -> list[SettingFigure]:
    """One figure per model, data set and setting of which a study has at least three values.

    Args:
        records: Successful runs of one study.
    """
    frame = to_frame(records)
    if _KL not in frame:
        return []
    known = {record.run_id: record for record in records}
    figures = []
    for (model, dataset), rows in frame.groupby(["model", "dataset"]):
        for column, words in _SETTINGS.items():
            if column not in rows or rows[column].dropna().nunique() < _LEAST:
                continue
            # Runs that differ in the setting alone are one series.
            runs = with_variants(rows.assign(**{column: None})).assign(setting=list(rows[column]))
            panels = [("KL from dense (nats)", True, _series(runs, runs[_KL].tolist()))]
            if column.endswith("sketch_size"):
                panels += _sketch_panels(runs, known)
            name = file_stem(str(model), str(dataset), "kl_by", column.rpartition(".")[2])
            lines = record_lines(rows)[0]
            figures.append(SettingFigure(name, f"{model}, {dataset}", lines, words, tuple(panels)))
    return figures


def draw_setting(data: SettingFigure) -> Any:
    """The `matplotlib.figure.Figure` of the numbers, made without global state."""
    columns = len(data.panels)
    with canvas(1.4 + 3.9 * columns, 4.2, data.records) as figure:
        for axes, (words, log, series) in zip(
            figure.subplots(1, columns, squeeze=False)[0], data.panels, strict=True
        ):
            for number, one in enumerate(series):
                colour = f"C{number}"
                if not one.x:
                    axes.axhline(one.y[0], color=colour, linestyle="--", label=one.label)
                    continue
                axes.plot(one.x, one.y, color=colour, marker="o", markersize=4, label=one.label)
                axes.fill_between(one.x, one.low, one.high, color=colour, alpha=_FADED, linewidth=0)
            sizes = sorted({x for one in series for x in one.x})
            # A ridge of 0 has its place on the axis as well.
            axes.set_xscale("log" if sizes[0] > 0 else "symlog", **_linear_part(sizes))
            axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axes.minorticks_off()
            axes.set_xlabel(data.x_label)
            axes.set_ylabel(words)
            if log:
                log_axis(axes)
        figure.suptitle(data.title)
        handles, labels = axes.get_legend_handles_labels()
        fit = max(map(len, labels), default=0) <= _HALF_WIDTH * columns
        figure.legend(handles, labels, fontsize=7, loc="outside lower left", ncols=2 if fit else 1)
    return figure


def _linear_part(sizes: Sequence[float]) -> dict[str, float]:
    return {} if sizes[0] > 0 else {"linthresh": sizes[1]}


def _series(rows: pd.DataFrame, values: Sequence[float | None]) -> tuple[Line, ...]:
    """Series of these values, one per row; rows without a value are left out."""
    rows = rows.assign(value=pd.Series(values, index=rows.index)).dropna(subset=["value"])
    series = []
    for (_, variant, ratio), group in rows.groupby(["order", "variant", "ratio"], sort=True):
        points: dict[float | None, dict[str, float]] = {}
        for x, y, run in zip(group["setting"], group["value"], group["run_id"], strict=True):
            points.setdefault(None if pd.isna(x) else float(x), {})[run] = float(y)
        sizes = tuple(sorted(x for x in points if x is not None))
        shown = [points[x] for x in sizes] or [points[None]]
        counts = sorted({len(point) for point in shown})
        series.append(
            Line(
                label=f"{variant}, ratio {ratio:g} (n={' to '.join(map(str, counts))})",
                run_ids=tuple(tuple(sorted(point)) for point in shown),
                x=sizes,
                y=tuple(statistics.fmean(point.values()) for point in shown),
                low=tuple(min(point.values()) for point in shown),
                high=tuple(max(point.values()) for point in shown),
            )
        )
    return tuple(series)


def _sketch_panels(
    rows: pd.DataFrame, known: dict[str, RunRecord]
) -> list[tuple[str, bool, tuple[Line, ...]]]:
    """What a sketch does to pivots and errors, beside the exact statistics of the same study."""
    runs = [known[run_id] for run_id in rows["run_id"]]
    exact = {
        (run.ratio, run.seed): run
        for run in runs
        if run.config["calibration"]["statistics"] == "gram"
    }
    common = [_common_neurons(run, exact.get((run.ratio, run.seed))) for run in runs]
    errors = [_ffn_error(run) for run in runs]
    return [
        ("neurons kept as by the exact statistics (%)", False, _series(rows, common)),
        ("mean relative FFN error, by the statistics taken", False, _series(rows, errors)),
    ]


def _common_neurons(run: RunRecord, exact: RunRecord | None) -> float | None:
    """Percent of the neurons kept by a run that another one, if there is one, keeps as well."""
    if exact is None:
        return None
    kept, others = (
        {(i, unit) for i, layer in enumerate(r.layers) for unit in layer.kept_neurons}
        for r in (run, exact)
    )
    return 100 * (len(kept & others) / len(kept))


def _ffn_error(run: RunRecord) -> float:
    errors = [e["relative_error"] for e in run.site_errors if e["kind"] == "ffn"]
    return statistics.fmean(e for e in errors if e is not None)
