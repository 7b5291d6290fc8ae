"""The table that papers print: a column per task, a row per method, grouped by MACs kept."""

import re

import pandas as pd

from stat_repro.reporting.points import aggregate
from stat_repro.reporting.styles import quantity_style, words_of
from stat_repro.reporting.tables import MISSING, Table

GROUP = "MACs kept (%)"
_PUBLISHED = "bert_base"  # the model of the published tables of pruning methods
# Parts of a variant's label that say which dense model was measured, and how.
_OF_DENSE = re.compile(r"(model|dataset|finetune|evaluation)\.|dtype=|dense model |data |protocol ")
_ROW = ["model", GROUP, "method"]
_KEYS = ["model", "dataset", "variant", "ratio"]


def task_points(frame: pd.DataFrame) -> pd.DataFrame:
    """The task's metric of every point (see `aggregate`) of models with several data sets."""
    points = aggregate(frame)
    points = points[points["quantity"] == points["headline"]]
    return points[points.groupby("model")["dataset"].transform("nunique") > 1]


def task_table(points: pd.DataFrame) -> Table:
    """The dense models, then from the largest share of MACs down; fractions times 100.

    Args:
        points: What `task_points` gives, not empty.
    """
    both = pd.concat([_dense(points), points], ignore_index=True)
    models, datasets = (words_of(both[name].unique()) for name in ("model", "dataset"))
    both = both.sort_values(["model", "ratio", "order"], kind="stable").assign(
        **{"model": lambda p: p["model"].map(models), "method": lambda p: p["variant"]},
        **{GROUP: lambda p: list(map(_kept, p["ratio"], p["budget"]))},
        column=lambda p: list(map(_column, p["dataset"].map(datasets), p["quantity"])),
        cell=lambda p: list(map(_cell, p["quantity"], p["mean"], p["std"])),
    )
    # Sorted and put back: `unstack(sort=False)` of pandas 2 mixes up the rows.
    cells = both.set_index([*_ROW, "column"])["cell"].unstack()
    rows, columns = pd.MultiIndex.from_frame(both[_ROW]).unique(), both["column"].unique()
    cells = cells.reindex(index=rows, columns=columns).reset_index()
    sources = both[[*_ROW, "dataset"]].assign(run_ids=both["run_ids"].map(" ".join)).sort_index()
    return Table(
        "table_tasks",
        ", all tasks",
        cells.fillna(MISSING),
        _notes(points, models),
        points[[*_KEYS, "quantity", "n", "mean", "std", "dense", "dense_std", "mac_kept"]],
        sources,
        group=GROUP,
    )


def _dense(points: pd.DataFrame) -> pd.DataFrame:
    """A row per data set and dense model; of several they are named by what makes them differ."""
    parts = points["variant"].map(
        lambda label: [p for p in label.split(", ") if _OF_DENSE.match(p)]
    )
    shown = points["dense"].map("{:.9g}".format)
    place = [points["model"], points["dataset"]]
    several = (
        shown.groupby(place).transform("nunique").groupby(points["model"]).transform("max") > 1
    )
    names = parts.map(lambda named: ", ".join(["dense", *named])).where(several, "dense")
    unclear = shown.groupby([*place, names]).transform("nunique") > 1
    rows = points.assign(
        ratio=0.0,
        variant=names.where(~unclear, "dense of " + points["variant"]),
        order=pd.Series([(-1, "")] * len(points), points.index, object),  # before all others
        mean=points["dense"],
        std=points["dense_std"],
        run_ids=points["dense_ids"],
    )
    return rows.drop_duplicates(["model", "dataset", "variant"])


def _notes(points: pd.DataFrame, models: dict[str, str]) -> list[str]:
    """What the cells mean, and whether published numbers can stand beside them."""
    fractions = all(quantity_style(name).fraction for name in points["quantity"])
    recoveries = sorted(set(points["recovery"]))
    trained = "nothing is trained" if recoveries == ["none"] else f"trained by {_or(recoveries)}"
    notes = [
        f"all {'values' if fractions else 'fractions'} times 100; mean ± sample standard deviation "
        "over the calibration seeds, where there are several (here "
        f"{points['n'].min()} to {points['n'].max()}); {trained} after pruning",
    ]
    if _PUBLISHED not in set(points["model"]):
        notes.append(
            "published tables of pruning methods are of BERT-base; "
            f"{', '.join(models.values())} is another model with "
            "other dense scores, so that none of their rows stands here"
        )
    return notes


def _or(recoveries: list[str]) -> str:
    """Kinds of recovery as a sentence says them: distill, lora or nothing."""
    kinds = [kind for kind in recoveries if kind != "none"]
    return ", ".join(kinds) + (" or not at all" if "none" in recoveries else "")


def _kept(ratio: float, budget: str) -> str:
    """Percent of what the ratio is a share of, which is said where it is not MACs."""
    share = f"{100 * (1 - ratio):g}"
    return share if budget == "MACs" or ratio == 0 else f"{share} of the {budget}"


def _column(dataset: str, quantity: str) -> str:
    metric = quantity_style(quantity).label.removesuffix(" (%)")
    return f"{dataset} ({metric})"


def _cell(quantity: str, mean: float, std: float) -> str:
    style = quantity_style(quantity)
    # Fractions as papers print them, percent and correlations alike.
    scale, decimals = (100, 1) if style.fraction else (style.scale, style.decimals)
    text = f"{scale * mean:.{decimals}f}"
    return text + (f" ± {scale * std:.{decimals}f}" if std > 0 else "")
