"""The table that papers print: a column per task, a row per method, grouped by MACs kept."""

from __future__ import annotations

import pandas as pd

from stat_repro.reporting.figure_data import joined_ids
from stat_repro.reporting.points import aggregate
from stat_repro.reporting.styles import in_words, quantity_style
from stat_repro.reporting.tables import MISSING, Table

GROUP = "MACs kept (%)"
_PUBLISHED = "bert_base"  # the model of the published tables of pruning methods
_KEYS = ["model", "dataset", "variant", "ratio"]


def task_points(frame: pd.DataFrame) -> pd.DataFrame:
    """The task's metric of every point (see `aggregate`) of models with several data sets."""
    points = aggregate(frame)
    points = points[points["quantity"] == points["headline"]]
    return points[points.groupby("model")["dataset"].transform("nunique") > 1]


def task_table(points: pd.DataFrame) -> Table:
    """All times 100: the dense models, then from the largest share of MACs down.

    Args:
        points: What `task_points` gives, not empty.
    """
    rows = []
    for model, of_model in points.groupby("model", sort=False):
        name = in_words(str(model))
        dense = of_model.drop_duplicates("dataset").assign(mean=lambda p: p["dense"])
        dense = dense.assign(std=dense["dense_std"], ratio=0.0, variant="dense", order=None)
        rows += _group(name, dense)
        for _, at_ratio in of_model.groupby("ratio", sort=True):
            rows += _group(name, at_ratio.sort_values("order", kind="stable"))
    return Table(
        "table_tasks",
        ", all tasks",
        pd.DataFrame(rows).fillna(MISSING),
        _notes(points),
        points[[*_KEYS, "quantity", "n", "mean", "std", "dense", "dense_std", "mac_kept"]],
        _sources(points),
        group=GROUP,
    )


def _group(model: str, points: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of one share of MACs."""
    rows = []
    for variant, shown in points.groupby("variant", sort=False):
        share = _share(shown.iloc[0]["ratio"])
        row = {"model": model, GROUP: share, "method": str(variant)}
        for _, point in shown.iterrows():
            metric = quantity_style(point["quantity"]).label.removesuffix(" (%)")
            row[f"{in_words(point['dataset'])} ({metric})"] = _cell(point["mean"], point["std"])
        rows.append(row)
    return rows


def _notes(points: pd.DataFrame) -> list[str]:
    """What the cells mean, and whether published numbers can stand beside them."""
    models = ", ".join(in_words(str(name)) for name in points["model"].unique())
    notes = [
        "all values times 100; mean ± sample standard deviation over the calibration seeds, where "
        f"there are several (here {points['n'].min()} to {points['n'].max()}); nothing is trained "
        "after pruning",
    ]
    if _PUBLISHED not in set(points["model"]):
        notes.append(
            f"published tables of pruning methods are of BERT-base; {models} is another model with "
            "other dense scores, so that none of their rows stands here"
        )
    return notes


def _sources(points: pd.DataFrame) -> pd.DataFrame:
    pruned = points.assign(method=points["variant"])
    dense = points.assign(method="dense", ratio=0.0, run_ids=points["dense_ids"])
    both = pd.concat([dense.drop_duplicates(["model", "dataset"]), pruned])
    return pd.DataFrame(
        {
            "model": both["model"].map(in_words),
            GROUP: [_share(ratio) for ratio in both["ratio"]],
            **{name: both[name] for name in ("method", "dataset")},
            "run_ids": both["run_ids"].map(joined_ids),
        }
    )


def _share(ratio: float) -> str:
    return f"{100 * (1 - ratio):g}"


def _cell(mean: float, std: float) -> str:
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std > 0 else "")
