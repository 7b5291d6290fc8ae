"""What all figures consist of before they are drawn: panels with lines, rows, bars or cells."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, zip_longest
from typing import Any, Literal

import pandas as pd

from stat_repro.reporting.points import device_lines, protocol_lines, record_lines
from stat_repro.reporting.styles import VariantStyle

Kind = Literal["lines", "rows", "stack", "cells"]


@dataclass(frozen=True)
class Line:
    """What is drawn of one variant, and from which runs.

    Its numbers are rounded to nine digits: what is shown must not depend on the last bit, which
    machines round apart.

    Attributes:
        label: The variant.
        style: Its look.
        run_ids: For every point, the runs whose values it shows.
        x: What the points are drawn against, ascending; empty for a line across the whole panel.
        y: Values, of several seeds their mean.
        low: Lower end of what is shown around them; empty for nothing.
        high: Upper end.
        bars: Whether the ends are shown as bars and not as a band.
    """

    label: str
    style: VariantStyle
    run_ids: tuple[tuple[str, ...], ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    bars: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("x", "y", "low", "high"):
            rounded = tuple(float(f"{value:.9g}") for value in getattr(self, name))
            object.__setattr__(self, name, rounded)


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Its words, where a figure has several.
        x_label: Words of what the points are drawn against.
        y_label: Words of the values, with unit.
        lines: In the order of the legend.
        kind: `lines`; `rows`, where x is a place from top to bottom and values go to the right;
            `stack`, the same with bars one after the other; or `cells`, where every line is a row
            of a heat map with values in percent.
        log: Whether the values are on a logarithmic axis; a figure drops it where one is 0.
        x_scale: As matplotlib names it, or `log2`.
        from_zero: Whether the axis of the values starts at 0.
        ticks: Places on x and their words; none for those of matplotlib.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    kind: Kind = "lines"
    log: bool = False
    from_zero: bool = False
    x_scale: str = "linear"
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Figure:
    """Everything a figure shows.

    Attributes:
        name: File name without ending.
        title: In words.
        records: Count and hash of the records shown.
        caption: What is shown, and the protocol.
        panels: From left to right, then down.
    """

    name: str
    title: str
    records: str
    caption: str
    panels: tuple[Panel, ...]

    def table(self) -> pd.DataFrame:
        """One row per point: `panel`, `series`, the values that are drawn, and `run_ids`."""
        rows = []
        for panel in self.panels:
            for line in panel.lines:
                # A line across the whole panel has a value, but no place.
                points = zip_longest(line.x, line.y, line.low, line.high, line.run_ids)
                for x, y, low, high, ids in points:
                    words = {"panel": " ".join(panel.title.split()), "series": line.label}
                    shown = {"x": x, "y": y, "low": low, "high": high}
                    rows.append({**words, **shown, "run_ids": " ".join(ids)})
        return pd.DataFrame(rows)


def file_stem(*parts: str) -> str:
    """File name of a figure without ending."""
    return "_".join(["figure", *(re.sub(r"[^A-Za-z0-9_.-]+", "-", part) for part in parts)])


def mean_line(
    label: str,
    style: VariantStyle,
    points: Sequence[tuple[float | None, Mapping[str, float]]],
    *,
    spread: bool = False,
) -> Line:
    """A line through the means of several runs.

    Args:
        label: Name of the line.
        style: Its look.
        points: Places, and there the value of every run; one place of None for a level.
        spread: Whether the range from the lowest to the highest value is shown.
    """
    values = [of_runs.values() for _, of_runs in points]
    return Line(
        label,
        style,
        run_ids=tuple(tuple(sorted(of_runs)) for _, of_runs in points),
        x=tuple(x for x, _ in points if x is not None),
        y=tuple(map(statistics.fmean, values)),
        low=tuple(map(min, values)) if spread else (),
        high=tuple(map(max, values)) if spread else (),
    )


def figure_of(
    rows: pd.DataFrame,
    parts: Sequence[str],
    title: str,
    words: str,
    panels: Sequence[Panel],
    *,
    protocol: bool = True,
    timed: bool = False,
) -> Figure:
    """A figure of runs.

    Args:
        rows: Its runs, as `stat_repro.results.to_frame` gives them.
        parts: Parts of its name.
        title: In words.
        words: The caption, without its last full stop.
        panels: Its panels.
        protocol: Whether the caption ends with their protocol.
        timed: Whether it shows seconds, so that the caption says where they do not compare.
    """
    further = [f"Protocol of {line}" for line in protocol_lines(rows)] if protocol else []
    if timed:
        further = [f"S{line[1:]}" for line in device_lines(rows)] + further
    caption = ". ".join([words, *further]) + "."
    shown = tuple(map(_drawable, panels))
    return Figure(file_stem(*parts), title, record_lines(rows)[0], caption, shown)


def _drawable(panel: Panel) -> Panel:
    lines = tuple(map(_finite, panel.lines))
    lowest = min((y for line in lines for y in (*line.y, *line.low)), default=0.0)
    # A divergence of zero, as where nothing was removed, has no logarithm.
    return replace(panel, lines=lines, log=panel.log and lowest > 0)


def _finite(line: Line) -> Line:
    """Without the points that nothing can draw, which its label names."""
    there = [math.isfinite(y) for y in line.y]
    if all(there):
        return line
    places = [f"{x:g}" for x, y in zip(line.x, line.y, strict=False) if not math.isfinite(y)]
    words = " at ".join(["not finite", *filter(None, [", ".join(places)])])
    names = ("run_ids", "x", "y", "low", "high")
    drawn: dict[str, Any] = {name: tuple(compress(getattr(line, name), there)) for name in names}
    return replace(line, label="; ".join(filter(None, [line.label, words])), **drawn)
