"""`python run.py` as a user types it, on tiny models and files."""

import hashlib
import json
from pathlib import Path

import pytest
from command_server import run_in_new_process
from pico_project import sentence_overrides, text_overrides

from stat_repro.config import ConfigError
from stat_repro.plan import PruningPlan
from stat_repro.run import cli

ROOT = Path(__file__).resolve().parents[1]


def records_in(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_a_sweep_from_another_directory_survives_a_failing_point(tmp_path):
    """The main job: two ratios, one bad point each way; all told at the end, exit status 1."""
    overrides = sentence_overrides(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    home = tmp_path / "home"
    elsewhere.mkdir()
    home.mkdir()
    done = run_in_new_process(
        ["-m", "ratio=0.3,0.5,1.5", "pruning.min_units=1,500", *overrides],
        elsewhere,
        HOME=str(home),
    )
    assert done.returncode == 1, done.stderr
    ok = records_in(tmp_path / "results" / "local")
    assert [record["ratio"] for record in ok] == [0.3, 0.5]
    for record in ok:
        assert record["status"] == "ok"
        assert 0 < 1 - record["ratio"] - record["mac_kept_fraction"] + 0.02 < 0.04
        assert record["param_kept_fraction"] < 1
        assert {"accuracy", "f1", "matthews"} <= set(record["metrics"]["pruned"])
        assert {"kl", "agreement"} <= set(record["metrics"]["fidelity"])
        assert record["timings"]["compress_s"] > record["timings"]["calibrate_s"] > 0
        assert record["provenance"]["packages"]["torch"]
        assert record["memory"]["process_peak_rss_bytes"] > 0
        beside = tmp_path / "results" / "local" / f"{record['run_id']}.examples.safetensors"
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
        assert record["provenance"]["examples"]["sha256"] == digest
    failed = records_in(tmp_path / "results" / "local" / "failed")
    assert [record["error"]["type"] for record in failed] == ["BudgetError"] * 2
    assert "4 of 6 points failed" in done.stdout
    assert "BudgetError" in done.stdout
    assert "0 <= ratio < 1 (share of the MACs removed); got 1.5" in done.stdout
    assert "accuracy" in done.stdout
    assert list(elsewhere.iterdir()) == []
    assert [p.relative_to(home) for p in home.rglob("*") if p.is_file()] == []


def test_language_model_run_saves_a_model_and_is_not_repeated(tmp_path, run):
    overrides = [*text_overrides(tmp_path), "ratio=0.2", f"save_to={tmp_path / 'models'}"]
    first = run(overrides, tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    (record,) = records_in(tmp_path / "results" / "local")
    assert record["metrics"]["protocol"]["tokens_per_window"] == 16
    assert record["metrics"]["pruned"]["perplexity"] > 1
    saved = tmp_path / "models" / record["run_id"]
    assert {"model.safetensors", "plan.json", "run_config.json", "README.md"} <= {
        path.name for path in saved.iterdir()
    }
    assert record["plan"]["plan_version"] == 2
    plan = PruningPlan.from_json((saved / "plan.json").read_text())
    assert PruningPlan.from_dict(record["plan"]) == plan
    again = run(overrides, tmp_path)
    assert again.returncode == 0
    assert "already stored" in again.stdout + again.stderr
    assert len(records_in(tmp_path / "results" / "local")) == 1
    repeated = run([*overrides, "if_stored=repeat", "save_to=null"], tmp_path)
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    records = records_in(tmp_path / "results" / "local")
    assert len(records) == 2
    assert records[0]["run_id"] == records[1]["run_id"]
    assert records[0]["metrics"] == records[1]["metrics"]


def test_a_stored_run_is_still_saved_when_a_model_is_asked_for(tmp_path, run):
    overrides = [*sentence_overrides(tmp_path), "ratio=0.2"]
    assert run(overrides, tmp_path).returncode == 0
    saving = [*overrides, f"save_to={tmp_path / 'models'}"]
    assert run(saving, tmp_path).returncode == 0
    (record,) = records_in(tmp_path / "results" / "local")  # it is not measured again
    saved = tmp_path / "models" / record["run_id"]
    assert (saved / "model.safetensors").is_file()
    plan = PruningPlan.from_json((saved / "plan.json").read_text())
    assert PruningPlan.from_dict(record["plan"]) == plan
    # Asked again, also for a repeat, nothing is lost and nothing is overwritten.
    before = (saved / "model.safetensors").stat().st_mtime_ns
    assert run([*saving, "if_stored=repeat"], tmp_path).returncode == 0
    assert len(records_in(tmp_path / "results" / "local")) == 2
    assert (saved / "model.safetensors").stat().st_mtime_ns == before


def test_a_taken_place_is_told_before_the_work(tmp_path, run):
    overrides = [*sentence_overrides(tmp_path), "ratio=0.2"]
    assert run(overrides, tmp_path).returncode == 0
    (record,) = records_in(tmp_path / "results" / "local")
    taken = tmp_path / "models" / record["run_id"]
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("mine")
    done = run([*overrides, f"save_to={tmp_path / 'models'}"], tmp_path)
    assert done.returncode == 1
    assert "is no whole saved model" in done.stdout
    assert [p.name for p in taken.iterdir()] == ["notes.txt"]


def test_other_content_under_the_same_names_is_another_run(tmp_path, run):
    overrides = [*sentence_overrides(tmp_path), "ratio=0.2"]
    assert run(overrides, tmp_path).returncode == 0
    table = tmp_path / "test.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:20]) + "\n")
    done = run(overrides, tmp_path)
    assert done.returncode == 0
    assert "already stored" not in done.stdout + done.stderr
    records = records_in(tmp_path / "results" / "local")
    assert sorted(r["metrics"]["protocol"]["examples"] for r in records) == [19, 30]


def test_a_damaged_record_is_set_aside_and_hides_no_failure(tmp_path, run):
    overrides = sentence_overrides(tmp_path)
    assert run([*overrides, "ratio=0.2"], tmp_path).returncode == 0
    (path,) = (tmp_path / "results" / "local").glob("*.json")
    damaged = path.read_text()[:-30]
    path.write_text(damaged)
    done = run(["-m", "ratio=0.2,1.5", *overrides], tmp_path)
    assert done.returncode == 1
    assert f"damaged, now {path.name}.damaged-1 and to be measured again" in done.stdout
    assert path.with_name(f"{path.name}.damaged-1").read_text() == damaged
    assert json.loads(path.read_text())["status"] == "ok"
    assert "1 of 2 points failed" in done.stdout


@pytest.mark.parametrize(
    "given", ["study=true", "model.name=1e3", "++dataset.name=7", "results=2026_11"]
)
def test_names_are_as_they_are_typed(given):
    key, _, typed = given.partition("=")
    with pytest.raises(ConfigError, match=f"{key.strip('+')}: expected a text; got {typed}"):
        cli._check_names(["ratio=0.5", given])
    others = ["study=007", "model.name=${dataset.name}", "seed=1", "save_to=null"]
    cli._check_names([f"{key}='{typed}'", *others])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rato=0.3"], "rato"),
        (["+rato=0.3"], "rato"),
        (["ratio=1.5"], "0 <= ratio < 1"),
        (
            ["study=2026_11_27"],
            "got 2026_11_27, which Hydra reads as 20261127",
        ),
        (["model=hf", "model.path=./nowhere"], "no such folder"),
        (["model=hf"], "model.path=<value>"),
        (["sweep=tabel1"], "tabel1"),
        (["device=cuda:9"], "available"),
        (["-m", "--cfg", "job"], "; --cfg job without -m shows a single run"),
    ],
)
def test_bad_command_lines_end_with_one_message_and_status_1(arguments, message, tmp_path, run):
    places = [f"results={tmp_path}", "tracking=disabled", f"hydra.run.dir={tmp_path}"]
    done = run([*arguments, *places], tmp_path)
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
