"""Every cell of a table and every point of a figure names the runs that it was made from."""

from __future__ import annotations

import csv
import io
import os
import statistics

import pytest

from stat_repro.paths import project_root, results_dir
from stat_repro.reporting.tables import result_table
from stat_repro.results import load_records, to_frame
from stat_repro.run.lookup import find_file, show

OUT = project_root() / "paper_figures" / "out"


def rows(text: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    return list(csv.DictReader(io.StringIO("".join(lines))))


@pytest.mark.parametrize("study", ["cost_minilm", "squad_dev_minilm"])
def test_every_cell_is_the_mean_of_the_runs_that_it_names(study: str) -> None:
    records = load_records(results_dir(), study)
    known, frame, named = {record.run_id: record for record in records}, to_frame(records), {}
    for _, row in result_table(frame).sources.iterrows():
        for quantity in row["quantities"].split():
            named[row["variant"], row["column"], quantity] = row["run_ids"].split()
    for row in rows(result_table(frame).csv()):
        ids = named.pop((row["variant"], f"ratio {row['ratio']}", row["quantity"]))
        assert len(ids) == int(row["n"])
        metrics = [known[i].metrics["pruned"] | known[i].metrics["fidelity"] for i in ids]
        if row["quantity"] in metrics[0]:
            values = [one[row["quantity"]] for one in metrics]
            assert float(row["mean"]) == statistics.fmean(values)
        if row["dense"]:
            for run_id in named[row["variant"], "dense", row["quantity"]]:
                value = known[run_id].metrics["dense"][row["quantity"]]
                assert float(row["dense"]) == pytest.approx(value)
    assert {column for _, column, _ in named} == {"dense"}


def test_from_every_table_and_figure_one_gets_to_the_runs_of_its_study() -> None:
    """By `stat-repro show STUDY/RUN_ID`, where STUDY is the folder of the table or figure."""
    beside = [*OUT.glob("*/*.sources.csv"), *OUT.glob("*/figure_*.csv")]
    named = {}
    for path in (path for path in beside if path.parent.name != "local"):
        for run in {run for row in rows(path.read_text("utf-8")) for run in row["run_ids"].split()}:
            named.setdefault(path.parent.name, set()).add(run)
    for study, runs in named.items():
        assert {f"{run}.json" for run in runs} <= set(os.listdir(results_dir() / study)), study
        first = f"{study}/{min(runs)}"
        assert find_file(first, results_dir()) == results_dir() / f"{first}.json"
        text = show(first, results_dir())
        parts = ["commit: ", "packages.torch: ", "threads: "]
        if study != "speed":
            plan = "The kept units: plan.layers of this file."
            command = f"  stat-repro verify {study} --point {min(runs)}"
            parts = [plan, "Protocol:", "  python run.py model=", command, *parts[:2]]
        assert [part for part in parts if part not in text] == [], first
    assert len(named) > 30


def test_every_stored_table_and_figure_names_stored_runs() -> None:
    stored = {path.stem for path in results_dir().glob("*/*.json")}
    shown = [*OUT.glob("*/*.tex"), *OUT.glob("*/*.png")]
    for path in (path for path in shown if path.parent.name != "local"):
        ending = ".sources.csv" if path.suffix == ".tex" else ".csv"
        beside = path.with_name(f"{path.stem}{ending}")
        made_from = [one["run_ids"].split() for one in rows(beside.read_text("utf-8"))]
        assert {run for ids in made_from for run in ids} <= stored, beside
        # A variant that was left out of a comparison may have had nothing to be compared with.
        assert any(made_from) if "comparison" in path.name else all(made_from), beside
    assert len(shown) > 100
