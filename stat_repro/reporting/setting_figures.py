"""Figures of a number that a study varies: calibration examples, rows of a sketch, the ridge."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from stat_repro.reporting.figure_data import Figure, Line, Panel, file_stem
from stat_repro.reporting.figures import spread_words
from stat_repro.reporting.points import protocol_lines, record_lines
from stat_repro.reporting.styles import in_words, numbered_style, quantity_style
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


def setting_figures(records: Sequence[RunRecord]) -> list[Figure]:
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
            values = {quantity_style("kl").label: runs[_KL].tolist()}
            if column.endswith("sketch_size"):
                values |= _beside_exact(runs, known)
            panels = tuple(
                _panel(label, words, _series(runs, shown)) for label, shown in values.items()
            )
            if len(panels) > 1:
                # The titles of the panels say what the values are.
                panels = tuple(replace(panel, y_label="") for panel in panels)
            title = f"{in_words(str(model))} on {in_words(str(dataset))}"
            seeds = runs.groupby(["variant", "ratio", "setting"], dropna=False).size().tolist()
            caption = ". ".join(
                [f"{title}: {'; '.join(values)} against the {words}", spread_words(seeds)]
                + [f"Protocol of {line}" for line in protocol_lines(rows)]
            )
            name = file_stem(str(model), str(dataset), "kl_by", column.rpartition(".")[2])
            figures.append(Figure(name, title, record_lines(rows)[0], f"{caption}.", panels))
    return figures


def _panel(label: str, words: str, series: tuple[Line, ...]) -> Panel:
    sizes = sorted({x for one in series for x in one.x})
    return Panel(
        title=label,
        x_label=words,
        y_label=label,
        lines=series,
        log=label == quantity_style("kl").label,
        # A ridge of 0 has its place on the axis as well.
        x_scale="log" if sizes[0] > 0 else "symlog",
        ticks=tuple((size, f"{size:g}") for size in sizes),
    )


def _series(rows: pd.DataFrame, values: Sequence[float | None]) -> tuple[Line, ...]:
    """Series of these values, one per row; rows without a value are left out."""
    rows = rows.assign(value=pd.Series(values, index=rows.index)).dropna(subset=["value"])
    series: list[Line] = []
    for (_, variant, _), group in rows.groupby(["order", "variant", "ratio"], sort=True):
        points: dict[float | None, dict[str, float]] = {}
        for x, y, run in zip(group["setting"], group["value"], group["run_id"], strict=True):
            points.setdefault(None if pd.isna(x) else float(x), {})[run] = float(y)
        sizes = tuple(sorted(x for x in points if x is not None))
        shown = [points[x] for x in sizes] or [points[None]]
        label = f"{variant}, {100 * (1 - group.iloc[0]['ratio']):g} % of MACs"
        series.append(
            Line(
                label=label,
                # Without a setting it is a level, to compare with.
                style=numbered_style(len(series), *(("o", "-") if sizes else ("", "--"))),
                run_ids=tuple(tuple(sorted(point)) for point in shown),
                x=sizes,
                y=tuple(statistics.fmean(point.values()) for point in shown),
                low=tuple(min(point.values()) for point in shown),
                high=tuple(max(point.values()) for point in shown),
            )
        )
    return tuple(series)


def _beside_exact(rows: pd.DataFrame, known: dict[str, RunRecord]) -> dict[str, list[float | None]]:
    """What a sketch does to pivots and errors, beside the exact statistics of the same study."""
    runs = [known[run_id] for run_id in rows["run_id"]]
    exact = {
        (run.ratio, run.seed): run
        for run in runs
        if run.config["calibration"]["statistics"] == "gram"
    }
    return {
        "neurons kept as by exact statistics (%)": [
            _common_neurons(run, exact.get((run.ratio, run.seed))) for run in runs
        ],
        "mean relative FFN error": [_ffn_error(run) for run in runs],
    }


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
