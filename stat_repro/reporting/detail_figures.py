"""Figures of what lies behind the metrics: layer by layer, and against a setting of the study."""

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from stat_repro.reporting.figure_data import Figure, Line, Panel, figure_of, mean_line
from stat_repro.reporting.figures import spread_words
from stat_repro.reporting.points import measured_values
from stat_repro.reporting.styles import graded_style, in_words, numbered_style, quantity_style
from stat_repro.reporting.variants import budget_words, with_variants
from stat_repro.results import RunRecord

_METHODS = ("stat", "stat_plus")  # whose plans are shown
_LEAST = 3  # ratios, or values of a setting, that make a figure
_KINDS = {"attention": "heads", "ffn": "neurons"}
_NAMED = 7  # layers in a legend
_KEPT = "units kept in each layer by ratio, in percent, mean of the seeds"
_ERRORS = (
    "relative error of a site against the share of its units that is kept, one line per layer, a "
    "point per ratio of the sweep, mean of the seeds that lose some"
)
# Settings with a figure: column of a frame, and the words of its axis.
_SETTINGS = {
    "config.calibration.examples": "calibration examples",
    "config.calibration.sketch_size": "rows of the sketch",
    "config.pruning.ridge": "ridge of the corrections",
}
_STATISTICS = ("config.calibration.statistics", "config.calibration.sketch")
_KL = "metrics.fidelity.kl"


def layer_figures(frame: pd.DataFrame) -> list[Figure]:
    """Per model and data set the share of units kept by layer and ratio, and their errors.

    Shown are the first forms of STAT and STAT+ that a study has at three ratios or more. A record
    has the error of every site at the size that it was given; the runs of a sweep together show
    how it falls with the size.

    Args:
        frame: Successful runs of one study, as `study_frame` gives them.
    """
    figures = []
    for (model, dataset), rows in with_variants(frame).groupby(["model", "dataset"]):
        forms = [_first_form(rows[rows["method"] == method]) for method in _METHODS]
        shown = [one.sort_values(["ratio", "run_id"]) for one in forms if not one.empty]
        kept, errors = [], []
        for one, (kind, units) in itertools.product(shown, _KINDS.items()):
            title = f"{one.iloc[0]['variant']}: {units}"
            # Of a model that was pruned before, a layer may have none, of which there is no share.
            if all(getattr(layer, units) for layer in one.iloc[0]["record"].layers):
                kept.append(_kept(title, one, units))
            if lines := _errors(one["record"], kind):
                axes = f"{units} kept (%)", "relative error"
                errors.append(Panel(title, *axes, lines, log=True))
        title = f"{in_words(str(model))} on {in_words(str(dataset))}"
        for name, words, panels in (("kept", _KEPT, kept), ("errors", _ERRORS, errors)):
            if panels:
                made_from, parts = pd.concat(shown), [str(model), str(dataset), name]
                words = f"{title}: {words}"
                figures.append(figure_of(made_from, parts, title, words, panels, protocol=False))
    return figures


def _first_form(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of the first variant with enough ratios."""
    for _, form in rows.groupby("order"):
        if form["ratio"].nunique() >= _LEAST:
            return form
    return rows.iloc[:0]


def _kept(title: str, rows: pd.DataFrame, units: str) -> Panel:
    lines = []
    for _, same in rows.groupby("ratio"):
        records = same["record"].tolist()
        shares = [
            {
                record.run_id: 100 * len(getattr(plan, f"kept_{units}")) / getattr(plan, units)
                for record, plan in zip(records, plans, strict=True)
            }
            for plans in zip(*(record.layers for record in records), strict=True)
        ]
        points = list(enumerate(shares))
        lines.append(mean_line(f"{100 * (1 - records[0].ratio):g}", graded_style(0), points))
    ticks = tuple((float(x), f"{x + 1:g}") for x in lines[0].x)
    share = f"{budget_words(rows.iloc[0])} kept (%)"
    return Panel(f"{title} kept (%)", "layer", share, tuple(lines), "cells", ticks=ticks)


def _errors(records: Iterable[RunRecord], kind: str) -> tuple[Line, ...]:
    """A line per layer; none where no error was stored, or everything was kept."""
    # Nothing is lost where everything is kept, which a logarithmic axis cannot show.
    sites = [
        (e["layer"], run.ratio, 100 * e["kept"] / e["units"], e["relative_error"], run.run_id)
        for run in records
        for e in run.site_errors
        if e["kind"] == kind and e.get("relative_error")
    ]
    if not sites:
        return ()
    frame = pd.DataFrame(sites, columns=["layer", "ratio", "kept", "error", "run_ids"])
    means = frame.groupby(["layer", "ratio"], as_index=False).agg(
        **{name: (name, statistics.fmean) for name in ("kept", "error")}, run_ids=("run_ids", tuple)
    )
    means = means.sort_values(["layer", "kept", "error"])
    layers = means["layer"].unique().tolist()
    lines, last = [], max(layers)
    for layer in layers:
        shown = means[means["layer"] == layer]
        named = layer % -(-(last + 1) // _NAMED) == 0 or layer == last
        label = f"layer {layer + 1}" if named else ""
        style = graded_style(layer / max(last, 1))
        lines.append(Line(label, style, *(tuple(shown[k]) for k in ("run_ids", "kept", "error"))))
    return tuple(lines)


def setting_figures(frame: pd.DataFrame) -> list[Figure]:
    """One figure per model, data set and setting of which a study has at least three values.

    Args:
        frame: Successful runs of one study, as `study_frame` gives them.
    """
    if _KL not in frame:
        return []
    figures = []
    for (model, dataset), rows in frame.groupby(["model", "dataset"]):
        for column, words in _SETTINGS.items():
            if rows[column].dropna().nunique() < _LEAST:
                continue
            # Runs that differ in the setting alone are one series.
            runs = with_variants(rows, [column])
            kl = measured_values(runs.to_dict("records"), _KL)
            values = {quantity_style("kl").label: list(map(kl.get, runs["run_id"]))}
            if column.endswith("sketch_size"):
                values |= _beside_exact(rows)
            panels = tuple(
                _setting_panel(label, words, _series(runs, column, shown))
                for label, shown in values.items()
            )
            panels = tuple(panel for panel in panels if panel.ticks)
            if not panels:  # a task without KL
                continue
            titles = "; ".join(panel.title for panel in panels)
            if len(panels) > 1:
                # The titles of the panels say what the values are.
                panels = tuple(replace(panel, y_label="") for panel in panels)
            title = f"{in_words(str(model))} on {in_words(str(dataset))}"
            seeds = runs.groupby(["variant", "ratio", column], dropna=False).size().tolist()
            caption = f"{title}: {titles} against the {words}. {spread_words(seeds)}"
            parts = [str(model), str(dataset), "kl_by", column.rpartition(".")[2]]
            figures.append(figure_of(rows, parts, title, caption, panels))
    return figures


def _setting_panel(label: str, words: str, series: tuple[Line, ...]) -> Panel:
    sizes = sorted({x for one in series for x in one.x})
    return Panel(
        title=label,
        x_label=words,
        y_label=label,
        lines=series,
        log=label == quantity_style("kl").label,
        # A ridge of 0 has its place on the axis as well.
        x_scale="log" if all(sizes) else "symlog",
        ticks=tuple((size, f"{size:g}") for size in sizes),
    )


def _series(runs: pd.DataFrame, column: str, values: Sequence[float | None]) -> tuple[Line, ...]:
    """Series of these values, one per row; rows without a value are left out."""
    runs = runs[[value is not None for value in values]]
    runs = runs.assign(value=[value for value in values if value is not None])
    series: list[Line] = []
    for _, group in runs.groupby(["order", "variant", "ratio"]):
        points: list[tuple[float | None, dict[str, float]]] = [
            (float(same[column].iloc[0]), dict(zip(same["run_id"], same["value"], strict=True)))
            for _, same in group.groupby(column)
        ]
        style = numbered_style(len(series))
        if not points:  # without a setting it is a level, to compare with
            points = [(None, dict(zip(group["run_id"], group["value"], strict=True)))]
            style = numbered_style(len(series), "", "--")
        first = group.iloc[0]
        label = (
            f"{first['variant']}, {100 * (1 - first['ratio']):g} % of {budget_words(first)} kept"
        )
        series.append(mean_line(label, style, points, spread=True))
    return tuple(series)


def _beside_exact(rows: pd.DataFrame) -> dict[str, list[float | None]]:
    """What a sketch does to pivots and errors, beside the exact statistics of the same study."""
    # What runs are called whose statistics alone differ.
    forms = with_variants(rows, rows.columns[rows.columns.str.startswith(_STATISTICS)])["variant"]
    runs: list[RunRecord] = rows["record"].tolist()
    keys = [(form, run.ratio, run.seed) for form, run in zip(forms, runs, strict=True)]
    kept = [
        {(i, unit) for i, layer in enumerate(run.layers) for unit in layer.kept_neurons}
        for run in runs
    ]
    exact = {
        key: units
        for key, run, units in zip(keys, runs, kept, strict=True)
        if run.config["calibration"]["statistics"] == "gram"
    }
    beside = list(map(exact.get, keys))
    return {
        "neurons kept as by exact statistics (%)": [
            100 * (len(units & other) / len(units)) if units and other is not None else None
            for units, other in zip(kept, beside, strict=True)
        ],
        "mean relative FFN error by the run's statistics": [_ffn_error(run) for run in runs],
    }


def _ffn_error(run: RunRecord) -> float | None:
    errors = [e["relative_error"] for e in run.site_errors if e["kind"] == "ffn"]
    known = [error for error in errors if error is not None]
    return statistics.fmean(known) if known else None
