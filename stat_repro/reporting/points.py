"""From one row per run to one row per point: the seeds of a variant put together."""

import hashlib
import json
import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from stat_repro.reporting.styles import HEADLINE, quantity_order, quantity_style
from stat_repro.reporting.variants import ReportError, budget_words, with_variants

_GROUP = ["model", "dataset", "variant", "ratio"]
_LISTED_IDS = 400
# Rows of a frame of records.
Runs = Sequence[Mapping[Hashable, Any]]


def aggregate(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per model, data set, variant, ratio and quantity, over the seeds.

    What this function gave is returned as it is, so that those who have it can hand it on.

    Quantities are the metrics of the pruned model, the fidelity, the two kept fractions and
    `compress_s`, in the order of the tables and in the record's units. Columns: `model, dataset,
    task, variant, ratio, quantity, n` (runs that measured it), `mean, std` (ddof 1), `low, high`
    (extremes), `not_finite` (runs whose value is infinite or undefined), `run_ids` (of these runs),
    `dense`, `dense_std` and `dense_ids` (over the variant's runs), `mac_kept` (mean), `headline`,
    `budget` (in words), `recovery` (its method), `style`, `order`.

    Raises:
        ReportError: As `with_variants`, two runs of one seed, and values that cannot be what their
            name says.
    """
    if "quantity" in frame:
        return frame
    frame = with_variants(frame)
    sources = _sources(frame)
    rows = []
    for runs in grouped(frame.to_dict("records"), _GROUP[:3]):
        dense = {q: measured_values(runs, column) for q, (_, column) in sources.items()}
        of_dense = {q: _statistics(list(values.values())) for q, values in dense.items()}
        for point in grouped(runs, _GROUP):
            _check_seeds(point)
            first = point[0]
            for quantity, (column, _) in sources.items():
                measured = measured_values(point, column)
                if not measured:
                    continue
                values = list(measured.values())
                _check_range(quantity, values)
                rows.append(
                    {
                        **{key: first[key] for key in (*_GROUP, "order", "style")},
                        "task": first["config.dataset.task"],
                        "headline": headline(first),
                        "budget": budget_words(first),
                        "recovery": first["config.recovery.method"],
                        "quantity": quantity,
                        **_statistics(values),
                        "run_ids": tuple(sorted(measured)),
                        "dense": of_dense[quantity]["mean"],
                        "dense_std": of_dense[quantity]["std"],
                        "dense_ids": tuple(sorted(dense[quantity])),
                        "mac_kept": statistics.fmean(run["mac_kept_fraction"] for run in point),
                    }
                )
    rows.sort(key=lambda r: (r["model"], r["dataset"], r["order"], r["ratio"]))
    return pd.DataFrame(rows)


def grouped(runs: Runs, keys: Sequence[str]) -> Iterable[Runs]:
    """The runs that have these values in common, in the order of the first of each."""
    groups: dict[tuple[Any, ...], list[Mapping[Hashable, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return groups.values()


def _check_seeds(runs: Runs) -> None:
    """Refuse to put runs together that differ in more than the seed, which nothing shows."""
    for same in grouped(runs, ["seed"]):
        if len(same) > 1:
            raise ReportError(
                f"seed: expected one run of {same[0]['variant']} at ratio {same[0]['ratio']:g} "
                f"with seed {same[0]['seed']}; got {', '.join(run['run_id'] for run in same)}, "
                "which differ in nothing that records show; choose the records of one of them"
            )


def headline(row: Any) -> str:
    """The metric that stands for a row: the benchmark's first one, or the usual one of its task."""
    protocol = row["metrics.protocol"]
    metrics = json.loads(protocol).get("benchmark_metrics") if isinstance(protocol, str) else None
    return str(metrics[0]) if metrics else HEADLINE[row["config.dataset.task"]]


def ratio_lines(frame: pd.DataFrame) -> list[str]:
    """What the ratio is a share of, where it is not of the MACs alone."""
    if not (frame["config.pruning.budget"] == "latency").any():
        return []
    return [
        "ratio: the share of the prunable MACs that is removed; where budget=latency, of the time "
        "that heads and neurons take on the device"
    ]


def device_lines(frame: pd.DataFrame) -> list[str]:
    """A warning per model and set of devices where its seconds are of several."""
    lines: dict[tuple[Any, str], list[str]] = {}
    for (model, dataset), runs in frame.groupby(["model", "dataset"]):
        names = sorted(set(runs["provenance.device"].fillna("unknown")))
        if len(names) > 1:
            lines.setdefault((model, "; ".join(names)), []).append(str(dataset))
    return [
        f"seconds of {', '.join(datasets)} ({model}) are of several devices, which do not compare: "
        f"{names}"
        for (model, names), datasets in lines.items()
    ]


def record_lines(frame: pd.DataFrame) -> list[str]:
    """Which records an output was made from: count and hash of the ids, then the ids."""
    ids = sorted(frame["run_id"])
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    lines = [f"{len(ids)} records, sha256 of their sorted ids {digest}"]
    if len(ids) > _LISTED_IDS:
        return [*lines, f"ids: {ids[0]} to {ids[-1]}"]
    return [*lines, *(f"record {run_id}" for run_id in ids)]


def protocol_lines(frame: pd.DataFrame) -> list[str]:
    """The definition of the metrics: what all of them share, then the rest of each that differs."""
    frame = frame.sort_values(["dataset", "model"], kind="stable")
    names = frame["dataset"] + " (" + frame["model"] + ")"
    where = names.groupby(frame["metrics.protocol"], sort=False).unique()
    # As texts, `key=value`, so that joints can be seen; equal where key and value are.
    pairs = [
        [f"{key}={json.dumps(value)}" for key, value in json.loads(str(text)).items()]
        for text in where.index
    ]
    shared = [pair for pair in pairs[0] if all(pair in one for one in pairs)] if pairs[1:] else []
    lines = [("all", shared)] + [
        (", ".join(names), [pair for pair in one if pair not in shared])
        for names, one in zip(where, pairs, strict=True)
    ]
    return [f"{names}: {', '.join(part)}" for names, part in lines if part]


def _sources(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Columns of every quantity, pruned and dense, in the order of the tables."""
    sources = {}
    for column in frame.columns:
        group, _, name = column.removeprefix("metrics.").partition(".")
        if column.startswith("metrics.") and group in ("pruned", "fidelity"):
            sources[name] = (column, f"metrics.dense.{name}")
    sources |= {key: (key, "") for key in ("mac_kept_fraction", "param_kept_fraction")}
    sources["compress_s"] = ("timings.compress_s", "")
    return {name: sources[name] for name in sorted(sources, key=quantity_order)}


def measured_values(runs: Runs, column: str) -> dict[str, float]:
    """Measured values by run; a nan counts as one only where the record holds a nan."""
    return {
        run["run_id"]: float(run[column])
        for run in runs
        if column in run and (not pd.isna(run[column]) or column in run["undefined"].split(","))
    }


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    """Over the seeds, from exact sums: the spread of equal values is 0, on every machine."""
    finite = [v for v in values if math.isfinite(v)]
    everywhere = len(finite) == len(values) > 0
    # A mean over the finite seeds alone would hide the ones that broke down.
    broken = math.nan if any(math.isnan(v) for v in values) or not values else math.inf
    return {
        "n": len(values),
        "not_finite": len(values) - len(finite),
        "mean": statistics.fmean(values) if everywhere else broken,
        "std": statistics.stdev(values) if everywhere and len(values) > 1 else math.nan,
        "low": min(values) if everywhere else broken,
        "high": max(values) if everywhere else broken,
    }


def _check_range(quantity: str, values: Sequence[float]) -> None:
    if quantity_style(quantity).fraction and any(abs(v) > 1 for v in values):
        raise ReportError(f"{quantity}: expected fractions from -1 to 1, not percent; got {values}")
