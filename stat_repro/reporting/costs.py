"""Measured cost as tables: real speed-up beside the MACs that were removed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from stat_repro.reporting.figure_data import joined_ids
from stat_repro.reporting.tables import noted_csv
from stat_repro.reporting.variants import with_variants

# One point: the same pruned model under the same conditions.
_POINT = ["model", "dataset", "variant", "ratio", "device", "batch", "tokens"]
# The same in all runs of a point.
_OF_THE_FIRST = ["warmup", "repeats", "style", "order"]
_BOTH = ("dense", "pruned")
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
    rows = [row for _, run in with_variants(frame).iterrows() for row in _measured(run)]
    points = []
    for key, group in pd.DataFrame(rows).groupby(_POINT, sort=False):
        first = group.iloc[0]
        numbers = group.drop(columns=[*_POINT, *_OF_THE_FIRST, "run_id"])
        points.append(
            dict(zip(_POINT, key, strict=True))
            | {"n": len(group), "run_ids": tuple(sorted(group["run_id"]))}
            | {name: first[name] for name in _OF_THE_FIRST}
            | {name: statistics.fmean(column) for name, column in numbers.items()}
            | {"speedup_low": numbers["speedup_low"].min()}
            | {"speedup_high": numbers["speedup_high"].max()}
        )
    points.sort(key=lambda p: (p["model"], p["dataset"], p["order"], *(p[k] for k in _POINT[3:])))
    return pd.DataFrame(points)


def cost_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Text cells: one row per point of `cost_points`."""
    return pd.DataFrame([_cells(point) for _, point in cost_points(frame).iterrows()])


def cost_notes(frame: pd.DataFrame) -> list[str]:
    """What the columns of `cost_table` mean, and how often was timed."""
    points = cost_points(frame)
    counts = points[["warmup", "repeats"]].drop_duplicates().sort_values(["warmup", "repeats"])
    return [
        *_NOTES,
        *(
            f"each model: {warmup} passes to warm up, then {repeats} timed"
            for warmup, repeats in counts.itertuples(index=False)
        ),
    ]


def cost_sources(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs that every row of `cost_table` was made from."""
    points = cost_points(frame)
    return points[_POINT].assign(run_ids=points["run_ids"].map(joined_ids))


def cost_csv(frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """The numbers behind `cost_table`; the notes are lines that start with `#`."""
    return noted_csv(cost_points(frame).drop(columns=["style", "order", "run_ids"]), notes)


def _measured(run: Any) -> list[dict[str, Any]]:
    """The entries of one run, flat."""
    rows = []
    for entry in json.loads(run["costs.measured"]):
        macs, prunable = entry["macs_per_token"], entry["prunable_macs_per_token"]
        threads = entry["threads"]
        words = (
            f", {threads} thread{'s' if threads > 1 else ''}" if entry["device"] == "cpu" else ""
        )
        both: dict[str, float] = {}
        for which in _BOTH:
            both[f"params_{which}"] = run[f"costs.params.{which}"]
            both[f"size_bytes_{which}"] = run[f"costs.size_bytes.{which}"]
            both[f"macs_per_token_{which}"] = macs[which]
            both[f"latency_s_{which}"] = entry["latency_s"][which]["median"]
            both[f"tokens_per_s_{which}"] = entry["tokens_per_s"][which]
            both[f"peak_memory_bytes_{which}"] = entry["peak_memory_bytes"][which]
        rows.append(
            {
                **{key: run[key] for key in (*_POINT[:4], "order", "style", "run_id")},
                # Times of two machines are never put together.
                "device": entry["processor"] + words,
                "batch": entry["batch_size"],
                "tokens": entry["sequence_length"],
                "warmup": entry["warmup"],
                "repeats": entry["repeats"],
                **both,
                "speedup": entry["speedup"]["median"],
                "speedup_low": entry["speedup"]["q25"],
                "speedup_high": entry["speedup"]["q75"],
                "ideal": macs["dense"] / macs["pruned"],
                "bound": prunable["dense"] / prunable["pruned"],
                "prunable_share": prunable["dense"] / macs["dense"],
            }
        )
    return rows


def _cells(point: Any) -> dict[str, str]:
    def both(name: str, scale: float, decimals: int) -> str:
        return " / ".join(f"{scale * point[f'{name}_{which}']:.{decimals}f}" for which in _BOTH)

    time_removed = 100 * (1 - 1 / point["speedup"])
    macs_removed = 100 * (1 - 1 / point["ideal"])
    low, high = point["speedup_low"], point["speedup_high"]
    return {
        **{key: str(point[key]) for key in ("model", "dataset", "variant", "device")},
        "ratio": f"{point['ratio']:g}",
        "batch": str(point["batch"]),
        "tokens": str(point["tokens"]),
        "params (M)": both("params", 1e-6, 2),
        "size (MB)": both("size_bytes", 1e-6, 1),
        "MMACs per token": both("macs_per_token", 1e-6, 2),
        "latency (ms)": both("latency_s", 1e3, 2),
        "tokens/s": both("tokens_per_s", 1, 0),
        "peak memory (MB)": both("peak_memory_bytes", 1e-6, 1),
        "speed-up": f"{point['speedup']:.2f} ({low:.2f} to {high:.2f})",
        "ideal": f"{point['ideal']:.2f}",
        "bound": f"{point['bound']:.2f}",
        "time / MACs removed (%)": f"{time_removed:.0f} / {macs_removed:.0f}",
        "runs": str(point["n"]),
    }
