"""Every bad input of the table: one line, the exit status, nothing written, no stack trace."""

import json
import os
import re
import runpy
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from bad_inputs import CASES, Case
from made_up_records import make_config, make_record
from pico_config import compose_run
from pico_models import pico_batches, pico_model
from pico_project import save_checkpoint, write_table, write_text

import stat_repro
from stat_repro import results
from stat_repro.assets import __main__ as assets
from stat_repro.bench import __main__ as bench
from stat_repro.data.squad import load_questions
from stat_repro.data.task_data import load_task_data
from stat_repro.data.text_data import load_text_data
from stat_repro.entry import guarded
from stat_repro.run import commands as program
from stat_repro.sharded import __main__ as sharded
from stat_repro.surgery.edit import prune_model


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The folder `in/` of the cases."""
    folder = tmp_path_factory.mktemp("inputs")
    save_checkpoint(folder / "llama", "llama_grouped")
    save_checkpoint(folder / "cut", "llama_grouped")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for name in ("nothing", "texts", "torn"):
        (folder / name).mkdir()
    (folder / "torn" / "plan.json").write_text('{"version": 1, "lay')
    write_text(folder / "texts" / "notes.md", 20)
    write_text(folder / "a.txt", 400)
    for seed, name in enumerate(("a.csv", "b.csv", "a.exe")):
        write_table(folder / name, 20, seed)
    for ending in ("csv", "txt"):
        (folder / f"empty.{ending}").write_text("")
        (folder / f"binary.{ending}").write_bytes(bytes(range(128, 256)))
    (folder / "holes.csv").write_text("text,label\nw1,up\n,down\nw2,\n")
    (folder / "other.csv").write_text("text,label\nw1,up\nw2,sideways\n")
    (folder / "one.csv").write_text("text,label\nw1,up\nw2,up\n")
    (folder / "cut.jsonl").write_text('{"text": "w1", "label": "up"}\n{"text": "w')
    (folder / "cut.json").write_text('{"data": [{"title": "x", "parag')
    (folder / "list.json").write_text("[1, [2, [3]]]")
    keys = ("title", "columns", "rows", "runs", "notes")
    (folder / "claims.json").write_text(json.dumps({"claims": {key: [] for key in keys}}))
    pd.read_csv(folder / "a.csv").to_parquet(folder / "cut.parquet")
    whole = (folder / "cut.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for study in ("good", "damaged"):
        path = results.save_record(make_record(config=make_config(study=study)), folder / "records")
    path.write_text(json.dumps({"run_id": 7}))
    return folder


def load_data(*overrides):
    config = compose_run(*overrides, "evaluation.split=test").dataset
    load = {"language_modeling": load_text_data, "question_answering": load_questions}
    load.get(config.task, load_task_data)(config)


@pytest.fixture(scope="module")
def names():
    """What calls of Python may name."""
    bert, other = pico_model("bert"), pico_model("bert", seed=1)
    batches = pico_batches(bert)
    small, whole = (stat_repro.compress(bert, batches, ratio=ratio) for ratio in (0.3, 0.0))
    functions = {name: getattr(stat_repro, name) for name in stat_repro.__all__}
    made = {"bert": bert, "other": other, "batches": batches, "small": small, "whole": whole}
    return {**functions, **made, "prune_model": prune_model, "Linear": torch.nn.Linear}


@pytest.fixture
def commands(build, names):
    def in_process(work):
        return lambda given: guarded(lambda: work(*given) and None, lambda: "")

    return {
        "run.py": in_process(compose_run),
        "data": in_process(load_data),
        "stat_repro.sharded": sharded.main,
        "stat_repro.bench": bench.main,
        "stat_repro.assets": assets.main,
        "stat-repro": program.main,
        "paper_figures/build.py": build.main,
        "Python": in_process(lambda *call: eval(" ".join(call), names)),
    }


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command} {' '.join(case.given)}")
def test_a_bad_input_is_refused(case: Case, commands, inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in").symlink_to(inputs)
    before = files_below(inputs)
    given = list(case.given)
    if case.command == "paper_figures/build.py" and "--out" not in given:
        given += ["--out", "out"]
    try:
        status = commands[case.command](given)
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert "not foreseen" not in printed
    assert status == case.status, printed
    assert re.search(r"^(.*: )?error: ", printed, flags=re.MULTILINE), printed
    assert re.search(case.says, printed), printed
    assert files_below(inputs) == before
    assert os.listdir(tmp_path) == ["in"]


def test_the_table_is_long_enough_and_holds_every_command():
    counts = Counter(case.command for case in CASES)
    assert sum(counts.values()) >= 120
    assert len(set(CASES)) == len(CASES)


def test_the_page_of_what_was_tried_is_that_of_the_tables():
    docs = Path(__file__).resolve().parents[1] / "docs"
    written = (docs / "trust.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(docs / "trust.py"))["page"]() == written
