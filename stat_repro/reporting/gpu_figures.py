"""Figures of the benchmark on GPUs: where the time goes, and how fast pruned models are."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stat_repro.reporting.canvas import canvas
from stat_repro.reporting.figure_data import FigureData, Line, file_stem
from stat_repro.reporting.speed_table import shown_measurements, where_measured
from stat_repro.results.speed_record import SpeedRecord

# Stages of a compression in the order in which they happen, and the bare passes for comparison.
_STAGES = {
    "calibrate_s": "first pass and its sums",
    "errors_s": "pivots and errors",
    "allocate_s": "allocation",
    "fold_ffn_s": "folds of the FFNs",
    "recalibrate_s": "second pass and its sums",
    "fold_heads_s": "folds of the heads",
    "surgery_s": "smaller model",
}
_BARE = {"forward_s": "bare first pass", "forward_folded_s": "bare second pass"}
_POINT = re.compile(r"speed-up ratio=(\S+) round_to=(\S+) (batch=\d+(?: compiled)?)")


@dataclass(frozen=True)
class StagesData(FigureData):
    """Per bar its words, and (stage, median seconds) in order; and the measurement of each."""

    bars: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    run_ids: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """One row per stage of a bar."""
        return pd.DataFrame(
            {
                "panel": " ".join(words.split()),
                "series": stage,
                "seconds": seconds,
                "run_ids": run_id,
            }
            for (words, stages), run_id in zip(self.bars, self.run_ids, strict=True)
            for stage, seconds in stages
        )


@dataclass(frozen=True)
class InferenceData(FigureData):
    """Per panel its words, and a line per rounding: speed-up against MACs removed (percent)."""

    panels: tuple[tuple[str, tuple[Line, ...]], ...]


def stages_data(records: Sequence[SpeedRecord]) -> StagesData | None:
    """Bars of the compressions that were measured on a GPU; None if there are none."""
    shown = [r for r in records if "compress_s" in r.seconds and "calibrate_s" in r.seconds]
    shown = [r for r in shown if r.provenance.get("gpu")]
    bars = {
        (
            f"{_words(r)}\n{kind}",
            tuple((w, statistics.median(r.seconds[s])) for s, w in part.items()),
        ): r.run_id
        for r in shown
        for kind, part in (("compression", _STAGES), ("its bare passes", _BARE))
        if part.keys() <= r.seconds.keys()
    }
    if not bars:
        return None
    made_from = shown_measurements(shown)
    return StagesData(file_stem("gpu_stages"), "", made_from, tuple(bars), tuple(bars.values()))


def draw_stages(data: StagesData) -> Any:
    """The `matplotlib.figure.Figure` of the numbers, made without global state."""
    names = [*_STAGES.values(), *_BARE.values()]
    look = {name: {"color": f"C{i}"} for i, name in enumerate(names)}
    with canvas(7.0, 1.2 + 0.8 * len(data.bars), data.records) as figure:
        axes = figure.subplots()
        for place, (_, stages) in enumerate(data.bars):
            whole, start = sum(seconds for _, seconds in stages), 0.0
            for name, seconds in stages:
                share = 100 * seconds / whole
                axes.barh(place, share, left=start, **look[name], label=name)
                start += share
            axes.text(101, place, f"{whole:.2f} s", va="center", fontsize=7)
        axes.set_yticks(range(len(data.bars)), [words for words, _ in data.bars], fontsize=6)
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xlabel("share of the time (%)")
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(handles.values(), handles, fontsize=6, ncols=3, loc="upper center",
                    bbox_to_anchor=(0.4, -0.18))  # fmt: skip
    return figure


def inference_data(records: Sequence[SpeedRecord]) -> InferenceData | None:
    """Speed-ups of `python -m stat_repro.bench inference`; None if there are none."""
    shown = [record for record in records if "mac_kept" in record.protocol]
    panels = []
    for record in shown:
        points: dict[str, dict[str, list[tuple[float, dict[str, float]]]]] = {}
        for name, ratio in record.ratios.items():
            match = _POINT.fullmatch(name)
            if match:
                share, rounding, condition = match.groups()
                kept = record.protocol["mac_kept"][f"ratio={share} round_to={rounding}"]
                lines = points.setdefault(condition, {})
                lines.setdefault(f"round_to={rounding}", []).append((100 * (1 - kept), ratio))
        panels += [
            (
                f"{_words(record)}\n{condition}",
                tuple(_line(record, *item) for item in lines.items()),
            )
            for condition, lines in points.items()
        ]
    if not panels:
        return None
    return InferenceData(file_stem("inference"), "", shown_measurements(shown), tuple(panels))


def draw_inference(data: InferenceData) -> Any:
    """The `matplotlib.figure.Figure` of the numbers, made without global state."""
    columns = min(3, len(data.panels))
    rows = -(-len(data.panels) // columns)
    with canvas(2.6 * columns + 0.6, 2.5 * rows + 0.4, data.records) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(data.panels) :]:
            axes.remove()
        for axes, (words, lines) in zip(grid.flat, data.panels, strict=False):
            for line in lines:
                spread = [
                    [y - low for y, low in zip(line.y, line.low, strict=True)],
                    [high - y for y, high in zip(line.y, line.high, strict=True)],
                ]
                axes.errorbar(
                    line.x, line.y, yerr=spread, marker="o", markersize=3, label=line.label
                )
            axes.axhline(1.0, color="0.5", linestyle="--", linewidth=0.8)
            axes.set_title(words, fontsize=6)
            axes.set_xlabel("MACs removed (%)")
        for row in grid:
            row[0].set_ylabel("dense / pruned time")
        grid[0][0].legend(fontsize=6)
    return figure


def _line(
    record: SpeedRecord, label: str, points: Sequence[tuple[float, dict[str, float]]]
) -> Line:
    x, ratios = zip(*sorted(points, key=lambda point: point[0]), strict=True)
    values = {key: tuple(one[key] for one in ratios) for key in ("median", "q25", "q75")}
    return Line(
        label, ((record.run_id,),) * len(x), x, values["median"], values["q25"], values["q75"]
    )


def _words(record: SpeedRecord) -> str:
    sizes = record.protocol
    shape = f"{record.shape.removeprefix('inference_')}, {sizes['layers']} layers"
    return f"{shape}, {sizes['length']} tokens\n{where_measured(record)}"
