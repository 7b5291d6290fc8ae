"""Tables as functions of a frame of records: first a frame of text, then its spelling."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stat_repro.reporting.points import aggregate, grouped
from stat_repro.reporting.styles import QuantityStyle, quantity_order, quantity_style
from stat_repro.reporting.variants import ReportError

MISSING = "-"

_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}"},
}
# Costs of a record: name, factor and decimal places in a table.
_COSTS = {
    "params": ("parameters", 1, 0),
    "macs_per_token": ("MACs per token, million", 1e-6, 2),
    "prunable_macs_per_token": ("prunable MACs, million", 1e-6, 2),
    "size_bytes": ("size on disk, MB", 1e-6, 1),
}
_ROW = ["model", "dataset", "variant", "quantity"]
_NUMERIC_COLUMNS = (
    *("model", "dataset", "task", "variant", "ratio", "quantity", "n", "mean", "std"),
    *("low", "high", "not_finite", "dense", "dense_std", "mac_kept"),
)
_NOTES = ("mean ± sample standard deviation over calibration seeds (n); - was not measured",)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        stem: File name without ending.
        title: Its title, or what stands behind the name of the study.
        cells: Text.
        notes: What the cells mean, and the records behind them.
        numbers: Those behind the cells, in the record's units.
        sources: The runs behind every row or cell.
        group: Column whose next value starts another group of rows.
        float_format: How numbers are written; in full if None.
    """

    stem: str
    title: str
    cells: pd.DataFrame
    notes: Sequence[str]
    numbers: pd.DataFrame
    sources: pd.DataFrame
    group: str | None = None
    float_format: str | None = None

    def csv(self) -> str:
        """The numbers below the notes.

        `pandas.read_csv(path, comment="#")` leaves the notes out. Empty means not measured; `inf`
        and `nan` were measured.
        """
        notes = "".join(f"# {note}\n" for note in self.notes)
        return notes + to_csv(self.numbers, float_format=self.float_format)

    def files(self) -> dict[str, str]:
        """Everything that is written of the table, by file name."""
        return {
            f"{self.stem}.md": to_document(self),
            f"{self.stem}.tex": to_latex(self),
            f"{self.stem}.csv": self.csv(),
            f"{self.stem}.sources.csv": to_csv(self.sources),
        }


def result_table(frame: pd.DataFrame) -> Table:
    """One row per model, data set, variant and quantity; one column per ratio.

    A cell is `mean ± standard deviation (n=seeds)`, and `-` where nothing was measured. `dense` is
    the value of the dense model. The numbers have a row per point and quantity; the sources have
    one per variant and column of the table, where quantities were measured by other runs also one
    for these, with `quantities` named as in the numbers.

    Args:
        frame: Successful runs, as `stat_repro.results.to_frame` gives them.

    Raises:
        ReportError: As `aggregate`.
    """
    points = aggregate(frame)
    ratios = sorted(points["ratio"].unique())
    rows = []
    for group in grouped(points.to_dict("records"), _ROW):
        style = quantity_style(group[0]["quantity"])
        row = {key: group[0][key] for key in _ROW}
        row["quantity"] = style.label
        row["dense"] = _value(group[0], style, "dense")
        cells = {point["ratio"]: _cell(point, style) for point in group}
        rows.append(row | {f"ratio {ratio:g}": cells.get(ratio, MISSING) for ratio in ratios})
    # What runs have measured as nan is written so; other nan are absent.
    measured = {
        name: [repr(v) if runs else "" for v, runs in zip(points[name], points[ids], strict=True)]
        for name, ids in (("mean", "run_ids"), ("dense", "dense_ids"))
    }
    numbers = points[list(_NUMERIC_COLUMNS)].assign(**measured)
    return Table("table", "", pd.DataFrame(rows), _NOTES, numbers, _sources(points))


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Text cells: one row per model, data set, variant and ratio, with what matters most.

    The metric is the benchmark's first one, or the usual one of the task. Values are means over the
    seeds; `runs` says of how many. The column `variant` is there only where a model and data set
    has several.

    Raises:
        ReportError: As `aggregate`.
    """
    points = aggregate(frame)
    rows = []
    for group in grouped(points.to_dict("records"), [*_ROW[:3], "ratio"]):
        by_name = {point["quantity"]: point for point in group}
        first, headline = group[0], group[0]["headline"]
        if headline not in by_name:
            raise ReportError(
                f"{first['dataset']}: expected the metric {headline!r}; got {', '.join(by_name)}"
            )
        style = quantity_style(headline)
        rows.append(
            {
                "model": first["model"],
                "task": first["dataset"],
                "variant": first["variant"],
                "ratio": f"{first['ratio']:g}",
                "MACs kept": _mean(by_name, "mac_kept_fraction", " %"),
                "params kept": _mean(by_name, "param_kept_fraction", " %"),
                "metric": style.label,
                "dense": _value(by_name[headline], style, "dense"),
                "pruned": _mean(by_name, headline),
                "agreement": _mean(by_name, "agreement", " %"),
                "KL": _mean(by_name, "kl"),
                "compress": _mean(by_name, "compress_s", " s"),
                "runs": str(by_name[headline]["n"]),
            }
        )
    table = pd.DataFrame(rows)
    several = table.groupby(["model", "task"])["variant"].nunique().max() > 1
    return table if several else table.drop(columns="variant")


_BEFORE = "before recovery"


def before_and_after(
    costs: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """Text cells: dense and pruned side by side; with a recovery also pruned before it.

    Args:
        costs: As a record has them.
        metrics: As a record has them.
    """
    rows = []
    healed = {_BEFORE: MISSING} if "before_recovery" in metrics else {}
    none = {"dense": MISSING, **healed, "pruned": MISSING, "left": MISSING}
    for key, (label, scale, decimals) in _COSTS.items():
        if both := costs.get(key):
            cells = {name: f"{value * scale:,.{decimals}f}" for name, value in both.items()}
            left = {"left": f"{both['pruned'] / both['dense']:.1%}"}
            rows.append({"": label, **none, **cells, **left})
    scores: dict[str, dict[str, float]] = {}
    for name, values in (
        ("dense", "dense"), ("pruned", "pruned"), ("pruned", "fidelity"),
        (_BEFORE, "before_recovery"),
    ):  # fmt: skip
        for quantity, value in metrics.get(values, {}).items():
            scores.setdefault(quantity, {})[name] = value
    for quantity in sorted(scores, key=quantity_order):
        style = quantity_style(quantity)
        cells = {k: f"{style.scale * v:.{style.decimals}f}" for k, v in scores[quantity].items()}
        rows.append({"": style.label, **none, **cells})
    return pd.DataFrame(rows)


def to_text(table: pd.DataFrame) -> str:
    """Columns aligned for a terminal, numbers to the right."""
    cells = [list(table.columns), *table.astype(str).values.tolist()]
    right = [all(_is_number(text) for text in column) for column in zip(*cells[1:], strict=True)]
    widths = [max(len(text) for text in column) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def to_csv(table: pd.DataFrame, float_format: str | None = None) -> str:
    """A table without its index, the same on every system."""
    return table.to_csv(index=False, lineterminator="\n", float_format=float_format)


def to_markdown(cells: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(cells.columns), ["---"] * len(cells.columns), *cells.values.tolist()]
    lines = ("| " + " | ".join(str(c).replace("|", r"\|") for c in row) + " |\n" for row in rows)
    return "".join(lines)


def to_document(table: Table) -> str:
    """A Markdown document: title, table, and the notes as a list."""
    notes = "".join(f"- {note}\n" for note in table.notes)
    return f"# {table.title}\n\n{to_markdown(table.cells)}\n{notes}"


def to_latex(table: Table) -> str:
    """A booktabs `tabular`, with title and notes as comments above it."""
    cells, group = table.cells, table.group
    words = len(_ROW) if group is None else list(cells.columns).index(group) + 2
    columns = "l" * words + "r" * (len(cells.columns) - words)
    starts = [False] * len(cells) if group is None else cells[group].ne(cells[group].shift())
    lines = [f"% {note}" for note in (table.title, *table.notes)]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row(list(cells.columns))]
    for number, (row, start) in enumerate(zip(cells.values.tolist(), starts, strict=True)):
        lines += [r"\midrule"] * (number == 0 or start) + [_latex_row(row)]
    lines.append(r"\bottomrule")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _sources(points: pd.DataFrame) -> pd.DataFrame:
    cells: dict[tuple[Any, ...], list[str]] = {}
    for point in points.to_dict("records"):
        row = (point["model"], point["dataset"], point["variant"])
        for column, ids in ((f"ratio {point['ratio']:g}", "run_ids"), ("dense", "dense_ids")):
            if point[ids]:
                names = cells.setdefault((*row, column, " ".join(point[ids])), [])
                names += [point["quantity"]] * (point["quantity"] not in names)
    rows = [(*key[:4], " ".join(names), key[4]) for key, names in cells.items()]
    columns = ["model", "dataset", "variant", "column", "quantities", "run_ids"]
    return pd.DataFrame(rows, columns=columns)


def _cell(point: Any, style: QuantityStyle) -> str:
    text = _value(point, style, "mean")
    if 0 < point["not_finite"] < point["n"]:
        return f"{text} in {point['not_finite']} of {point['n']}"
    return f"{text} (n={point['n']})"


def _value(point: Any, style: QuantityStyle, name: str) -> str:
    """Mean, and standard deviation where there is one that shows."""
    value, spread = point[name], point["std" if name == "mean" else "dense_std"]
    if name == "dense" and not point["dense_ids"]:
        return MISSING
    text = f"{style.scale * value:.{style.decimals}f}"
    # All seeds share the dense model, which then has no spread to show.
    shown = not math.isnan(spread) and (name == "mean" or spread > 0)
    return f"{text} ± {style.scale * spread:.{style.decimals}f}" if shown else text


def _mean(points: dict[Any, Any], name: str, unit: str = "") -> str:
    if name not in points:
        return MISSING
    style = quantity_style(name)
    return f"{style.scale * points[name]['mean']:.{style.decimals}f}{unit}"


def _is_number(text: str) -> bool:
    return text == MISSING or text.split(" ")[0].lstrip("-").replace(".", "", 1).isdecimal()


def _latex_row(cells: Sequence[Any]) -> str:
    return " & ".join("".join(_LATEX.get(c, c) for c in str(cell)) for cell in cells) + r" \\"
