"""The figure of the speed benchmark: how time and memory grow with examples, depth and width."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stat_repro.reporting.canvas import canvas
from stat_repro.reporting.figure_data import FigureData, Points, file_stem
from stat_repro.reporting.speed_table import shown_measurements
from stat_repro.results.speed_record import SpeedRecord

_MODELS = {"bert": "BERT", "llama": "Llama"}
# What grows: its words, the key of the protocol, and the keys that grow along with it.
_AXES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("calibration examples", "examples", ()),
    ("layers", "layers", ()),
    (
        "hidden size",
        "hidden_size",
        ("intermediate_size", "num_attention_heads", "num_key_value_heads"),
    ),
)
# How a measurement was made, not what was measured.
_BOOKKEEPING = ("repeats", "warmup", "sweep", "authors_tokens")


@dataclass(frozen=True)
class GrowthSeries(Points):
    """One model and protocol along one axis, ascending in x; labelled by what does not grow.

    Attributes:
        x: Sizes.
        compress_s: Seconds of the whole compression, median over the turns and records.
        bare_s: Seconds of its two forward passes alone; None where they were not measured.
        peak_bytes: Largest peak of resident memory; None where the system does not tell.
    """

    COLUMNS = ("x", "compress_s", "bare_s", "peak_bytes")

    x: tuple[int, ...]
    compress_s: tuple[float, ...]
    bare_s: tuple[float | None, ...]
    peak_bytes: tuple[int | None, ...]


@dataclass(frozen=True)
class GrowthData(FigureData):
    """One column per axis along which something was measured: its words, and its series."""

    panels: tuple[tuple[str, tuple[GrowthSeries, ...]], ...]


def growth_data(records: Sequence[SpeedRecord]) -> GrowthData | None:
    """Series of measurements that differ in one size only; None if there are no two such.

    Args:
        records: Any measurements; what belongs to no series is left out.
    """
    panels = []
    for words, key, along in _AXES:
        groups: dict[str, list[SpeedRecord]] = {}
        for record in (one for one in records if "compress_s" in one.seconds):
            same = {k: v for k, v in record.protocol.items() if k not in (key, *along)}
            same |= {**dict.fromkeys(_BOOKKEEPING), "gpu": record.provenance.get("gpu")}
            groups.setdefault(repr(sorted(same.items())), []).append(record)
        series = tuple(
            _series(group, key)
            for group in groups.values()
            if len({record.protocol[key] for record in group}) > 1
        )
        if series:
            panels.append((words, series))
    if not panels:
        return None
    return GrowthData(file_stem("growth"), "", shown_measurements(records), tuple(panels))


def draw_growth(data: GrowthData) -> Any:
    """The `matplotlib.figure.Figure` of the numbers, made without global state."""
    columns = len(data.panels)
    with canvas(max(4.2, 3.2 * columns), 5.4, data.records) as figure:
        rows = figure.subplots(2, columns, squeeze=False)
        for (words, series), seconds, memory in zip(data.panels, *rows, strict=True):
            for number, one in enumerate(series):
                look: dict[str, Any] = {"color": f"C{number}", "marker": "o", "markersize": 4}
                seconds.plot(one.x, one.compress_s, label=f"{one.label}: compression", **look)
                _known(seconds, one.x, one.bare_s, label="its bare passes", linestyle="--", **look)
                scaled = [None if peak is None else peak / 1e9 for peak in one.peak_bytes]
                _known(memory, one.x, scaled, label=one.label, **look)
            seconds.set_yscale("log")
            for axes in (seconds, memory):
                axes.set_xlabel(words)
                axes.set_xscale("log", base=2)
                sizes = sorted({x for one in series for x in one.x})
                axes.set_xticks(sizes, [str(size) for size in sizes])
                axes.minorticks_off()
                axes.legend(fontsize=6)
            memory.set_ylim(bottom=0)
        rows[0][0].set_ylabel("seconds (median of the turns)")
        rows[1][0].set_ylabel("peak resident memory (GB)")
    return figure


def _series(group: Sequence[SpeedRecord], key: str) -> GrowthSeries:
    by_size: dict[int, list[SpeedRecord]] = {}
    for record in sorted(group, key=lambda one: int(one.protocol[key])):
        by_size.setdefault(int(record.protocol[key]), []).append(record)
    return GrowthSeries(
        label=_label(group[0], key),
        run_ids=tuple(tuple(one.run_id for one in same_size) for same_size in by_size.values()),
        x=tuple(by_size),
        compress_s=tuple(
            statistics.median(s for one in same_size for s in one.seconds["compress_s"])
            for same_size in by_size.values()
        ),
        bare_s=tuple(_bare(same_size) for same_size in by_size.values()),
        peak_bytes=tuple(_peak(same_size) for same_size in by_size.values()),
    )


def _bare(records: Sequence[SpeedRecord]) -> float | None:
    turns = []
    for one in records:
        if "forward_s" in one.seconds:
            passes = zip(one.seconds["forward_s"], one.seconds["forward_folded_s"], strict=True)
            turns += [first + second for first, second in passes]
    return statistics.median(turns) if turns else None


def _peak(records: Sequence[SpeedRecord]) -> int | None:
    """Of the compression above what was there before it, or of the whole process."""
    peaks = [one.memory.get("compress_peak", one.memory.get("process_peak")) for one in records]
    return max((peak for peak in peaks if peak is not None), default=None)


def _label(record: SpeedRecord, key: str) -> str:
    sizes = record.protocol
    words = [_MODELS.get(sizes["model_type"], sizes["model_type"])]
    if key != "hidden_size":
        words.append(f"{sizes['hidden_size']} wide")
    if key != "layers":
        words.append(f"{sizes['layers']} layers")
    tokens = f"x {sizes['length']} tokens"
    words.append(tokens if key == "examples" else f"{sizes['examples']} {tokens}")
    return ", ".join(words) + (", from disk" if sizes.get("spill") else "")


def _known(axes: Any, x: Sequence[int], y: Sequence[float | None], **look: Any) -> None:
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    if pairs:
        axes.plot(*zip(*pairs, strict=True), **look)
