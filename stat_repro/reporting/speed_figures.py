"""Figures of the speed benchmark: growth with each size, where the time goes, pruned models."""

import itertools
import re
import statistics
from collections.abc import Sequence

from stat_repro.reporting.figure_data import Figure, Line, Panel, file_stem
from stat_repro.reporting.speed_table import machine_words, shown_measurements, where_measured
from stat_repro.reporting.styles import numbered_style
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
# Stages of a compression in the order in which they happen, and the bare passes for comparison.
_PARTS = {
    "compression": {
        "calibrate_s": "first pass and its sums",
        "errors_s": "pivots and errors",
        "allocate_s": "allocation",
        "fold_ffn_s": "folds of the FFNs",
        "recalibrate_s": "second pass and its sums",
        "fold_heads_s": "folds of the heads",
        "surgery_s": "smaller model",
    },
    "its bare passes": {"forward_s": "bare first pass", "forward_folded_s": "bare second pass"},
}
_POINT = re.compile(r"speed-up ratio=(\S+) round_to=(\S+) (batch=\d+(?: compiled)?)")


def speed_figures(records: Sequence[SpeedRecord]) -> list[Figure]:
    """The figures for which there are measurements."""
    figures = (growth_figure(records), stages_figure(records), inference_figure(records))
    return [figure for figure in figures if figure is not None]


def growth_figure(records: Sequence[SpeedRecord]) -> Figure | None:
    """Time and memory of measurements that differ in one size only; None if there are no two such.

    Args:
        records: Any measurements; what belongs to no line is left out.
    """
    panels: dict[str, list[Panel]] = {"seconds (median)": [], "peak memory (GB)": []}
    for words, key, along in _AXES:
        groups: dict[str, list[SpeedRecord]] = {}
        for record in (one for one in records if "compress_s" in one.seconds):
            same = {k: v for k, v in record.protocol.items() if k not in (key, *along)}
            where = {key: record.provenance.get(key) for key in ("gpu", "processor")}
            same |= {**dict.fromkeys(_BOOKKEEPING), **where}
            groups.setdefault(repr(sorted(same.items())), []).append(record)
        grown = [g for g in groups.values() if len({one.protocol[key] for one in g}) > 1]
        if not grown:
            continue
        ticks = tuple((x, str(x)) for x in sorted({r.protocol[key] for g in grown for r in g}))
        lines: dict[str, list[Line]] = {label: [] for label in panels}
        several = len({tuple(machine_words(one)) for one in itertools.chain(*grown)}) > 1
        for number, group in enumerate(grown):
            machine = machine_words(group[0]) if several else []
            name = ", ".join([_growing(group[0], key), *machine])
            for label, of, line, stages in (
                ("seconds (median)", ": compression", "-", ("compress_s",)),
                ("seconds (median)", ": bare passes", "--", ("forward_s", "forward_folded_s")),
                ("peak memory (GB)", "", "-.", ()),
            ):
                if points := _growth(group, key, stages):
                    style = numbered_style(number, line=line)
                    lines[label].append(Line(f"{name}{of}", style, *zip(*points, strict=True)))
        for label, of_label in lines.items():
            log, shown = label == "seconds (median)", tuple(of_label)
            panel = Panel("", words, label, shown, "lines", log, not log, "log2", ticks)
            panels[label].append(panel)
    caption = (
        "Time and peak memory of a compression as the number of calibration examples, the depth "
        "and the width grow, with random weights; medians over the turns. Dashed: its two forward "
        "passes alone. Memory is resident memory above what was there before, or of the process."
    )
    made = [*itertools.chain(*panels.values())]
    return _figure("growth", "Growth of time and memory", records, caption, made)


def stages_figure(records: Sequence[SpeedRecord]) -> Figure | None:
    """Shares of the time of compressions measured on a GPU; None if there are none."""
    shown = [r for r in records if {"compress_s", "calibrate_s"} <= r.seconds.keys()]
    shown = [r for r in shown if r.provenance.get("gpu")]
    lines: dict[str, list[tuple[tuple[str, ...], float, float]]] = {}
    ticks: list[tuple[float, str]] = []
    for record, (kind, part) in itertools.product(shown, _PARTS.items()):
        if not part.keys() <= record.seconds.keys():
            continue
        place, medians = float(len(ticks)), {s: statistics.median(record.seconds[s]) for s in part}
        whole = sum(medians.values())
        ticks.append((place, f"{_words(record)}\n{kind}, {whole:.2f} s"))
        for stage, words in part.items():
            bar = (record.run_id,), place, 100 * medians[stage] / whole
            lines.setdefault(words, []).append(bar)
    stages = [words for part in _PARTS.values() for words in part.values()]
    bars = tuple(
        Line(words, numbered_style(i), *zip(*lines[words], strict=True))
        for i, words in enumerate(stages)
        if words in lines
    )
    panel = Panel("", "", "share of the time (%)", bars, "stack", ticks=tuple(ticks))
    caption = "Where the time of a compression goes on a GPU, beside its two forward passes alone."
    return _figure("gpu_stages", "Stages on a GPU", shown, caption, [panel] if ticks else [])


def inference_figure(records: Sequence[SpeedRecord]) -> Figure | None:
    """Speed-ups of `python -m stat_repro.bench inference`; None if there are none."""
    shown = [record for record in records if "mac_kept" in record.protocol]
    panels = []
    for record in shown:
        points: dict[str, dict[str, list[tuple[float, ...]]]] = {}
        for name, ratio in record.ratios.items():
            if match := _POINT.fullmatch(name):
                share, rounding, condition = match.groups()
                kept = record.protocol["mac_kept"][f"ratio={share} round_to={rounding}"]
                of_rounding = points.setdefault(condition, {}).setdefault(rounding, [])
                quartiles = [ratio[name] for name in ("median", "q25", "q75")]
                of_rounding.append((100 * (1 - kept), *quartiles))
        runs = (record.run_id,)
        for condition, of_condition in points.items():
            level = Line("as fast as dense", numbered_style(7, "", "--"), (runs,), (), (1.0,))
            lines = [
                Line(f"round_to={rounding}", numbered_style(number), (runs,) * len(known),
                     *zip(*sorted(known), strict=True), bars=True)
                for number, (rounding, known) in enumerate(of_condition.items())
            ]  # fmt: skip
            title = f"{_words(record)}\n{condition}"
            axes = "MACs removed (%)", "dense / pruned time"
            panels.append(Panel(title, *axes, (level, *lines)))
    caption = (
        "Speed-up of pruned models: dense by pruned time of a forward pass against the MACs "
        "removed; bars: quartiles over the turns. round_to: units are kept in multiples of it."
    )
    return _figure("inference", "Speed-up of pruned models", shown, caption, panels)


def _figure(
    name: str, title: str, records: Sequence[SpeedRecord], caption: str, panels: Sequence[Panel]
) -> Figure | None:
    if not panels:
        return None
    return Figure(file_stem(name), title, shown_measurements(records), caption, tuple(panels))


def _growth(
    group: Sequence[SpeedRecord], key: str, stages: Sequence[str]
) -> list[tuple[tuple[str, ...], int, float]]:
    """By one size: the runs, the size, and the stages' time, or without stages the memory."""
    points = []
    for size in sorted({one.protocol[key] for one in group}):
        same_size = [one for one in group if one.protocol[key] == size]
        value = _seconds(same_size, stages) if stages else _peak(same_size)
        if value is not None:
            points.append((tuple(one.run_id for one in same_size), size, value))
    return points


def _seconds(records: Sequence[SpeedRecord], stages: Sequence[str]) -> float | None:
    """Median over the turns of all stages together, where they were timed."""
    timed = [one.seconds for one in records if stages[0] in one.seconds]
    turns = [sum(turn) for of in timed for turn in zip(*(of[s] for s in stages), strict=True)]
    return statistics.median(turns) if turns else None


def _peak(records: Sequence[SpeedRecord]) -> float | None:
    """In GB: of the compression above what was there before it, or of the whole process."""
    peaks = [one.memory.get("compress_peak", one.memory.get("process_peak")) for one in records]
    return max((peak / 1e9 for peak in peaks if peak is not None), default=None)


def _growing(record: SpeedRecord, key: str) -> str:
    """Model, and what does not grow."""
    sizes = record.protocol
    words = [_MODELS.get(sizes["model_type"], sizes["model_type"])]
    if key != "hidden_size":
        words.append(f"{sizes['hidden_size']} wide")
    if key != "layers":
        words.append(f"{sizes['layers']} layers")
    tokens = f"x {sizes['length']} tokens"
    words.append(tokens if key == "examples" else f"{sizes['examples']} {tokens}")
    return ", ".join(words) + (", from disk" if sizes.get("spill") else "")


def _words(record: SpeedRecord) -> str:
    sizes = record.protocol
    shape = f"{record.shape.removeprefix('inference_')}, {sizes['layers']} layers"
    return f"{shape}, {sizes['length']} tokens\n{where_measured(record)}"
