"""What all figures consist of before they are drawn: names, records, lines of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from itertools import zip_longest
from typing import Any, ClassVar

import pandas as pd

from stat_repro.reporting.styles import VariantStyle


@dataclass(frozen=True)
class Points:
    """What is drawn of one variant, and from which runs.

    Attributes:
        label: The variant.
        run_ids: Of every point the runs whose values it shows.
    """

    # The fields that hold one value per point.
    COLUMNS: ClassVar[tuple[str, ...]]

    label: str
    run_ids: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Line(Points):
    """One variant in a figure: points, ascending in x.

    Attributes:
        x: What it is drawn against.
        y: Values, of several seeds their mean.
        low: Lower end of what is shown around them.
        high: Upper end.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("x", "y", "low", "high")

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class StyledLine(Line):
    """A line in the look that its variant has in every figure."""

    style: VariantStyle


@dataclass(frozen=True)
class FigureData:
    """Everything a figure shows.

    Attributes:
        name: File name without ending.
        title: Model and data set.
        records: Count and hash of the records shown.
    """

    name: str
    title: str
    records: str

    def table(self) -> pd.DataFrame:
        """One row per point: `panel`, `series`, the values that are drawn, and `run_ids`."""
        return pd.DataFrame(_rows(self, ""))


def joined_ids(run_ids: tuple[str, ...]) -> str:
    """Run ids as a cell of a table; an id has no blanks."""
    return " ".join(run_ids)


def _rows(part: Any, panel: str) -> Iterator[dict[str, Any]]:
    """The points inside a part of a figure; a panel has a title, or words before its lines."""
    if isinstance(part, Points):
        columns = [getattr(part, name) for name in part.COLUMNS]
        # A line across the whole panel has a value, but no place.
        for ids, *values in zip_longest(part.run_ids, *columns):
            point = dict(zip(part.COLUMNS, values, strict=True))
            words = " ".join(panel.split())
            yield {"panel": words, "series": part.label, **point, "run_ids": joined_ids(ids)}
    elif isinstance(part, tuple):
        words = next((one for one in part if isinstance(one, str)), panel)
        for one in part:
            yield from _rows(one, words)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _rows(getattr(part, field.name), getattr(part, "title", panel))


def file_stem(*parts: str) -> str:
    """File name of a figure without ending."""
    return "_".join(["figure", *(re.sub(r"[^A-Za-z0-9_.-]+", "-", part) for part in parts)])
