"""The page docs/results.md: every study with what it claims, its table and figure.

`python paper_figures/results_page.py` (part of `make paper`) writes it from results/, from the
headers of experiments/sweep/ and with the figures of paper_figures/out/. Needs no torch.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import pandas as pd

# Before the package is imported: it would import torch, to register the pruned architectures.
os.environ["STAT_REPRO_LIGHT"] = "1"

from stat_repro.config import SPEED_STUDY
from stat_repro.entry import guarded
from stat_repro.paths import project_root, results_dir
from stat_repro.reporting.costs import cost_table, measured_runs
from stat_repro.reporting.outputs import sweep_header
from stat_repro.reporting.points import headline
from stat_repro.reporting.speed_table import speed_table
from stat_repro.reporting.styles import quantity_style
from stat_repro.reporting.tables import MISSING, result_table, to_markdown
from stat_repro.reporting.variants import study_frame
from stat_repro.results import RunRecord, list_studies, load_records, load_speed
from stat_repro.scratch import replace_file

INTRODUCTION = """\
# Results of every study

`make paper` writes this page from the stored records; do not edit it. [Findings](findings.md) says
what the numbers mean, [records](records.md) what a record holds. `ratio` is the share of the
prunable multiply-accumulates (MACs) that is removed, or of their time where `budget=latency`. KL is
measured from the dense model's predictions, in nats. STAT+ is the method `stat_plus`. The full
tables have all metrics and name all records.
"""
# What a study on time shows beside the metric of its task.
_TIME_STUDIES = "compression_time"
_SPEED_SENTENCE = "Time to compress, as a multiple of what it is compared with"
_FIGURES = re.compile(r"figure_growth|.*(_kl|_mse_to_dense|_speedup|_kl_by_\w+)")
_COUNT = re.compile(r" \(n=(\d+)\)$")


def main() -> int:
    """Write the page into the clone; 0 only if it was written."""
    return guarded(_write, lambda: "the page is as it was")


def _write() -> None:
    path = project_root() / "docs" / "results.md"
    replace_file(path, results_page().encode())
    print(f"written to {path}")


def results_page() -> str:
    """The whole page, one section for every study with a record that git keeps."""
    names = [name for name in list_studies(results_dir()) if name != "local"]
    runs = {name: load_records(results_dir(), name) for name in names if name != SPEED_STUDY}
    studies = [name for name in names if runs.get(name, True)]  # what only failed is not shown
    claims = [(f"[{study}](#{study})", _claim(study)) for study in studies]
    contents = to_markdown(pd.DataFrame(claims, columns=["study", "claim"]))
    return "\n".join(
        [INTRODUCTION, contents, *(_section(study, runs.get(study)) for study in studies)]
    )


def _claim(study: str) -> str:
    """What a study claims; a user's own need not claim anything."""
    return _SPEED_SENTENCE if study == SPEED_STUDY else sweep_header(study).get("Claim", MISSING)


def _section(study: str, runs: list[RunRecord] | None) -> str:
    header = sweep_header(study)
    lines = [f"## {study}", ""]
    for word in ("Claim", "Run here"):
        lines += [f"**{word}:** {header[word]}", ""] if word in header else []
    lines += _speed_table() if runs is None else _study_tables(study, study_frame(runs))
    folder = Path("paper_figures", "out", study)
    stems = sorted(path.stem for path in (project_root() / folder).glob("*.png"))
    figures = [stem for stem in stems if _FIGURES.fullmatch(stem)]
    lines += [f"![{study}: {stem}](../{folder}/{stem}.png)\n" for stem in figures]
    lines.append(f"More: {', '.join(_links(study, folder))}.\n")
    return "\n".join(lines)


def _study_tables(study: str, frame: pd.DataFrame) -> list[str]:
    """The metric of the task and KL of every variant; measured costs where there are some."""
    table = result_table(frame).cells
    names = {headline(row) for row in frame.to_dict("records")} | {"kl", "mse_to_dense"}
    if study.startswith(_TIME_STUDIES):
        names.add("compress_s")
    table = table[table["quantity"].isin([quantity_style(name).label for name in names])]
    same = [column for column in ("model", "dataset") if table[column].nunique() == 1]
    where = " on ".join(f"`{table[column].iloc[0]}`" for column in same)
    ratios = [column for column in table.columns if column.startswith("ratio ")]
    counts = {found[1] for text in table[ratios].stack() if (found := _COUNT.search(text))}
    note = "; ".join(filter(None, [where, f"{len(frame)} runs"]))
    if len(counts) == 1:
        seeds = counts.pop()
        table = table.replace({column: {_COUNT: ""} for column in ratios}, regex=True)
        note += ", one seed" if seeds == "1" else f", mean ± standard deviation of {seeds} seeds"
    lines = [f"{note}.", "", to_markdown(table.drop(columns=same))]
    measured = measured_runs(frame)
    if not measured.empty:
        costs = cost_table(measured).cells
        devices = ", ".join(sorted(set(costs["device"])))
        unneeded = ["model", "dataset", "device", "bound", "runs"]
        lines += [
            f"Dense / pruned on {devices}:",
            "",
            to_markdown(costs.drop(columns=unneeded)),
        ]
    return lines


def _speed_table() -> list[str]:
    """Times as multiples of other times; seconds and memory are in the full table."""
    table = speed_table(load_speed(results_dir())).cells
    return [
        f"{_SPEED_SENTENCE}; median of all turns.",
        "",
        to_markdown(table[table["quantity"].str.contains("/")]),
    ]


def _links(study: str, folder: Path) -> list[str]:
    links = {
        "full table": folder / "table.md",
        "all tasks": folder / "table_tasks.md",
        "captions": folder / "captions.md",
        "paired comparison": folder / "table_comparison.md",
        "measured cost": folder / "table_cost.md",
        "numbers": folder / "table.csv",
        "sweep": Path("experiments", "sweep", f"{study}.yaml"),
        "notes": Path("results", study, "NOTES.md"),
    }
    there = {name: path for name, path in links.items() if (project_root() / path).is_file()}
    return [f"[{name}](../{path})" for name, path in there.items()]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    sys.exit(main())
