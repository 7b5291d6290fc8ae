"""Measured cost as tables: real speed-up beside the MACs that were removed."""

import json
import statistics
from typing import Any

import pandas as pd

from stat_repro.reporting.tables import Table
from stat_repro.reporting.variants import with_variants

# One point: the same pruned model under the same conditions.
_POINT = ["model", "dataset", "variant", "ratio", "device", "batch", "tokens"]
# The same in all runs of a point.
_OF_THE_FIRST = ["warmup", "repeats", "style", "order"]
# Both models have these: column of a point, column of a record or of an entry, and how the table
# shows it: words, factor and decimal places.
_BOTH = {
    "params": ("costs.params.{}", "params (M)", 1e-6, 2),
    "size_bytes": ("costs.size_bytes.{}", "size (MB)", 1e-6, 1),
    "macs_per_token": ("macs_per_token.{}", "MMACs per token", 1e-6, 2),
    "latency_s": ("latency_s.{}.median", "latency (ms)", 1e3, 2),
    "tokens_per_s": ("tokens_per_s.{}", "tokens/s", 1, 0),
    "peak_memory_bytes": ("peak_memory_bytes.{}", "peak memory (MB)", 1e-6, 1),
}
_MODELS = ("dense", "pruned")
_NUMBERS = {
    **{f"{name}_{m}": of[0].format(m) for m in _MODELS for name, of in _BOTH.items()},
    **{"speedup": "speedup.median", "speedup_low": "speedup.q25", "speedup_high": "speedup.q75"},
}
_NOTES = (
    "a / b: dense / pruned. MACs: whole model, at the timed length. Size: weights on disk",
    "latency: median of one forward pass over the batch; the two models take turns in one process",
    "peak memory: weights and what a forward pass holds at once beside them",
    "speed-up: dense by pruned time of one turn, median (lower to upper quartile; lowest and "
    "highest of several runs)",
    "ideal: the speed-up if time followed the MACs of the whole model; bound: if the prunable part "
    "took all the time and followed its MACs",
    "time / MACs removed: shares of the dense model's latency and of its MACs",
)


def measured_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of a frame (see `stat_repro.results.to_frame`) whose costs were measured."""
    if "costs.measured" not in frame:
        return frame.iloc[:0]
    return frame[frame["costs.measured"].notna()]


def cost_points(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, ratio, device, batch size and length, over the runs that measured it.

    Columns: what makes the point (`tokens` per example; `device` by its name, with CPU threads),
    `n` runs and their `run_ids`, `warmup` and `repeats`; means in the record's units, each `_dense`
    and `_pruned`: `params`, `size_bytes`, `macs_per_token`, `latency_s`, `tokens_per_s`,
    `peak_memory_bytes`;
    `speedup` with `speedup_low` (smallest lower quartile) and `speedup_high` (largest upper one);
    `ideal` and `bound`, the speed-ups that the MACs of the whole model and of the prunable part
    would give; `prunable_share` of the dense model's MACs; `style`, `order`.

    Args:
        frame: What `measured_runs` gives, not empty; so for the other functions here.

    Raises:
        ReportError: As `with_variants`.
    """
    runs = with_variants(frame)
    entries = [
        {**entry, "run_id": run}
        for run, text in zip(runs["run_id"], runs["costs.measured"], strict=True)
        for entry in json.loads(text)
    ]
    rows = pd.json_normalize(entries).merge(runs, on="run_id", suffixes=("", "_of_run"))
    rows = rows.assign(**{name: rows[column] for name, column in _NUMBERS.items()})
    macs, prunable = rows["macs_per_token_dense"], rows["prunable_macs_per_token.dense"]
    rows = rows.assign(
        # Times of two machines are never put together.
        device=rows["processor"] + list(map(_threads, rows["device"], rows["threads"])),
        batch=rows["batch_size"],
        tokens=rows["sequence_length"],
        ideal=macs / rows["macs_per_token_pruned"],
        bound=prunable / rows["prunable_macs_per_token.pruned"],
        prunable_share=prunable / macs,
    )
    how: dict[str, Any] = dict.fromkeys(_OF_THE_FIRST, "first")
    how |= dict.fromkeys((*_NUMBERS, "ideal", "bound", "prunable_share"), statistics.fmean)
    how |= {"speedup_low": "min", "speedup_high": "max"}
    points = rows.groupby(_POINT, sort=False).agg(
        n=("run_id", "size"),
        run_ids=("run_id", lambda ids: tuple(sorted(ids))),
        **{name: (name, function) for name, function in how.items()},
    )
    return points.reset_index().sort_values(
        ["model", "dataset", "order", *_POINT[3:]], kind="stable", ignore_index=True
    )


def _threads(device: str, threads: int) -> str:
    if device != "cpu":
        return ""
    return f", {threads} thread{'s' if threads > 1 else ''}"


def cost_table(frame: pd.DataFrame) -> Table:
    """One row per point of `cost_points`."""
    points = cost_points(frame)
    counts = points[["warmup", "repeats"]].drop_duplicates().sort_values(["warmup", "repeats"])
    notes = [
        f"each model: {warmup} passes to warm up, then {repeats} timed"
        for warmup, repeats in counts.itertuples(index=False)
    ]
    return Table(
        "table_cost",
        ", measured cost",
        pd.DataFrame([_cells(point) for _, point in points.iterrows()]),
        [*_NOTES, *notes],
        points.drop(columns=["style", "order", "run_ids"]),
        points[_POINT].assign(run_ids=points["run_ids"].map(" ".join)),
    )


def _cells(point: Any) -> dict[str, str]:
    both = {
        words: " / ".join(f"{scale * point[f'{name}_{m}']:.{decimals}f}" for m in _MODELS)
        for name, (_, words, scale, decimals) in _BOTH.items()
    }
    time_removed = 100 * (1 - 1 / point["speedup"])
    macs_removed = 100 * (1 - 1 / point["ideal"])
    low, high = point["speedup_low"], point["speedup_high"]
    return {
        **{key: str(point[key]) for key in ("model", "dataset", "variant", "device")},
        "ratio": f"{point['ratio']:g}",
        "batch": str(point["batch"]),
        "tokens": str(point["tokens"]),
        **both,
        "speed-up": f"{point['speedup']:.2f} ({low:.2f} to {high:.2f})",
        "ideal": f"{point['ideal']:.2f}",
        "bound": f"{point['bound']:.2f}",
        "time / MACs removed (%)": f"{time_removed:.0f} / {macs_removed:.0f}",
        "runs": str(point["n"]),
    }
