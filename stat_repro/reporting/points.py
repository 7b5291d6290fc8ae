"""From one row per run to one row per point: variants told apart, seeds put together.

Runs of a study are one variant exactly when everything but ratio and seed that can change the
result is equal. What differs becomes the variant's label, so that nothing is averaged unseen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from stat_repro.config import PruningConfig, later_defaults, neutral_keys
from stat_repro.reporting.styles import (
    CORRECTION_LABELS,
    HEADLINE,
    METHOD_LABELS,
    VariantStyle,
    quantity_order,
    quantity_style,
    variant_style,
)

# Settings that a table shows in a column of their own.
_OWN_COLUMN = ("ratio", "seed", "model.name", "dataset.name", "pruning.method")
_PROTOCOL = "metrics.protocol"
# Settings whose value says what they are about.
_VALUE_ONLY = ("pruning.recipe", "pruning.allocation")
# `authors_compat` and whole blocks admit one value of these, see `PruningConfig`.
_SET = ("pruning.allocation", "pruning.correction", "pruning.ridge", "pruning.min_units")
_DEFAULTS = {
    **{f"pruning.{key}": value for key, value in asdict(PruningConfig()).items()},
    # At their defaults these look as in the studies that did not have them yet.
    **later_defaults(),
}
_GROUP = ["model", "dataset", "variant", "ratio"]
_LISTED_IDS = 400
_BRIEF_CHARACTERS = 12


class ReportError(ValueError):
    """Records that cannot be put into one table or figure."""


def neutral_columns() -> frozenset[str]:
    """Columns of settings that make no variant: as the run id sees it, or shown on their own."""
    return frozenset(f"config.{key}" for key in (*neutral_keys(), *_OWN_COLUMN))


def _completed(frame: pd.DataFrame) -> pd.DataFrame:
    """Settings that a record is too old to have, at the value that it was run with."""
    added = {}
    for key, value in later_defaults().items():
        column = f"config.{key}"
        shown = json.dumps(value) if isinstance(value, list) else value
        if column in frame and shown is not None:
            added[column] = frame[column].where(frame[column].notna(), shown)
    return frame.assign(**added)


def with_variants(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy with the columns `variant` (label), `extras` (tuple) and `order` (sort key).

    Args:
        frame: Successful runs, as `stat_repro.results.to_frame` gives them.

    Raises:
        ReportError: No rows, or rows of failed runs.
    """
    if frame.empty:
        raise ReportError("expected at least one record; got none")
    failed = frame.loc[frame["status"] != "ok", "run_id"].tolist()
    if failed:
        raise ReportError(f"expected successful runs; got failed ones: {', '.join(failed)}")
    # One after the other: the rows of a filtered frame may share an index.
    frame = _completed(frame.reset_index(drop=True))
    found: dict[Any, tuple[str, tuple[str, ...], tuple[int, str]]] = {}
    for _, group in frame.groupby(["model", "dataset"], sort=False):
        columns = _differing(group)
        seen: dict[str, tuple[str, ...]] = {}
        for index, row in group.iterrows():
            values = {name: _shown(row[column]) for name, column in columns.items()}
            label, extras = _label(row, values)
            if seen.setdefault(label, tuple(values.values())) != tuple(values.values()):
                raise ReportError(f"two different variants have the label {label!r}: {values}")
            found[index] = (label, extras, (style_of(row, extras).order, label))
    ordered = [found[index] for index in frame.index]
    names = ("variant", "extras", "order")
    added = {
        name: pd.Series([row[i] for row in ordered], dtype=object) for i, name in enumerate(names)
    }
    return frame.assign(**added)


def aggregate(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per model, data set, variant, ratio and quantity, over the seeds.

    Quantities are the metrics of the pruned model, the fidelity, the two kept fractions and
    `compress_s`, in the order of the tables and in the record's units. Columns: `model, dataset,
    task, variant, ratio, quantity, n` (runs that measured it), `mean, std` (ddof 1), `low, high`
    (extremes), `not_finite` (runs whose value is infinite or undefined), `dense` and `dense_std`
    (over the variant's runs), `mac_kept` (mean), `headline`, and what the style needs.

    Raises:
        ReportError: As `with_variants`, and values that cannot be what their name says.
    """
    frame = with_variants(frame)
    sources = _sources(frame)
    rows = []
    for _, runs in frame.groupby(["model", "dataset", "variant"], sort=False):
        dense = {q: _statistics(_values(runs, column)) for q, (_, column) in sources.items()}
        for _, point in runs.groupby("ratio", sort=True):
            first = point.iloc[0]
            for quantity, (column, _) in sources.items():
                values = _values(point, column)
                if not values:
                    continue
                _check_range(quantity, values)
                rows.append(
                    {
                        **{key: first[key] for key in (*_GROUP, "method", "extras", "order")},
                        "task": first["config.dataset.task"],
                        "headline": headline(first),
                        "allocation": first.get("config.pruning.allocation"),
                        "correction": first.get("config.pruning.correction"),
                        "authors_compat": bool(first.get("config.pruning.authors_compat", False)),
                        "quantity": quantity,
                        **_statistics(values),
                        "dense": dense[quantity]["mean"],
                        "dense_std": dense[quantity]["std"],
                        "mac_kept": float(point["mac_kept_fraction"].mean()),
                    }
                )
    rows.sort(key=lambda r: (r["model"], r["dataset"], r["order"], r["ratio"]))
    return pd.DataFrame(rows)


def headline(row: Any) -> str:
    """The metric that stands for a row: the benchmark's first one, or the usual one of its task."""
    protocol = row[_PROTOCOL]
    metrics = json.loads(protocol).get("benchmark_metrics") if isinstance(protocol, str) else None
    return str(metrics[0]) if metrics else HEADLINE[row["config.dataset.task"]]


def record_lines(frame: pd.DataFrame) -> list[str]:
    """Which records an output was made from: count and hash of the ids, then the ids."""
    ids = sorted(frame["run_id"])
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    lines = [f"{len(ids)} records, sha256 of their sorted ids {digest}"]
    if len(ids) > _LISTED_IDS:
        return [*lines, f"ids: {ids[0]} to {ids[-1]}"]
    return [*lines, *(f"record {run_id}" for run_id in ids)]


def protocol_lines(frame: pd.DataFrame) -> list[str]:
    """The definition of the metrics, once for every model and data set it holds for."""
    where: dict[str, list[str]] = {}
    for _, row in frame.sort_values(["dataset", "model"], kind="stable").iterrows():
        name = f"{row['dataset']} ({row['model']})"
        names = where.setdefault(row[_PROTOCOL], [])
        if name not in names:
            names.append(name)
    return [f"{', '.join(names)}: {protocol_text(text)}" for text, names in where.items()]


def protocol_text(protocol: str, *, brief: bool = False) -> str:
    """A stored protocol as `key=value` pairs; `brief` leaves out sentences and the task."""
    items = json.loads(protocol).items()
    if brief:
        items = {k: v for k, v in items if k != "task" and _is_brief(v)}.items()
    # Text is quoted as in JSON, so that a line end used as a joint can be seen.
    return ", ".join(
        f"{key}={v if brief and str(v).strip() else json.dumps(v)}" for key, v in items
    )


def _is_brief(value: Any) -> bool:
    return len(str(value)) <= _BRIEF_CHARACTERS and str(value).isprintable()


def _differing(group: pd.DataFrame) -> dict[str, str]:
    """Columns of settings that differ inside a group, by the name to show, most telling first."""
    neutral = neutral_columns()
    columns = [c for c in group.columns if c.startswith("config.") and c not in neutral]
    if (group["config.dataset.task"] == "language_modeling").all():
        # A language model is evaluated as it is: run ids do not depend on this either.
        columns = [c for c in columns if not c.startswith("config.finetune.")]
    columns.append(_PROTOCOL)
    choosing = group[group["method"] != "shortgpt"]
    rows = {f"config.{name}": choosing for name in _SET}
    found = [c for c in columns if len({_shown(value) for value in rows.get(c, group)[c]}) > 1]
    named = {c.removeprefix("config."): c for c in found}
    # Another example count is another protocol anyway; show the cause and not the consequence.
    if len(named) > 1 and _explained(group, found):
        named.pop(_PROTOCOL, None)
    return dict(sorted(named.items(), key=lambda item: not item[0].startswith("pruning.")))


def _explained(group: pd.DataFrame, found: list[str]) -> bool:
    """Whether the other differing settings alone already tell the protocols apart."""
    others = [c for c in found if c != _PROTOCOL]
    protocols: dict[tuple[str, ...], set[str]] = {}
    for _, row in group.iterrows():
        protocols.setdefault(tuple(_shown(row[c]) for c in others), set()).add(row[_PROTOCOL])
    return all(len(texts) == 1 for texts in protocols.values())


def _label(row: Any, values: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    """Label of a run's variant, and its settings beyond the style's key that are not default."""
    compat = values.get("pruning.authors_compat") == "true"
    parts, extras = [METHOD_LABELS.get(row["method"], row["method"])], []
    for name, value in values.items():
        short = name.removeprefix("pruning.")
        if name in _SET and (compat or row["method"] == "shortgpt"):
            continue
        if name == "pruning.authors_compat":
            parts += ["authors' script"] if compat else []
        elif name == "pruning.correction":
            parts.append(CORRECTION_LABELS.get(value, value))
        elif name in _VALUE_ONLY:
            parts.append(value)
        elif name == _PROTOCOL:
            digest = hashlib.sha256(value.encode()).hexdigest()[:6]
            parts.append(f"protocol {digest}")
            extras.append(f"protocol={digest}")
        else:
            parts.append(f"{short}={value}")
            if name not in _DEFAULTS or value != _shown(_DEFAULTS[name]):
                extras.append(f"{short}={value}")
    return ", ".join(parts), tuple(extras)


def _shown(value: Any) -> str:
    """Text of a setting; null and absent are the same, 1.0 is 1, a list is JSON as in a frame."""
    if isinstance(value, list):
        return json.dumps(value)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "none"
    if isinstance(value, str):
        return value
    if str(value) in ("True", "False"):
        return str(value).lower()
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def style_of(row: Any, extras: Sequence[str]) -> VariantStyle:
    """Look of the variant of a run that has these settings beyond the defaults."""
    return variant_style(
        row["method"],
        str(row.get("config.pruning.allocation")),
        str(row.get("config.pruning.correction")),
        bool(row.get("config.pruning.authors_compat", False)),
        extras,
    )


def _sources(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Columns of every quantity, pruned and dense, in the order of the tables."""
    found = {}
    for column in frame.columns:
        group, _, name = column.removeprefix("metrics.").partition(".")
        if column.startswith("metrics.") and group in ("pruned", "fidelity"):
            found[name] = (column, f"metrics.dense.{name}")
    found |= {key: (key, "") for key in ("mac_kept_fraction", "param_kept_fraction")}
    found["compress_s"] = ("timings.compress_s", "")
    return {name: found[name] for name in sorted(found, key=quantity_order)}


def _values(rows: pd.DataFrame, column: str) -> list[float]:
    """Measured values; a nan counts as one only where the record holds a nan."""
    if column not in rows:
        return []
    pairs = zip(rows[column], rows["undefined"], strict=True)
    return [float(v) for v, names in pairs if not pd.isna(v) or column in names.split(",")]


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    finite = [v for v in values if math.isfinite(v)]
    everywhere = len(finite) == len(values) > 0
    # A mean over the finite seeds alone would hide the ones that broke down.
    broken = math.nan if any(math.isnan(v) for v in values) or not values else math.inf
    series = pd.Series(finite, dtype=float)
    return {
        "n": len(values),
        "not_finite": len(values) - len(finite),
        "mean": float(series.mean()) if everywhere else broken,
        "std": float(series.std(ddof=1)) if everywhere and len(finite) > 1 else math.nan,
        "low": float(series.min()) if everywhere else broken,
        "high": float(series.max()) if everywhere else broken,
    }


def _check_range(quantity: str, values: Sequence[float]) -> None:
    if quantity_style(quantity).fraction and any(abs(v) > 1 for v in values):
        raise ReportError(f"{quantity}: expected fractions from -1 to 1, not percent; got {values}")
