"""Figures of the speed benchmark: growth with each size, where the time goes, pruned models."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence

from stat_repro.reporting.figure_data import Figure, Line, Panel, file_stem
from stat_repro.reporting.speed_table import shown_measurements, where_measured
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


def speed_figures(records: Sequence[SpeedRecord]) -> list[Figure]:
    """The figures for which there are measurements."""
    figures = (growth_figure(records), stages_figure(records), inference_figure(records))
    return [figure for figure in figures if figure is not None]


def growth_figure(records: Sequence[SpeedRecord]) -> Figure | None:
    """Time and memory of measurements that differ in one size only; None if there are no two such.

    Args:
        records: Any measurements; what belongs to no line is left out.
    """
    times: list[Panel] = []
    peaks: list[Panel] = []
    for words, key, along in _AXES:
        groups: dict[str, list[SpeedRecord]] = {}
        for record in (one for one in records if "compress_s" in one.seconds):
            same = {k: v for k, v in record.protocol.items() if k not in (key, *along)}
            same |= {**dict.fromkeys(_BOOKKEEPING), "gpu": record.provenance.get("gpu")}
            groups.setdefault(repr(sorted(same.items())), []).append(record)
        grown = [g for g in groups.values() if len({one.protocol[key] for one in g}) > 1]
        if not grown:
            continue
        ticks = tuple((x, str(x)) for x in sorted({r.protocol[key] for g in grown for r in g}))
        seconds = [
            _growth(group, key, f"{_growing(group[0], key)}{of}", measure, number, line)
            for number, group in enumerate(grown)
            for of, measure, line in (
                (": compression", _whole, "-"),
                (": bare passes", _bare, "--"),
            )
        ]
        memory = [
            _growth(group, key, _growing(group[0], key), _peak, number, "-.")
            for number, group in enumerate(grown)
        ]
        for panels, label, lines, log in (
            (times, "seconds (median)", seconds, True),
            (peaks, "peak memory (GB)", memory, False),
        ):
            shown = tuple(line for line in lines if line.x)
            panels.append(
                Panel(
                    "", words, label, shown, log=log, from_zero=not log, x_scale="log2", ticks=ticks
                )
            )
    if not times:
        return None
    caption = (
        "Time and peak memory of a compression as the number of calibration examples, the depth "
        "and the width grow, with random weights; medians over the turns. Dashed: its two forward "
        "passes alone. Memory is resident memory above what was there before, or of the process."
    )
    made_from = shown_measurements(records)
    title = "Growth of time and memory"
    return Figure(file_stem("growth"), title, made_from, caption, (*times, *peaks))


def stages_figure(records: Sequence[SpeedRecord]) -> Figure | None:
    """Shares of the time of compressions measured on a GPU; None if there are none."""
    shown = [r for r in records if {"compress_s", "calibrate_s"} <= r.seconds.keys()]
    shown = [r for r in shown if r.provenance.get("gpu")]
    bars = [
        (record, kind, part)
        for record in shown
        for kind, part in (("compression", _STAGES), ("its bare passes", _BARE))
        if part.keys() <= record.seconds.keys()
    ]
    if not bars:
        return None
    medians = [{s: statistics.median(r.seconds[s]) for s in part} for r, _, part in bars]
    lines = []
    for number, (stage, words) in enumerate({**_STAGES, **_BARE}.items()):
        places = [i for i, bar in enumerate(medians) if stage in bar]
        shares = (100 * medians[i][stage] / sum(medians[i].values()) for i in places)
        runs = tuple((bars[i][0].run_id,) for i in places)
        lines.append(
            Line(words, numbered_style(number), runs, tuple(map(float, places)), tuple(shares))
        )
    ticks = tuple(
        (float(i), f"{_words(record)}\n{kind}, {sum(medians[i].values()):.2f} s")
        for i, (record, kind, _) in enumerate(bars)
    )
    panel = Panel("", "", "share of the time (%)", tuple(lines), "stack", ticks=ticks)
    caption = "Where the time of a compression goes on a GPU, beside its two forward passes alone."
    made_from = shown_measurements(shown)
    return Figure(file_stem("gpu_stages"), "Stages on a GPU", made_from, caption, (panel,))


def inference_figure(records: Sequence[SpeedRecord]) -> Figure | None:
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
        for condition, of_condition in points.items():
            level = Line(
                "as fast as dense", numbered_style(7, "", "--"), ((record.run_id,),), (), (1.0,)
            )
            lines_shown = [
                _inference(record, i, *item) for i, item in enumerate(of_condition.items())
            ]
            panels.append(
                Panel(
                    f"{_words(record)}\n{condition}",
                    "MACs removed (%)",
                    "dense / pruned time",
                    (level, *lines_shown),
                )
            )
    if not panels:
        return None
    caption = (
        "Speed-up of pruned models: dense by pruned time of a forward pass against the MACs "
        "removed; bars: quartiles over the turns. round_to: units are kept in multiples of it."
    )
    made_from = shown_measurements(shown)
    title = "Speed-up of pruned models"
    return Figure(file_stem("inference"), title, made_from, caption, tuple(panels))


def _growth(
    group: Sequence[SpeedRecord],
    key: str,
    label: str,
    measure: Callable[[Sequence[SpeedRecord]], float | None],
    number: int,
    line: str,
) -> Line:
    """What was measured along one size, where it was."""
    by_size: dict[int, list[SpeedRecord]] = {}
    for record in sorted(group, key=lambda one: int(one.protocol[key])):
        by_size.setdefault(int(record.protocol[key]), []).append(record)
    values = {size: measure(same_size) for size, same_size in by_size.items()}
    known = {size: value for size, value in values.items() if value is not None}
    runs = tuple(tuple(one.run_id for one in by_size[size]) for size in known)
    style = numbered_style(number, line=line)
    return Line(label, style, runs, tuple(map(float, known)), tuple(known.values()))


def _whole(records: Sequence[SpeedRecord]) -> float:
    return statistics.median(s for one in records for s in one.seconds["compress_s"])


def _bare(records: Sequence[SpeedRecord]) -> float | None:
    turns = []
    for one in records:
        if "forward_s" in one.seconds:
            passes = zip(one.seconds["forward_s"], one.seconds["forward_folded_s"], strict=True)
            turns += [first + second for first, second in passes]
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


def _inference(
    record: SpeedRecord, number: int, label: str, points: Sequence[tuple[float, dict[str, float]]]
) -> Line:
    x, ratios = zip(*sorted(points, key=lambda point: point[0]), strict=True)
    y, low, high = (tuple(one[key] for one in ratios) for key in ("median", "q25", "q75"))
    runs = ((record.run_id,),) * len(x)
    return Line(label, numbered_style(number), runs, x, y, low, high, bars=True)


def _words(record: SpeedRecord) -> str:
    sizes = record.protocol
    shape = f"{record.shape.removeprefix('inference_')}, {sizes['layers']} layers"
    return f"{shape}, {sizes['length']} tokens\n{where_measured(record)}"
