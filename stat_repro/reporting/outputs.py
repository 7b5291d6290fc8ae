"""Everything that is shown of a study: its tables and figures, made once, for files and pages."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stat_repro.paths import experiments_dir
from stat_repro.reporting.canvas import draw, save
from stat_repro.reporting.comparison import Values, compare
from stat_repro.reporting.comparison_table import comparison_table
from stat_repro.reporting.costs import cost_table, measured_runs
from stat_repro.reporting.detail_figures import layer_figures, setting_figures
from stat_repro.reporting.figure_data import Figure
from stat_repro.reporting.figures import cost_figures, healing_figures, metric_figures
from stat_repro.reporting.points import (
    aggregate,
    device_lines,
    protocol_lines,
    ratio_lines,
    record_lines,
)
from stat_repro.reporting.speed_figures import speed_figures
from stat_repro.reporting.speed_table import speed_table
from stat_repro.reporting.tables import Table, result_table, summary_table, to_csv, to_text
from stat_repro.reporting.task_table import task_points, task_table
from stat_repro.reporting.variants import study_frame
from stat_repro.results import RunRecord
from stat_repro.results.speed_record import SpeedRecord
from stat_repro.scratch import replace_file

# Studies on time also have a figure of it; in others times of busy machines do not compare.
_TIME_STUDIES = "compression_time"
# Names of the files of a study's folder that are this module's.
_OWNED_TABLES = r"table(_comparison|_tasks|_cost)?\.(md|tex|csv|sources\.csv)"
_OWNED = rf"{_OWNED_TABLES}|figure_.+\.(pdf|png|csv)|captions\.md"
_WORDS = ("Claim", "Command", "Cost", "Anchor", "Run here")


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
    frame = study_frame(records)
    points = aggregate(frame)
    ratios = ratio_lines(frame)
    made_from = [*ratios, *device_lines(frame), *record_lines(frame)]
    further = [*(f"protocol of {line}" for line in protocol_lines(frame)), *made_from]
    tables = [(result_table(points), further)]
    if compared := compare(frame, values, reference):
        tables.append((comparison_table(compared), made_from))
    by_task = task_points(points)
    if not by_task.empty:
        tables.append((task_table(by_task), further))
    others = ("compress_s",) if study.startswith(_TIME_STUDIES) else ()
    # Of many recoveries and budgets the time is what there is to see.
    of_data = [points["model"], points["dataset"]]
    healed = points["recovery"].ne("none").groupby(of_data).transform("any")
    figures = healing_figures(frame) + metric_figures(frame, points[~healed], others)
    figures += setting_figures(frame) + layer_figures(frame)
    measured = measured_runs(frame)
    if not measured.empty:
        tables.append((cost_table(measured), [*ratios, *record_lines(measured)]))
        figures += cost_figures(measured)
    named = tuple(
        replace(table, title=f"{study}{table.title}", notes=[*table.notes, *notes])
        for table, notes in tables
    )
    return Outputs(study, to_text(summary_table(points)), named, tuple(_told_apart(figures)))


def _told_apart(figures: Sequence[Figure]) -> Iterator[Figure]:
    """Figures with names of their own: `a` on `b_c` and `a_b` on `c` would share a file."""
    names = Counter[str]()
    for figure in figures:
        names[figure.name] += 1
        count = names[figure.name]
        yield figure if count == 1 else replace(figure, name=f"{figure.name}-{count}")


def speed_outputs(study: str, records: Sequence[SpeedRecord]) -> Outputs:
    """Table and figures of the benchmark (`python -m stat_repro.bench`)."""
    table = replace(speed_table(records), title=study)
    return Outputs(study, to_text(table.cells), (table,), tuple(speed_figures(records)))


def write_outputs(outputs: Outputs, folder: Path, *, figures: bool = True) -> list[Path]:
    """Write `<table>.md`, `.tex`, `.csv` and `.sources.csv`, `<figure>.pdf`, `.png` and `.csv`.

    The captions of all figures are in `captions.md`. Tables and figures of an earlier build that
    are not written again are removed.

    Args:
        outputs: What is shown.
        folder: Where to.
        figures: Whether figures are written too.

    Returns:
        The files.
    """
    texts: dict[str, str] = {}
    for table in outputs.tables:
        texts |= table.files()
    drawn = outputs.figures if figures else ()
    texts |= {f"{figure.name}.csv": to_csv(figure.table()) for figure in drawn}
    if drawn:
        captions = (f"## {one.name}\n\n{one.caption} Made from {one.records}." for one in drawn)
        texts["captions.md"] = "\n\n".join([f"# {outputs.study}, figures", *captions]) + "\n"
    for name, text in texts.items():
        replace_file(folder / name, text.encode())
    files = [folder / name for name in texts]
    for figure in drawn:
        files += save(draw(figure), folder / figure.name, figure.records)
    # What an earlier build wrote and this one has no more would still be linked and read.
    owned = re.compile(_OWNED if figures else _OWNED_TABLES)
    for path in set(folder.iterdir()) - set(files):
        if owned.fullmatch(path.name):
            path.unlink(missing_ok=True)  # of two builds at once, both want to
    return files


def sweep_header(study: str) -> dict[str, str]:
    """What the comment on top of a study's sweep says, by its words (`Claim`, `Cost`, ...).

    Empty for a study without a sweep.
    """
    path = experiments_dir() / "sweep" / f"{study}.yaml"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    parts = re.split(rf"\b({'|'.join(_WORDS)}): ", comment)
    return {word: text.strip() for word, text in zip(parts[1::2], parts[2::2], strict=True)}
