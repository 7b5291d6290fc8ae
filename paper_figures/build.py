"""Tables and figures of the stored records: `python paper_figures/build.py [--study NAME ...]`.

Reads results/<study>/*.json, and writes paper_figures/out/<study>/: table.md, table.tex, table.csv
and figure_<model>_<dataset>_<metric>.pdf and .png; where costs were measured (cost=measured) also
table_cost.* and figure_<model>_<dataset>_speedup.*; where several variants have values per example
also table_comparison.*, each variant against a reference; where a study varies calibration
examples, rows of a sketch or the ridge also figure_<model>_<dataset>_kl_by_<setting>.*; of the
benchmark (study speed) a table, where measurements differ in one size only figure_growth.*, and of
measurements on a GPU figure_gpu_stages.* and figure_inference.*.
Beside every table lies <table>.sources.csv, which names the runs of every cell, and beside every
figure its numbers as csv, with the runs of every point. Needs no torch and takes seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

# Before the package is imported: it would import torch, to register the pruned architectures.
os.environ["STAT_REPRO_LIGHT"] = "1"

from stat_repro import reporting, results
from stat_repro.config import SPEED_STUDY
from stat_repro.entry import folder, guarded
from stat_repro.paths import project_root, results_dir

# Beside the task's headline: how far the pruned model is from the dense one, which is far less
# noisy than accuracy.
FIDELITY_FIGURES = ("kl", "agreement", "mse_to_dense")


class NothingToShow(results.StudyError):
    """A study without a successful run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the arguments ask for; 0 only if every study was built."""
    options = _parse(argv)
    built: list[str] = []
    return guarded(
        lambda: _build(options, built),
        lambda: f"{len(built)} studies built, no file half; the same command starts again",
    )


def _build(options: argparse.Namespace, built: list[str]) -> int:
    damaged = False
    for study in options.study or results.list_studies(options.results):
        try:
            if study == SPEED_STUDY:
                build_speed(options.results, study, options.out)
            else:
                build_study(options.results, study, options.out, options.reference)
            built.append(study)
        except (results.StudyError, results.RecordError, reporting.ReportError) as err:
            print(f"error: study {study}: {err}", file=sys.stderr)
            # A study of failed runs only matters to the one who asks for it by name.
            damaged |= options.study is not None or not isinstance(err, NothingToShow)
    if not built:
        print(
            f"error: no table or figure was built from {options.results}; a run stores a record "
            f"there, for example `python run.py ratio=0.5`",
            file=sys.stderr,
        )
    return 1 if damaged or not built else 0


def build_study(root: Path, study: str, out: Path, reference: str | None = None) -> list[Path]:
    """Write the tables and figures of one study and print its summary.

    Args:
        root: Folder of all studies.
        study: Name of the study.
        out: Folder under which the study's folder is written.
        reference: Label of the variant that the others are compared with; faithful `stat` if None.

    Returns:
        The files.

    Raises:
        StudyError: No such study.
        NothingToShow: No successful run in it.
        RecordError: A damaged record.
        ReportError: Records that do not fit together.
    """
    records = results.load_records(root, study, failed=True)
    good = [record for record in records if record.status == "ok"]
    if not good:
        raise NothingToShow(f"no successful run to show, {len(records)} failed{_failures(records)}")
    frame = results.to_frame(good)
    folder = out / study
    summary = reporting.to_text(reporting.summary_table(frame))
    # First, because it refuses a reference that is not there.
    files = _comparison(good, root / study, folder, reference)
    files += _tables(frame, study, folder) + _figures(frame, folder)
    measured = reporting.measured_runs(frame)
    if not measured.empty:
        files += _costs(measured, study, folder)
    files += _drawn(folder, reporting.draw_setting, reporting.setting_figures(good))
    print(f"study {study}: {len(good)} runs\n\n{summary}")
    done = {record.run_id for record in good}
    bad = [record for record in records if record.run_id not in done]
    if bad:
        print(f"{len(bad)} failed runs are not shown:{_failures(bad)}\n")
    print(f"written to {folder}: {', '.join(path.name for path in files)}\n")
    return files


def build_speed(root: Path, study: str, out: Path) -> list[Path]:
    """Write tables and figure of the benchmark (`python -m stat_repro.bench`), print the table.

    Returns:
        The files.

    Raises:
        StudyError: No measurement.
        RecordError: A damaged one.
    """
    records = results.load_speed(root)
    table, notes = reporting.speed_table(records), reporting.speed_notes(records)
    texts = (notes, reporting.noted_csv(table, notes), reporting.speed_sources(records))
    files = _write(out / study / "table", table, study, *texts)
    for data, draw in (
        (reporting.growth_data(records), reporting.draw_growth),
        (reporting.stages_data(records), reporting.draw_stages),
        (reporting.inference_data(records), reporting.draw_inference),
    ):
        if data is not None:
            files += _drawn(out / study, draw, [data])
    print(f"study {study}: {len(records)} measurements\n\n{reporting.to_text(table)}")
    return files


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--study", nargs="+", metavar="NAME", help="studies to build (default: all with records)"
    )
    parser.add_argument("--results", type=Path, default=results_dir(), help="folder of the records")
    parser.add_argument(
        "--out", type=folder, default=project_root() / "paper_figures" / "out", help="output folder"
    )
    parser.add_argument(
        "--reference",
        metavar="VARIANT",
        help="variant, as the tables call it, that the others are compared with example by example "
        "(default: stat with all options at their defaults)",
    )
    return parser.parse_args(argv)


def _tables(frame: pd.DataFrame, study: str, folder: Path) -> list[Path]:
    table = reporting.result_table(frame)
    notes = [
        "mean ± sample standard deviation over calibration seeds (n); - was not measured",
        *(f"protocol of {line}" for line in reporting.protocol_lines(frame)),
        *reporting.record_lines(frame),
    ]
    texts = (notes, reporting.to_csv(frame, notes), reporting.table_sources(frame))
    return _write(folder / "table", table, study, *texts)


def _costs(frame: pd.DataFrame, study: str, folder: Path) -> list[Path]:
    """Tables and figures of the runs whose costs were measured."""
    table = reporting.cost_table(frame)
    notes = [*reporting.cost_notes(frame), *reporting.record_lines(frame)]
    texts = (notes, reporting.cost_csv(frame, notes), reporting.cost_sources(frame))
    files = _write(folder / "table_cost", table, f"{study}, measured cost", *texts)
    return files + _drawn(folder, reporting.draw_costs, reporting.cost_figure_data(frame))


def _comparison(
    records: Sequence[results.RunRecord], stored: Path, folder: Path, reference: str | None
) -> list[Path]:
    """Tables of the variants against the reference, where there are values per example."""
    read = {r.run_id: results.read_examples(r, stored / f"{r.run_id}.json") for r in records}
    values = {run_id: examples for run_id, examples in read.items() if examples is not None}
    comparisons = reporting.compare(records, values, reference)
    if not comparisons:
        return []
    table = reporting.comparison_table(comparisons)
    made_from = reporting.record_lines(results.to_frame(records))
    notes = [*reporting.comparison_notes(comparisons), *made_from]
    csv = reporting.comparison_csv(comparisons, notes)
    title, sources = f"{stored.name}, paired comparison", reporting.comparison_sources(comparisons)
    return _write(folder / "table_comparison", table, title, notes, csv, sources)


def _write(
    stem: Path, table: pd.DataFrame, title: str, notes: list[str], csv: str, sources: pd.DataFrame
) -> list[Path]:
    """The three spellings of a table, `<stem>.md`, `.tex` and `.csv`, and the runs behind it."""
    texts = {
        ".md": reporting.to_markdown(table, title, notes),
        ".tex": reporting.to_latex(table, title, notes),
        ".csv": csv,
        ".sources.csv": reporting.noted_csv(sources, []),
    }
    for ending, text in texts.items():
        reporting.replace_file(stem.with_suffix(ending), text.encode())
    return [stem.with_suffix(ending) for ending in texts]


def _figures(frame: pd.DataFrame, folder: Path) -> list[Path]:
    named = frame.assign(headline=[reporting.headline(row) for _, row in frame.iterrows()])
    groups = named[["model", "dataset", "headline"]].drop_duplicates()
    figures = [
        reporting.figure_data(frame, model, dataset, quantity)
        for model, dataset, headline in groups.itertuples(index=False)
        for quantity in (headline, *FIDELITY_FIGURES)
    ]
    return _drawn(folder, reporting.draw, [data for data in figures if data is not None])


def _drawn(folder: Path, draw: Callable[[Any], Any], figures: Sequence[Any]) -> list[Path]:
    """Draw and write figures; the files."""
    files = []
    for data in figures:
        files += reporting.save(draw(data), folder / data.name, data.records)
        files.append(folder / f"{data.name}.csv")
        reporting.replace_file(files[-1], reporting.noted_csv(data.table(), []).encode())
    return files


def _failures(records: Sequence[results.RunRecord]) -> str:
    return "".join(
        f"\n  {r.run_id}: {r.error['type']}: {(r.error['message'].splitlines() or [''])[0]}"
        for r in records
        if r.error is not None
    )


if __name__ == "__main__":
    sys.exit(main())
