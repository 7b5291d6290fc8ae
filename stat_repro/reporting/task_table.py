"""The table that papers print: a column per task, a row per method, grouped by MACs kept."""

from __future__ import annotations

import pandas as pd

from stat_repro.reporting.figure_data import joined_ids
from stat_repro.reporting.points import aggregate
from stat_repro.reporting.styles import in_words, quantity_style
from stat_repro.reporting.tables import MISSING, Table

GROUP = "MACs kept (%)"
_PUBLISHED = "bert_base"  # the model of the published tables of pruning methods
_ROW = ["model", GROUP, "method"]
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
    dense = points.drop_duplicates(["model", "dataset"]).assign(
        ratio=0.0,
        variant="dense",
        order=lambda p: pd.Series([(-1, "")] * len(p), p.index, object),  # before all others
        mean=lambda p: p["dense"],
        std=lambda p: p["dense_std"],
        run_ids=lambda p: p["dense_ids"],
    )
    both = pd.concat([dense, points], ignore_index=True)
    both = both.sort_values(["model", "ratio", "order"], kind="stable").assign(
        **{"model": lambda p: p["model"].map(in_words), "method": lambda p: p["variant"]},
        **{GROUP: lambda p: [f"{100 * (1 - ratio):g}" for ratio in p["ratio"]]},
        column=lambda p: list(map(_column, p["dataset"], p["quantity"])),
        cell=lambda p: list(map(_cell, p["mean"], p["std"])),
    )
    cells = both.set_index([*_ROW, "column"])["cell"].unstack(sort=False).reset_index()
    sources = both[[*_ROW, "dataset"]].assign(run_ids=both["run_ids"].map(joined_ids)).sort_index()
    return Table(
        "table_tasks",
        ", all tasks",
        cells.fillna(MISSING),
        _notes(points),
        points[[*_KEYS, "quantity", "n", "mean", "std", "dense", "dense_std", "mac_kept"]],
        sources,
        group=GROUP,
    )


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


def _column(dataset: str, quantity: str) -> str:
    metric = quantity_style(quantity).label.removesuffix(" (%)")
    return f"{in_words(dataset)} ({metric})"


def _cell(mean: float, std: float) -> str:
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std > 0 else "")
