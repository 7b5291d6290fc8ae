"""The account of a sweep: told and counted whatever becomes of its points and its files."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from made_up_records import make_config, make_record
from pico_config import CONF

from stat_repro.config import RunConfig
from stat_repro.entry import guarded
from stat_repro.results import save_record
from stat_repro.run import account, cli
from stat_repro.run.account import Outcome, Sweep


@pytest.fixture
def keeps(tmp_path, monkeypatch):
    """`keeps(num, folder, outcome, sweep)`: how a point ended, by number, folder and sweep."""

    def keeps(num, folder, outcome, sweep=None):
        name = sweep.name if sweep else "another"
        monkeypatch.setenv(account.NAME_VARIABLE, name)
        hydra = SimpleNamespace(
            runtime=SimpleNamespace(output_dir=tmp_path / "hydra" / folder),
            job=SimpleNamespace(num=num),
        )
        monkeypatch.setattr(account.HydraConfig, "get", lambda: hydra)
        account.keep(outcome)
        return tmp_path / "hydra" / folder / f"outcome-{name}-{num}.json"

    return keeps


@pytest.fixture
def ends(tmp_path, monkeypatch, capsys, keeps):
    """`ends(points, outcomes)`: a sweep of so many points; is all well, and what it says."""

    def of(points, *outcomes):
        sweep = Sweep(tmp_path / "hydra", points)
        monkeypatch.setattr(account, "_sweep", sweep)
        for num, outcome in enumerate(outcomes):
            keeps(num, str(num), outcome, sweep)
        return account.tell(), capsys.readouterr().out

    return of


def stored(tmp_path, **changes):
    path = save_record(make_record(**changes), tmp_path / "results")
    return Outcome(f"ratio={changes.get('ratio')}", "ok", str(path), None)


FAILED = Outcome("ratio=1.5", "failed", None, "ConfigError: no")


def test_a_good_sweep_shows_its_table(ends, tmp_path):
    good, text = ends(2, stored(tmp_path, ratio=0.3), stored(tmp_path, ratio=0.5))
    assert good
    assert "0.3" in text
    assert text.count(".json") == 2


def test_runs_that_several_points_name_are_shown_once_and_studies_apart(ends, tmp_path):
    outcome = stored(tmp_path, ratio=0.3)
    again = stored(tmp_path, ratio=0.3)  # if_stored=repeat
    other = stored(tmp_path, ratio=0.3, config=make_config(study="other"))
    good, text = ends(4, outcome, replace(outcome, status="stored"), again, other)
    assert good
    for study in ("made_up", "other"):
        assert text.count(f"study {study}:\n\nmodel ") == 1
    assert text.count("0.3 ") == 2
    files = [line.strip() for line in text.partition("records:\n")[2].splitlines()]
    assert files == [outcome.record, again.record, other.record]


def test_a_failed_point_is_told_and_counted(ends, tmp_path):
    good, text = ends(2, stored(tmp_path, ratio=0.3), FAILED)
    assert not good
    assert "1 of 2 points failed:\n  ratio=1.5: ConfigError: no" in text


def test_a_point_without_an_outcome_is_told(ends, tmp_path):
    good, text = ends(3, stored(tmp_path, ratio=0.3))
    assert not good
    assert "2 of 3 points did not say how they ended" in text
    assert ends(None, stored(tmp_path, ratio=0.5))[0]  # a sweeper that keeps the number to itself


@pytest.mark.parametrize(
    "folders", [("0", "1"), ("run_0", "run_1"), ("a/ratio=0.3", "b"), ("", "")]
)
def test_points_of_other_processes_are_read_whatever_their_folders_are(
    folders, ends, keeps, tmp_path
):
    sweep = Sweep(tmp_path / "hydra", 2)
    keeps(0, folders[0], stored(tmp_path, ratio=0.3), sweep)
    keeps(1, folders[1], FAILED, sweep)
    assert [o.status for o in sweep.all_outcomes()] == ["ok", "failed"]


def test_outcomes_of_an_earlier_sweep_do_not_count(ends, keeps, tmp_path):
    keeps(0, "0", FAILED)
    keeps(1, "1", FAILED)
    good, text = ends(1, stored(tmp_path, ratio=0.3))
    assert good
    assert "failed" not in text


def test_two_sweeps_at_once_in_one_folder_keep_their_outcomes_apart(keeps, tmp_path):
    sweeps = [Sweep(tmp_path / "hydra", 1) for _ in range(2)]
    keeps(0, "0", FAILED, sweeps[0])
    keeps(0, "0", stored(tmp_path, ratio=0.3), sweeps[1])
    assert [[o.status for o in sweep.all_outcomes()] for sweep in sweeps] == [["failed"], ["ok"]]


@pytest.mark.parametrize("text", ["", '{"point": "x"', "[]", '{"point": "x"}', "\udcff"])
def test_a_torn_outcome_is_a_failure(text, keeps, tmp_path):
    sweep = Sweep(tmp_path / "hydra", 1)
    keeps(0, "0", FAILED, sweep).write_bytes(text.encode("utf-8", "surrogateescape"))
    (outcome,) = sweep.all_outcomes()
    assert outcome.status == "failed"
    assert f"outcome-{sweep.name}-0.json" in outcome.point
    assert "cannot be read" in outcome.error


def test_an_outcome_that_cannot_be_written_stops_nothing(keeps, tmp_path, caplog):
    (tmp_path / "hydra").write_text("a file in the way")
    keeps(0, "0", FAILED)
    assert "cannot be kept" in caplog.text


def test_text_for_a_number_in_a_record_reaches_the_exit_status(ends, tmp_path):
    outcome = stored(tmp_path, ratio=0.3)
    path = Path(outcome.record)
    data = json.loads(path.read_text())
    data["timings"]["compress_s"] = "quick"
    del data["content"]
    path.write_text(json.dumps(data))
    good, text = ends(1, outcome)
    assert not good
    assert "no table: RecordError" in text
    assert f"records:\n  {path}\n" in text
    assert "timings.compress_s: expected a number or null; got 'quick'" in text


@pytest.mark.parametrize(
    ("end", "status", "told"),
    [
        (
            KeyboardInterrupt(),
            130,
            "interrupted: 1 of 3 points are stored; the same command goes on",
        ),
        (SystemExit(1), 1, "2 of 3 points did not say how they ended"),
        (OSError(28, "No space left on device"), 1, "1 of 3 points did not say how they ended"),
    ],
)
def test_a_sweep_that_ends_early_says_how_far_it_came(
    end, status, told, tmp_path, monkeypatch, capsys, keeps
):
    def sweep():
        monkeypatch.setattr(account, "_sweep", one := Sweep(tmp_path / "hydra", 3))
        keeps(0, "0", stored(tmp_path, ratio=0.3), one)
        if isinstance(end, OSError):
            keeps(1, "1", FAILED, one)
        raise end

    try:
        ended = guarded(lambda: cli._run_and_tell(sweep), account.so_far)
    except SystemExit as left:
        ended = left.code
    printed = capsys.readouterr()
    assert ended == status
    assert told in printed.out + printed.err
    if status == 130:
        assert printed.out + printed.err == f"{told}\n"


def test_a_sweep_that_cannot_be_accounted_for_does_not_start(monkeypatch):
    def broken(config):
        raise ValueError("no such thing")

    monkeypatch.setattr(account.launchers, "check", broken)
    with pytest.raises(SystemExit, match="no sweep: ValueError: no such thing"):
        account.SweepAccount().on_multirun_start(None)


@pytest.mark.parametrize(
    ("overrides", "points"),
    [
        (["ratio=0.3,0.5", "seed=range(3)"], 6),
        (["ratio=0.3"], 1),
        (["study=${dataset.name}", "ratio=0.3,0.5"], 2),
        (["study=${nope}"], 1),
        (["sweep=movie_reviews_minilm", "ratio=0.3", "seed=0"], 2),
        (["seed=glob(*)"], None),
    ],
)
def test_points_are_counted_as_hydra_counts_them(overrides, points):
    assert account._points(composed(overrides)) == points


def composed(overrides):
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    sweep = [one for one in overrides if re.fullmatch(r"sweep=\w+", one)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=sweep, return_hydra_config=True)
    config.hydra.overrides.task = overrides
    return config


@pytest.mark.parametrize(
    "swept",
    [
        "sweep=movie_reviews_minilm,stsb_similarity",
        "sweep=choice(cost_minilm,stsb_similarity)",
        "sweep=glob(*)",
        "launcher=basic,joblib",
    ],
)
def test_a_command_has_one_stored_study_and_one_launcher(swept):
    """Hydra takes both from the command as a whole: every point would be the usual run."""
    key, _, values = swept.partition("=")
    with pytest.raises(SystemExit) as refused:
        account._points(composed(["ratio=0.3,0.5", swept]))
    assert f"{key}: expected one per command; got {values}; choose" in str(refused.value)


def test_a_stored_study_is_no_single_run():
    with pytest.raises(SystemExit, match="sweep=cost_minilm: expected a sweep"):
        account.SweepAccount().on_run_start(composed(["sweep=cost_minilm"]))
    account.SweepAccount().on_run_start(composed(["ratio=0.3"]))
