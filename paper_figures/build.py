"""Tables and figures of the stored records: `python paper_figures/build.py [--study NAME ...]`.

Reads results/<study>/*.json, and writes paper_figures/out/<study>/: table.md, table.tex, table.csv
and figure_<model>_<dataset>_<metric>.pdf and .png, with the captions of all figures in captions.md;
figure_<model>_<dataset>_kept and _errors, layer by layer, where a study has STAT at three ratios;
table_tasks.* where a model has several data sets; where costs were measured (cost=measured) also
table_cost.* and figure_<model>_<dataset>_speedup.*; where several variants have values per example
also table_comparison.*, each variant against a reference; where models were trained after pruning
figure_<model>_<dataset>_<metric>_by_time.* in place of theirs by MACs; where a study varies
calibration examples, rows of a sketch or the ridge also figure_<model>_<dataset>_kl_by_<setting>.*;
of the benchmark (study speed) a table, where measurements differ in one size only figure_growth.*,
and of measurements on a GPU figure_gpu_stages.* and figure_inference.*.
Beside every table lies <table>.sources.csv, which names the runs of every cell, and beside every
figure its numbers as csv, with the runs of every point. Needs no torch and takes seconds.
With --report one page of everything is written instead, a single HTML file.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

# Before the package is imported: it would import torch, to register the pruned architectures.
os.environ["STAT_REPRO_LIGHT"] = "1"

from stat_repro import results
from stat_repro.config import SPEED_STUDY
from stat_repro.entry import at_least, folder, guarded
from stat_repro.paths import project_root, results_dir
from stat_repro.reporting.outputs import speed_outputs, study_outputs, write_outputs
from stat_repro.reporting.report_page import report_page, study_page
from stat_repro.reporting.variants import ReportError
from stat_repro.results.strict_json import from_text
from stat_repro.scratch import replace_file


class NothingToShow(results.StudyError):
    """A study without a successful run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the arguments ask for; 0 only if every study was built."""
    options = _parse(argv)
    built: list[dict[str, Any]] = []
    return guarded(
        lambda: _build(options, built),
        lambda: f"{len(built)} studies built, no file half; the same command starts again",
    )


def _build(options: argparse.Namespace, built: list[dict[str, Any]]) -> int:
    damaged = False
    for study, wait in _started(options):
        try:
            text, page = wait()
            built.append(page)
            print(text)
        except (results.StudyError, results.RecordError, ReportError) as err:
            print(f"error: study {study}: {err}", file=sys.stderr)
            # A study of failed runs only matters to the one who asks for it by name.
            damaged |= options.study is not None or not isinstance(err, NothingToShow)
    if built and options.report is not None:
        replace_file(options.report, report_page(built, options.claims or []).encode())
        print(f"written to {options.report}")
    elif not built and not damaged:  # nothing has been said yet
        print(
            f"error: no table or figure was built from {options.results}; a run stores a record "
            f"there, for example `python run.py ratio=0.5`",
            file=sys.stderr,
        )
    return 1 if damaged or not built else 0


def _started(
    options: argparse.Namespace,
) -> Iterator[tuple[str, Callable[[], tuple[str, dict[str, Any]]]]]:
    """Every study, and what waits for it: in this process, or at work in others already."""
    studies = options.study or results.list_studies(options.results)
    jobs = min(options.jobs or os.cpu_count() or 1, len(studies))
    if jobs <= 1:
        yield from ((study, partial(build_study, options, study)) for study in studies)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        # The large ones first, so that none of them is left for the end.
        sizes = {study: len(list((options.results / study).glob("*"))) for study in studies}
        largest_first = sorted(studies, key=lambda study: -sizes[study])
        started = {study: pool.submit(build_study, options, study) for study in largest_first}
        try:
            yield from ((study, started[study].result) for study in studies)
        finally:  # an interrupted build waits for the studies that are at work, not for all
            pool.shutdown(cancel_futures=True)


def build_study(options: argparse.Namespace, study: str) -> tuple[str, dict[str, Any]]:
    """Write the tables and figures of one study, or with --report only make them.

    Args:
        options: The command line.
        study: Name of the study.

    Returns:
        What is printed, and the study as a part of the report.

    Raises:
        StudyError: No such study.
        NothingToShow: No successful run in it.
        RecordError: A damaged record.
        ReportError: Records that do not fit together.
    """
    root = None if options.results == results_dir() else options.results
    if study == SPEED_STUDY:
        measured = results.load_speed(options.results)
        outputs, bad = speed_outputs(study, measured), []
        page = study_page(outputs, measured, root)
        text = f"study {study}: {len(measured)} measurements\n\n{outputs.summary}"
    else:
        records = results.load_records(options.results, study, failed=True)
        good = [record for record in records if record.status == "ok"]
        done = {record.run_id for record in good}
        bad = [record for record in records if record.run_id not in done]
        if not good:
            failures = f"{len(records)} failed{_failures(records)}"
            raise NothingToShow(f"no successful run to show, {failures}")
        stored = options.results / study
        read = {r.run_id: results.read_examples(r, stored / f"{r.run_id}.json") for r in good}
        values = {run_id: examples for run_id, examples in read.items() if examples is not None}
        outputs = study_outputs(study, good, values, options.reference)
        page = study_page(outputs, good, root)
        text = f"study {study}: {len(good)} runs\n\n{outputs.summary}"
    if bad:
        text += f"\n{len(bad)} failed runs are not shown:{_failures(bad)}\n"
    if options.report is None:
        where = options.out / study
        files = write_outputs(outputs, where, figures=not options.tables)
        text += f"\nwritten to {where}: {', '.join(path.name for path in files)}\n"
    return text, page


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--study",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="studies to build (default: all with records)",
    )
    parser.add_argument("--results", type=Path, default=results_dir(), help="folder of the records")
    parser.add_argument(
        "--out", type=folder, default=project_root() / "paper_figures" / "out", help="output folder"
    )
    parser.add_argument("--tables", action="store_true", help="write tables only, no figures")
    what = "processes; 0 for one for each core"
    parser.add_argument("--jobs", type=at_least(0), default=1, help=what)
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write one HTML page of the studies instead"
    )
    parser.add_argument(
        "--claims", type=_claims, metavar="FILE", help="what docs/claims.py wrote, for the report"
    )
    parser.add_argument(
        "--reference",
        metavar="VARIANT",
        help="variant, as the tables call it, that the others are compared with example by example "
        "(default: stat with all options at their defaults)",
    )
    options = parser.parse_args(argv)
    if options.claims and options.report is None:
        parser.error("--claims: expected only together with --report; choose --report FILE")
    return options


def _claims(text: str) -> list[dict[str, Any]]:
    """A type for argparse: the tables in the file of the claims."""
    keys = {"title", "columns", "rows", "runs", "notes"}
    try:
        tables = list(from_text(Path(text).read_text("utf-8")).values())
        if all(table.keys() == keys for table in tables):
            return tables
    except (OSError, ValueError, AttributeError):
        pass  # no such file, or another one
    raise argparse.ArgumentTypeError(f"expected a file that docs/claims.py wrote; got {text}")


def _failures(records: Sequence[results.RunRecord]) -> str:
    return "".join(
        f"\n  {r.run_id}: {r.error['type']}: {(r.error['message'].splitlines() or [''])[0]}"
        for r in records
        if r.error is not None
    )


if __name__ == "__main__":
    sys.exit(main())
