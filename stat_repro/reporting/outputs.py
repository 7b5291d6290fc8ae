"""Everything that is shown of a study: its tables and figures, made once, for files and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stat_repro.reporting import task_table
from stat_repro.reporting.canvas import draw, save
from stat_repro.reporting.comparison import Values, compare
from stat_repro.reporting.comparison_table import (
    comparison_csv,
    comparison_notes,
    comparison_sources,
    comparison_table,
)
from stat_repro.reporting.cost_figures import cost_figures
from stat_repro.reporting.costs import cost_csv, cost_notes, cost_sources, cost_table, measured_runs
from stat_repro.reporting.figure_data import Figure
from stat_repro.reporting.figures import metric_figures
from stat_repro.reporting.healing_figures import healing_figures
from stat_repro.reporting.layer_figures import layer_figures
from stat_repro.reporting.points import aggregate, protocol_lines, record_lines
from stat_repro.reporting.setting_figures import setting_figures
from stat_repro.reporting.speed_figures import speed_figures
from stat_repro.reporting.speed_table import speed_notes, speed_sources, speed_table
from stat_repro.reporting.tables import (
    noted_csv,
    result_table,
    summary_table,
    table_sources,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
)
from stat_repro.results import RunRecord, to_frame
from stat_repro.results.speed_record import SpeedRecord
from stat_repro.scratch import replace_file

# Studies on time also have a figure of it; in others times of busy machines do not compare.
_TIME_STUDIES = "compression_time"


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        stem: File name without ending.
        title: Its title.
        cells: Text.
        notes: What the cells mean, and the records behind them.
        csv: The numbers.
        sources: The runs behind every row or cell.
        group: Column whose next value starts another group of rows.
    """

    stem: str
    title: str
    cells: pd.DataFrame
    notes: list[str]
    csv: str
    sources: pd.DataFrame
    group: str | None = None


@dataclass(frozen=True)
class Outputs:
    """What is shown of one study; `summary` is for the terminal."""

    study: str
    summary: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]


def study_outputs(
    study: str,
    records: Sequence[RunRecord],
    values: Mapping[str, Values],
    reference: str | None = None,
) -> Outputs:
    """Tables and figures of a study.

    Args:
        study: Its name.
        records: Its successful runs, at least one.
        values: Values per example by run id, of the runs that have some.
        reference: Label of the variant that the others are compared with; faithful `stat` if None.

    Raises:
        ReportError: Records that do not fit together.
    """
    frame = to_frame(records)
    points = aggregate(frame)
    made_from = record_lines(frame)
    protocols = [f"protocol of {line}" for line in protocol_lines(frame)]
    notes = [
        "mean ± sample standard deviation over calibration seeds (n); - was not measured",
        *protocols,
        *made_from,
    ]
    csv, sources = to_csv(points, notes), table_sources(points)
    tables = [Table("table", study, result_table(points), notes, csv, sources)]
    if compared := compare(records, values, reference):
        notes = [*comparison_notes(compared), *made_from]
        csv, sources = comparison_csv(compared, notes), comparison_sources(compared)
        cells, title = comparison_table(compared), f"{study}, paired comparison"
        tables.append(Table("table_comparison", title, cells, notes, csv, sources))
    by_task = task_table.task_points(points)
    if not by_task.empty:
        notes = [*task_table.task_notes(by_task), *protocols, *made_from]
        csv, sources = task_table.task_csv(by_task, notes), task_table.task_sources(by_task)
        cells = task_table.task_table(by_task)
        title = f"{study}, all tasks"
        tables.append(Table("table_tasks", title, cells, notes, csv, sources, task_table.GROUP))
    others = ("compress_s",) if study.startswith(_TIME_STUDIES) else ()
    # Of many recoveries and budgets the time is what there is to see.
    figures = healing_figures(frame) or metric_figures(frame, points, others)
    figures += setting_figures(records) + layer_figures(records)
    measured = measured_runs(frame)
    if not measured.empty:
        notes = [*cost_notes(measured), *record_lines(measured)]
        cells, csv = cost_table(measured), cost_csv(measured, notes)
        title, sources = f"{study}, measured cost", cost_sources(measured)
        tables.append(Table("table_cost", title, cells, notes, csv, sources))
        figures += cost_figures(measured)
    return Outputs(study, to_text(summary_table(points)), tuple(tables), tuple(figures))


def speed_outputs(study: str, records: Sequence[SpeedRecord]) -> Outputs:
    """Table and figures of the benchmark (`python -m stat_repro.bench`)."""
    cells, notes = speed_table(records), speed_notes(records)
    csv, sources = noted_csv(cells, notes), speed_sources(records)
    table = Table("table", study, cells, notes, csv, sources)
    return Outputs(study, to_text(cells), (table,), tuple(speed_figures(records)))


def write_outputs(outputs: Outputs, folder: Path, *, figures: bool = True) -> list[Path]:
    """Write `<table>.md`, `.tex`, `.csv` and `.sources.csv`, `<figure>.pdf`, `.png` and `.csv`.

    The captions of all figures are in `captions.md`.

    Args:
        outputs: What is shown.
        folder: Where to.
        figures: Whether figures are written too.

    Returns:
        The files.
    """
    texts: dict[str, str] = {}
    for table in outputs.tables:
        texts |= {
            f"{table.stem}.md": to_markdown(table.cells, table.title, table.notes),
            f"{table.stem}.tex": to_latex(table.cells, table.title, table.notes, group=table.group),
            f"{table.stem}.csv": table.csv,
            f"{table.stem}.sources.csv": noted_csv(table.sources, []),
        }
    drawn = outputs.figures if figures else ()
    texts |= {f"{figure.name}.csv": noted_csv(figure.table(), []) for figure in drawn}
    if drawn:
        captions = (f"## {one.name}\n\n{one.caption} Made from {one.records}." for one in drawn)
        texts["captions.md"] = "\n\n".join([f"# {outputs.study}, figures", *captions]) + "\n"
    for name, text in texts.items():
        replace_file(folder / name, text.encode())
    files = [folder / name for name in texts]
    for figure in drawn:
        files += save(draw(figure), folder / figure.name, figure.records)
    return files
