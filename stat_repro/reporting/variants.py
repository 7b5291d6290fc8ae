"""Variants of a study: which runs differ in nothing but ratio and seed, and what they are called.

Runs of a study are one variant exactly when everything but ratio and seed that can change the
result is equal: settings, protocol, dense model and data. What differs becomes the variant's label,
so that nothing is averaged unseen.
"""

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from pathlib import PurePath
from typing import Any

import pandas as pd

from stat_repro.config import METHODS, PruningConfig, defaults_noted
from stat_repro.config.methods import Method
from stat_repro.reporting.styles import CORRECTION_LABELS, in_line, variant_style
from stat_repro.results import RunRecord, to_frame

# Settings that have a column of a table to themselves.
_COLUMNS = ("ratio", "seed", "model.name", "dataset.name", "pruning.method")
# What else makes a variant, beginning with its words in a label, and the settings that can be the
# cause: where these differ alike, they are shown and not the consequence.
_FURTHER: dict[str, tuple[str, tuple[str, ...]]] = {
    "metrics.protocol": ("protocol", ("",)),
    "provenance.model_hash": ("dense model", ("model.", "dataset.", "finetune.")),
    "provenance.data_hashes": ("data", ("dataset.", "calibration.", "evaluation.")),
}
_DIGEST = re.compile("[0-9a-f]{64}")
# Behind the name of a file, but in older records: shown only where files of one name differ.
CONTENT = re.compile("@[0-9a-f]{10}$")
_RECOVERY = "recovery.method"
# Settings that a style goes by.
_FORM = ("method", "allocation", "correction", "authors_compat")
# Settings whose value says what they are about.
_VALUE_ONLY = ("pruning.recipe", "pruning.allocation", _RECOVERY)
# `authors_compat` and methods that remove whole layers take one value of these only.
_SET = ("pruning.allocation", "pruning.correction", "pruning.ridge", "pruning.min_units")
_DEFAULTS = {
    **{f"pruning.{key}": value for key, value in asdict(PruningConfig()).items()},
    # At their defaults these look as in the studies that did not have them yet.
    **defaults_noted("later"),
}
# Options that one method alone has; those of STAT go with its sizes, which others may take.
_OF_ONE_METHOD = {
    f"pruning.{one.name}"
    for one in fields(PruningConfig)
    if one.metadata.get("of", "stat") != "stat"
}
_WHOLE_LAYERS = {method.name for method in METHODS.values() if method.whole_layers}


class ReportError(ValueError):
    """Records that cannot be put into one table or figure."""


def neutral_columns() -> frozenset[str]:
    """Columns of settings that make no variant: as the run id sees it, or shown on their own."""
    return frozenset(f"config.{key}" for key in (*defaults_noted("neutral"), *_COLUMNS))


def budget_words(run: Any) -> str:
    """What the ratio of a run (a row of a frame) is a share of."""
    return "time" if run["config.pruning.budget"] == "latency" else "MACs"


def study_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The runs of a study, as `to_frame` gives them, with a data set for each evaluated file.

    Scores on different files do not compare, so these share no line, mean or dense score. The
    column `record` has the records themselves.
    """
    frame = to_frame(records).assign(record=pd.Series(records, dtype=object))
    configs = [record.typed_config for record in records]
    files = [getattr(config.dataset, config.evaluation.split) or "" for config in configs]
    names = pd.Series([PurePath(CONTENT.sub("", file)).stem for file in files], dtype=object)
    several = names.groupby([frame["model"], frame["dataset"]]).transform("nunique") > 1
    frame["dataset"] = frame["dataset"].mask(several, frame["dataset"] + " (" + names + ")")
    return frame


def with_variants(frame: pd.DataFrame, alike: Collection[str] = ()) -> pd.DataFrame:
    """A copy with the columns `variant` (label), `extras` (tuple), `order` (sort key) and `style`.

    Args:
        frame: Successful runs, as `study_frame` gives them.
        alike: Columns that make no variant here, whatever they hold.

    Raises:
        ReportError: No rows, rows of failed runs, or ratios that tables could not tell apart.
    """
    if frame.empty:
        raise ReportError("expected at least one record; got none")
    failed = frame.loc[frame["status"] != "ok", "run_id"].tolist()
    if failed:
        raise ReportError(f"expected successful runs; got failed ones: {', '.join(failed)}")
    for _, ratios in frame["ratio"].groupby(frame["ratio"].map("{:g}".format)):
        if ratios.nunique() > 1:
            one, other = ratios.unique()[:2]
            raise ReportError(
                f"ratio: expected values that tables tell apart; got {one} and "
                f"{other}; choose the records of one of them"
            )
    # One after the other: the rows of a filtered frame may share an index.
    frame = frame.reset_index(drop=True)
    variants: dict[Any, tuple[Any, ...]] = {}
    for _, group in frame.groupby(["model", "dataset"], sort=False):
        differing = _differing(group, alike)
        settled: dict[str, set[str]] = {}
        if group["method"].nunique() > 1:
            counts = differing.groupby(group["method"]).nunique()
            settled = {str(m): set(counts.columns[counts.loc[m] == 1]) for m in counts.index}
        seen: dict[str, dict[str, str]] = {}
        texts = {str(name): column.tolist() for name, column in differing.items()}
        for place, (index, row) in enumerate(
            zip(group.index, group.to_dict("records"), strict=True)
        ):
            values = {name: column[place] for name, column in texts.items()}
            label, extras = _label(row, values, settled.get(row["method"], set()))
            if seen.setdefault(label, values) != values:
                raise ReportError(f"two different variants have the label {label!r}: {values}")
            method, allocation, correction, compat = (row[f"config.pruning.{k}"] for k in _FORM)
            style = variant_style(method, allocation, correction, compat, extras)
            variants[index] = (label, extras, (style.order, label), style)
    added = ["variant", "extras", "order", "style"]
    return frame.join(pd.DataFrame.from_dict(variants, orient="index", columns=added, dtype=object))


def _differing(group: pd.DataFrame, alike: Collection[str]) -> pd.DataFrame:
    """Texts of the settings that differ inside a group, by the name to show, most telling first."""
    neutral = {*neutral_columns(), *alike}
    columns = [c for c in group.columns if c.startswith("config.") and c not in neutral]
    if (group["config.dataset.task"] == "language_modeling").all():
        # A language model is evaluated as it is: run ids do not depend on this either.
        columns = [c for c in columns if not c.startswith("config.finetune.")]
    columns = [c for c in columns if group[c].nunique(dropna=False) > 1]
    names = {column: column.removeprefix("config.") for column in (*columns, *_FURTHER)}
    texts = group[list(names)].rename(columns=names).map(_shown)
    for name in texts:
        plain = texts[name].str.replace(CONTENT, "", regex=True)
        with_content = texts[name] != plain
        if texts[name][with_content].nunique() == plain[with_content].nunique():
            texts[name] = plain
    choosing = texts[~group["method"].isin(_WHOLE_LAYERS)]
    counts = {n: (choosing if n in _SET else texts)[n].nunique() for n in names.values()}
    texts = texts[[name for name, count in counts.items() if count > 1]]
    settings = [str(name) for name in texts if name not in _FURTHER]
    for name, (_, beginnings) in _FURTHER.items():
        causes = [setting for setting in settings if setting.startswith(beginnings)]
        if name in texts and causes and (texts.groupby(causes)[name].nunique() == 1).all():
            texts = texts.drop(columns=name)
    # What a kind of recovery always has here goes without saying.
    kinds = texts.groupby(group[f"config.{_RECOVERY}"]).nunique().max()
    of_kind = kinds.index.str.startswith("recovery.") & (kinds.index != _RECOVERY)
    texts = texts.drop(columns=kinds[(kinds == 1) & of_kind].index)
    return texts[sorted(texts, key=lambda name: not str(name).startswith("pruning."))]


def _of_paper(method: Method, name: str) -> str | None:
    """How a method has a setting without further options; None for what is no pruning option."""
    if not name.startswith("pruning."):
        return None
    return _shown(method.defaults.get(name.removeprefix("pruning."), _DEFAULTS.get(name)))


def _label(row: Any, values: dict[str, str], settled: set[str]) -> tuple[str, tuple[str, ...]]:
    """Label of a run's variant, and its settings beyond the style's key that are not default.

    Args:
        row: The run.
        values: The settings that differ inside the study.
        settled: Those that all runs of the method share: its name says it all where they are as in
            its paper.
    """
    compat = values.get("pruning.authors_compat") == "true"
    method = METHODS[row["method"]]
    parts, extras = [method.label], []
    for name, value in values.items():
        short = name.removeprefix("pruning.")
        if name in _SET and (compat or method.whole_layers):
            continue
        if (name in settled or name in _OF_ONE_METHOD) and value == _of_paper(method, name):
            continue
        if name == "pruning.authors_compat":
            parts += ["authors' script"] if compat else []
        elif name == "pruning.correction":
            parts.append(CORRECTION_LABELS.get(value, value))
        elif name in _VALUE_ONLY:
            parts.append(value)
        elif name in _FURTHER:
            known = _DIGEST.fullmatch(value) or value == "none"
            digest = value[:8] if known else hashlib.sha256(value.encode()).hexdigest()[:6]
            parts.append(f"{_FURTHER[name][0]} {digest}")
            extras.append(f"{_FURTHER[name][0]}={digest}")
        else:
            parts.append(f"{short}={value}")
            if name not in _DEFAULTS or value != _shown(_DEFAULTS[name]):
                extras.append(f"{short}={value}")
    return ", ".join(parts), tuple(extras)


def _shown(value: Any) -> str:
    """Text of a setting; null and absent are the same, 1.0 is 1, a list is JSON as in a frame."""
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, str):
        return in_line(value)
    if pd.isna(value):
        return "none"
    if str(value) in ("True", "False"):
        return str(value).lower()
    return str(int(value)) if float(value).is_integer() else repr(float(value))
