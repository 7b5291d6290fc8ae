"""What all figures consist of before they are drawn: names, records, lines of numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stat_repro.reporting.styles import VariantStyle


@dataclass(frozen=True)
class Line:
    """One variant in a figure: points, ascending in x.

    Attributes:
        label: The variant.
        x: What it is drawn against.
        y: Values, of several seeds their mean.
        low: Lower end of what is shown around them.
        high: Upper end.
    """

    label: str
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


def file_stem(*parts: str) -> str:
    """File name of a figure without ending."""
    return "_".join(["figure", *(re.sub(r"[^A-Za-z0-9_.-]+", "-", part) for part in parts)])
