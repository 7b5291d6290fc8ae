from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import made_up_examples as made
import pytest
from made_up_records import (
    cost_entry,
    language_record,
    make_config,
    make_failure,
    make_record,
    measured_record,
    sweep,
)
from matplotlib import font_manager

from stat_repro import results
from stat_repro.config import CalibrationConfig
from stat_repro.results import example_files

ROOT = Path(__file__).parents[1]


def store(folder: Path, *records: results.RunRecord) -> None:
    for record in records:
        results.save_record(record, folder)


def outputs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_build_is_complete_and_the_same_every_time(
    tmp_path: Path, build: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [*sweep({0.3: [0.8, 0.9], 0.5: [0.7, 0.6]}), language_record(61.5)]
    store(tmp_path / "results", *records)
    other = make_config(study="second", calibration=CalibrationConfig(examples=64))
    store(tmp_path / "results", make_record(config=other), make_failure(config=other, ratio=0.9))
    arguments = ["--results", str(tmp_path / "results"), "--out"]
    assert build.main([*arguments, str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert "study made_up: 5 runs" in printed
    assert "study second: 1 runs" in printed
    assert "1 failed runs are not shown" in printed
    assert "ValueError: it broke" in printed
    assert str(tmp_path / "a" / "made_up") in printed
    first = outputs(tmp_path / "a" / "made_up")
    names = [f"figure_pico_{q}" for q in ("metric", "kl")]
    figures = {f"{name}.{ending}" for name in names for ending in ("pdf", "png", "csv")}
    endings = ("md", "tex", "csv", "sources.csv")
    tables = {f"{name}.{ending}" for name in ("table", "table_tasks") for ending in endings}
    assert set(first) == {*tables, "captions.md", *figures}
    captions = first["captions.md"].decode()
    assert all(f"## {name}\n\npico: " in captions for name in names)
    assert 'Protocol of all: join="\\n", split="test"' in captions
    for name in ("table.md", "table.tex", "table.csv"):
        text = first[name].decode()
        assert all(record.run_id in text.replace("\\_", "_") for record in records)
        assert 'split="test"' in text
    digest = first["table.md"].decode().partition("sorted ids ")[2][:16]
    assert digest.encode() in first["table.tex"]

    # In a new process, with another seed of Python's hash, settings of matplotlib that are the
    # user's, and neither torch nor transformers.
    code = "import runpy, sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
    code += "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    script = str(ROOT / "paper_figures" / "build.py")
    command = [sys.executable, "-c", code, script, *arguments]
    (tmp_path / "matplotlibrc").write_text("font.family: serif\nlines.linewidth: 7\n")
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "b"), "--study", "made_up"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path / "b" / "made_up") == first
    assert not (tmp_path / "b" / "second").exists()


def test_letters_are_those_of_matplotlib_whatever_the_system_calls_dejavu_sans(
    tmp_path: Path, build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "results", *sweep({0.3: [0.8, 0.9]}))
    arguments = ["--results", str(tmp_path / "results"), "--out"]
    assert build.main([*arguments, str(tmp_path / "a")]) == 0
    fonts = font_manager.fontManager
    others = [
        replace(font, name="DejaVu Sans") for font in fonts.ttflist if font.name == "DejaVu Serif"
    ]
    ours = [font for font in fonts.ttflist if font.name != "DejaVu Sans"]
    assert others
    monkeypatch.setattr(fonts, "ttflist", others + ours)
    fonts._findfont_cached.cache_clear()
    assert build.main([*arguments, str(tmp_path / "b")]) == 0
    assert outputs(tmp_path / "b" / "made_up") == outputs(tmp_path / "a" / "made_up")


def test_build_adds_costs_of_the_runs_that_measured_them(tmp_path: Path, build: ModuleType) -> None:
    record = measured_record(cost_entry(0.5, 1.25), ratio=0.3)
    store(tmp_path / "results", make_record(), record)
    arguments = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert build.main(arguments) == 0
    files = outputs(tmp_path / "out" / "made_up")
    assert {name for name in files if "cost" in name or "speedup" in name} == {
        *(f"table_cost.{ending}" for ending in ("md", "tex", "csv", "sources.csv")),
        *(f"figure_pico_reviews_speedup.{ending}" for ending in ("pdf", "png", "csv")),
    }
    for name in ("table_cost.sources.csv", "figure_pico_reviews_speedup.csv"):
        assert files[name].decode().endswith(f",{record.run_id}\n")
    text = files["table_cost.md"].decode()
    assert "1.25 (1.15 to 1.45)" in text
    assert f"record {record.run_id}" in text
    assert make_record().run_id not in text


def test_build_compares_variants_that_have_values_per_example(
    tmp_path: Path, build: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, method in enumerate(("stat", "flap", "magnitude")):
        for seed in (0, 1):
            record, data = made.run(made.sentences(i, 0.8 - i / 20, 0.05 + i), method, seed=seed)
            results.save_record(record, tmp_path / "results", data)
    arguments = ["--results", str(tmp_path / "results"), "--out"]
    assert build.main([*arguments, str(tmp_path / "a")]) == 0
    first = outputs(tmp_path / "a" / "made_up")
    names = {f"table_comparison.{ending}" for ending in ("md", "tex", "csv", "sources.csv")}
    assert {name for name in first if "comparison" in name} == names
    text = first["table_comparison.md"].decode()
    assert "reference of reviews (pico): STAT" in text
    assert "| FLAP | 0.5 | 2 | 400 | +0.00 | accuracy (%) |" in text
    assert f"record {record.run_id}" in text
    for name in names:
        assert b"magnitude" in first[name]
    assert build.main([*arguments, str(tmp_path / "b")]) == 0
    assert outputs(tmp_path / "b" / "made_up") == first
    # Another reference, and one that is not there.
    flap = ["--reference", "FLAP"]
    assert build.main([*arguments, str(tmp_path / "c"), *flap]) == 0
    text = (tmp_path / "c" / "made_up" / "table_comparison.md").read_text()
    assert "reference of reviews (pico): FLAP" in text
    capsys.readouterr()
    assert build.main([*arguments, str(tmp_path / "d"), "--reference", "flap"]) == 1
    assert "reference: expected one of FLAP;" in capsys.readouterr().err
    # A file of values that is not the record's own is no basis for a comparison.
    path = tmp_path / "results" / "made_up" / f"{record.run_id}.examples.safetensors"
    path.write_bytes(example_files.encode_examples(made.sentences(7, 0.8, 0.05)))
    assert build.main([*arguments, str(tmp_path / "e")]) == 1
    assert f"{path}: {record.run_id}: provenance.examples" in capsys.readouterr().err


def test_build_writes_only_where_it_says(tmp_path: Path) -> None:
    store(tmp_path / "results", make_record())
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("MPLCONFIGDIR",)}
    environment |= {"HOME": str(home), "STAT_REPRO_CACHE": str(tmp_path / "cache")}
    environment |= {"XDG_CACHE_HOME": str(home / "c"), "XDG_CONFIG_HOME": str(home / "d")}
    command = [sys.executable, str(ROOT / "paper_figures" / "build.py")]
    command += ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} == {"results", "out", "cache", "home"}
    assert (tmp_path / "cache" / "matplotlib").is_dir()


def test_build_without_records_fails_clearly(
    tmp_path: Path, build: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert build.main(arguments) == 1
    assert "no table or figure was built" in capsys.readouterr().err
    store(tmp_path / "results", make_failure())
    assert build.main(arguments) == 1
    assert "no successful run to show, 1 failed" in capsys.readouterr().err
    store(tmp_path / "results", make_record(config=make_config(study="fine")))
    assert build.main([*arguments, "--study", "fin"]) == 1
    error = capsys.readouterr().err
    assert "'fin': not found" in error
    assert "no table or figure was built" not in error  # there is a record
    assert not (tmp_path / "out").exists()
    # A local study in which everything failed does not spoil the others, unless asked for.
    assert build.main(arguments) == 0
    assert build.main([*arguments, "--study", "fine", "--study", "made_up"]) == 1
    shutil.rmtree(tmp_path / "out")


def test_build_of_a_damaged_study_names_the_file_and_builds_the_others(
    tmp_path: Path, build: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    store(root, make_record(config=make_config(study="fine")))
    path = results.save_record(make_record(), root)
    path.write_text("{}")
    assert build.main(["--results", str(root), "--out", str(tmp_path / "out")]) == 1
    assert str(path) in capsys.readouterr().err
    assert (tmp_path / "out" / "fine" / "table.md").is_file()


def test_an_interrupted_build_waits_for_no_study_that_has_not_begun(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def __init__(self, jobs: int, context: object) -> None:
            super().__init__(jobs)

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            go.set()
            super().shutdown()

    monkeypatch.setattr(build, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(build, "build_study", lambda _, study: begun.append(study) or go.wait(9))
    studies = [f"study_{i}" for i in range(20)]
    options = build._parse(["--jobs", "2", "--study", *studies])
    waiting = build._started(options)
    next(waiting)
    waiting.close()
    assert len(begun) == 2
