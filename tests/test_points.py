"""One point of the program: what is stored in which order, once, whoever else is at work."""

import runpy
import shutil
import threading
import time
from pathlib import Path

import pytest
from faults import KILLS
from kills import KILLED, files, in_child, points_of
from made_up_records import make_config, make_record

from stat_repro.config import ConfigError, TrackingConfig
from stat_repro.results import load_records
from stat_repro.run import pipeline, points
from stat_repro.run.pipeline import Experiment
from stat_repro.surgery.checkpoint import complete_folder

MODEL = ("model.safetensors", "plan.json")


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """`project(**settings)` runs a point whose stages are made up; what was done, in order."""
    done = []

    def experiment(config, cache, name):
        done.append("measured")
        time.sleep(0.05)
        return Experiment(make_record(config=config, ratio=config.ratio), None, None, None)

    def save(config, experiment, folder):
        done.append("saved")
        with complete_folder(folder) as partial:
            for name in MODEL:
                (partial / name).write_text("{}")

    def again(config, cache, record, folder):
        assert record.run_id == folder.name
        save(config, None, folder)

    monkeypatch.setattr(pipeline, "run_experiment", experiment)
    monkeypatch.setattr(pipeline, "save_model", save)
    monkeypatch.setattr(pipeline, "save_stored", again)

    def point(**settings):
        places = {"results": str(tmp_path / "results"), "save_to": str(tmp_path / "models")}
        places["tracking"] = TrackingConfig(mode="disabled")
        return points.run("a point", make_config(**(places | settings)))

    point.done = done
    return point


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def dies(*arguments, **options):
    raise Killed


@pytest.mark.parametrize(
    ("place", "then"),
    [
        ("stat_repro.run.pipeline.run_experiment", ["measured", "saved"]),
        ("stat_repro.run.pipeline.save_model", ["measured", "measured", "saved"]),
        ("stat_repro.results.store.save_record", ["measured", "saved", "measured"]),
        ("stat_repro.run.tracking.mirror", ["measured", "saved"]),
    ],
)
def test_a_point_that_is_killed_anywhere_ends_as_one_that_is_not(
    place, then, project, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(place, dies)
        with pytest.raises(Killed):
            project()
    assert project().error is None
    assert project.done == then
    (record,) = load_records(tmp_path / "results", "made_up", failed=True, repeats=True)
    assert names(tmp_path) == [
        *(f"models/{record.run_id}/{name}" for name in MODEL),
        f"results/made_up/{record.run_id}.json",
    ]


def test_a_sweep_that_is_killed_goes_on(project, tmp_path):
    """At two of its changes of files, or at all of them with STAT_REPRO_KILLS=all."""
    (case,) = (kill for kill in KILLS if kill.name == "sweep")

    def sweep(name):
        places = {key: str(tmp_path / name / key) for key in ("results", "save_to")}
        for ratio in (0.3, 0.5):
            assert project(ratio=ratio, **places).error is None

    calls = in_child(lambda: sweep("whole"))
    assert len(files(tmp_path / "whole")) == 6
    assert abs(calls - case.points) <= case.points / 4, calls
    for point in points_of(calls, case.default):
        assert in_child(lambda k=point: sweep(str(k)), point) == KILLED
        in_child(lambda k=point: sweep(str(k)))
        assert files(tmp_path / str(point)).keys() == files(tmp_path / "whole").keys(), point


def test_a_full_disk_for_the_model_costs_no_measurement(project, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "save_model", full)
        outcome = project()
    assert outcome.status == "failed"
    assert "the record is stored, but not the model: OSError" in outcome.error
    assert project().status == "stored"
    assert project().status == "stored"
    assert project.done == ["measured", "saved"]
    assert len(load_records(tmp_path / "results", "made_up", failed=True, repeats=True)) == 1


@pytest.mark.parametrize("lost", MODEL)
def test_what_is_left_of_a_model_is_told(lost, project, tmp_path):
    folder = tmp_path / "models" / Path(project().record).stem
    (folder / lost).unlink()
    with pytest.raises(ConfigError, match=f"save_to: {folder} exists and is no whole saved model"):
        project()
    shutil.rmtree(folder)
    assert project().status == "stored"
    assert sorted(path.name for path in folder.iterdir()) == list(MODEL)


def test_a_record_that_is_a_link_to_nowhere_is_told(project, tmp_path):
    """As of results in another store that is not there; measured again it would stay so."""
    path = Path(project().record)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=str(path)):
        project()
    assert project.done == ["measured", "saved"]


def test_a_point_in_two_processes_is_measured_once(project, tmp_path, caplog):
    caplog.set_level("INFO")
    outcomes = []
    both = [threading.Thread(target=lambda: outcomes.append(project())) for _ in range(3)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(outcome.status for outcome in outcomes) == ["ok", "stored", "stored"]
    assert project.done == ["measured", "saved"]
    assert "waiting for another process that is measuring it" in caplog.text
    assert len(names(tmp_path / "results")) == 1
    assert project(if_stored="repeat").record.endswith(".repeat-1.json")


def test_the_commit_is_asked_for_when_the_code_is_loaded(monkeypatch):
    asked = []
    monkeypatch.setattr("stat_repro.results.provenance.code_state", lambda: asked.append(1))
    runpy.run_path(points.__file__)
    assert asked == [1]


def test_a_record_is_found_from_another_working_folder(project, tmp_path, monkeypatch):
    for folder in ("0", "1"):  # as `hydra.job.chdir=true` does
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        assert project(results="mine").record.startswith(str(tmp_path / folder / "mine"))


def test_failed_runs_are_mirrored_too(project, tmp_path, monkeypatch):
    def fails(*arguments):
        raise ValueError("it broke")

    mirrored = []
    monkeypatch.setattr(pipeline, "run_experiment", fails)
    monkeypatch.setattr(points.tracking, "mirror", lambda *given: mirrored.append(given))
    tracking = TrackingConfig(project="p")
    assert project(tracking=tracking).status == "failed"
    assert mirrored == [(*load_records(tmp_path / "results", "made_up", failed=True), tracking)]


def test_stored_points_need_no_place_to_write(project, monkeypatch):
    project()
    monkeypatch.setattr("stat_repro.results.store.locked", dies)
    assert project().status == "stored"


def test_an_unwritable_study_is_told_before_the_work(project, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "made_up").write_text("a file in the way")
    with pytest.raises(OSError, match="made_up"):
        project()
    assert project.done == []
