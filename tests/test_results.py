from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from made_up_records import make_config, make_failure, make_record

from stat_repro import results
from stat_repro.results import RecordError, RunRecord, StudyError, provenance, store

# The store


def test_saved_record_is_found_and_read(tmp_path: Path) -> None:
    record = make_record()
    assert results.find_record(tmp_path, "made_up", record.run_id) is None
    path = results.save_record(record, tmp_path)
    assert path == tmp_path / "made_up" / f"{record.run_id}.json"
    assert results.find_record(tmp_path, "made_up", record.run_id) == path
    assert results.load_records(tmp_path, "made_up") == [record]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_repeats_and_failures_have_files_of_their_own(tmp_path: Path) -> None:
    record, failure = make_record(), make_failure()
    paths = [results.save_record(r, tmp_path) for r in (record, record, record, failure, failure)]
    names = [str(p.relative_to(tmp_path / "made_up")) for p in paths]
    name = record.run_id
    assert names == [
        f"{name}.json",
        f"{name}.repeat-1.json",
        f"{name}.repeat-2.json",
        f"failed/{name}-1.json",
        f"failed/{name}-2.json",
    ]
    assert results.load_records(tmp_path, "made_up") == [record]
    assert results.load_records(tmp_path, "made_up", repeats=True) == [record] * 3
    assert results.load_records(tmp_path, "made_up", failed=True) == [record, failure, failure]
    assert results.find_record(tmp_path, "made_up", "other") is None


def test_failure_alone_is_not_a_stored_run(tmp_path: Path) -> None:
    failure = make_failure()
    results.save_record(failure, tmp_path)
    assert results.find_record(tmp_path, "made_up", failure.run_id) is None
    assert results.load_records(tmp_path, "made_up") == []


@pytest.mark.parametrize("links", [True, False])
def test_race_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(1, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    # Every thread believes that the name is free, as processes that look at once do.
    monkeypatch.setattr(Path, "exists", lambda self: False)
    made = [make_record(timings={"compress_s": float(i)}) for i in range(12)]
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda r: results.save_record(r, tmp_path), made))
    assert len(set(paths)) == len(made)
    assert sorted(results.read_record(p).timings["compress_s"] for p in paths) == list(range(12))
    assert len(list((tmp_path / "made_up").iterdir())) == len(made)


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        results.save_record(make_record(), tmp_path)
    assert list((tmp_path / "made_up").iterdir()) == []


# Values per example


def with_examples(values: list[float], **changes: object) -> tuple[RunRecord, bytes]:
    data = results.encode_examples({"kl": np.array(values, dtype=np.float32)})
    named = {"examples": results.describe_examples(data)}
    return make_record(provenance=named, **changes), data


def test_examples_are_stored_beside_their_record(tmp_path: Path) -> None:
    stored = [with_examples([0.5, math.inf]), with_examples([0.25, 1.0])]
    paths = [results.save_record(record, tmp_path, data) for record, data in stored]
    assert paths[1].name == f"{stored[0][0].run_id}.repeat-1.json"
    for path, (record, data) in zip(paths, stored, strict=True):
        beside = results.examples_path(path)
        assert beside.name == path.name.removesuffix(".json") + ".examples.safetensors"
        assert beside.read_bytes() == data
        found = results.read_examples(results.read_record(path), path)
        assert found is not None
        assert found["kl"].tolist() == results.read_examples(record, path)["kl"].tolist()
    assert results.read_examples(stored[0][0], paths[0])["kl"].tolist() == [0.5, math.inf]
    assert len(list((tmp_path / "made_up").iterdir())) == 4
    assert results.load_records(tmp_path, "made_up", repeats=True) == [r for r, _ in stored]


def test_a_record_without_examples_has_none(tmp_path: Path) -> None:
    record = make_record()
    assert results.read_examples(record, results.save_record(record, tmp_path)) is None
    switched_off = make_record(provenance={"examples": None})
    assert results.read_examples(switched_off, results.save_record(switched_off, tmp_path)) is None


def test_example_files_are_the_same_every_time() -> None:
    values = {
        "kl": np.arange(3, dtype=np.float32),
        "correct": np.array([1, 0, 1], dtype=np.uint8),
        "agree": np.array([1, 1, 1], dtype=np.uint8),
    }
    data = results.encode_examples(values)
    assert data == results.encode_examples(dict(reversed(values.items())))
    assert results.describe_examples(data) == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "values": ["agree", "correct", "kl"],
        "count": 3,
    }


@pytest.mark.parametrize(
    "values", [{}, {"kl": np.zeros(2), "correct": np.zeros(3)}, {"kl": np.zeros((2, 2))}]
)
def test_values_of_different_examples_are_refused(values: dict[str, np.ndarray]) -> None:
    with pytest.raises(RecordError, match="flat values of the same examples"):
        results.encode_examples(values)


def test_examples_that_the_record_does_not_name_are_refused(tmp_path: Path) -> None:
    record, data = with_examples([1.0])
    other = with_examples([2.0])[1]
    for pair in ((record, None), (record, other), (make_record(), data)):
        with pytest.raises(RecordError, match="expected a file with sha256"):
            results.save_record(pair[0], tmp_path, pair[1])
    assert list(tmp_path.iterdir()) == []
    path = results.save_record(record, tmp_path, data)
    results.examples_path(path).write_bytes(other)
    with pytest.raises(RecordError, match=r"examples\.safetensors.*expected a file with sha256"):
        results.read_examples(record, path)
    results.examples_path(path).unlink()
    with pytest.raises(RecordError, match=r"examples\.safetensors.*No such file"):
        results.read_examples(record, path)


def test_interrupted_write_leaves_neither_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, data = with_examples([1.0])
    publish, calls = store._publish, []

    def fail_second(temporary: Path, path: Path) -> bool:
        calls.append(path.name)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return publish(temporary, path)

    monkeypatch.setattr(store, "_publish", fail_second)
    with pytest.raises(OSError, match="No space"):
        results.save_record(record, tmp_path, data)
    assert calls == [f"{record.run_id}.examples.safetensors", f"{record.run_id}.json"]
    assert list((tmp_path / "made_up").iterdir()) == []


def test_values_without_a_record_are_not_replaced(tmp_path: Path) -> None:
    """They may be those of another process that is about to store its record."""
    record, data = with_examples([1.0])
    (tmp_path / "made_up").mkdir()
    foreign = tmp_path / "made_up" / f"{record.run_id}.examples.safetensors"
    foreign.write_bytes(b"another run")
    path = results.save_record(record, tmp_path, data)
    assert path.name == f"{record.run_id}.repeat-1.json"
    assert foreign.read_bytes() == b"another run"


def test_race_keeps_every_record_with_its_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    made = [
        with_examples([float(i)], timings={"compress_s": float(i)})
        if i % 3
        else (make_record(timings={"compress_s": float(i)}), None)
        for i in range(12)
    ]
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda pair: results.save_record(pair[0], tmp_path, pair[1]), made))
    assert len(set(paths)) == len(made)
    for i, path in enumerate(paths):
        found = results.read_examples(results.read_record(path), path)
        assert (None if found is None else found["kl"].tolist()) == ([i] if i % 3 else None)
    assert len(list((tmp_path / "made_up").iterdir())) == 12 + 8


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = results.save_record(make_record(), tmp_path)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(RecordError, match=path.name):
        results.load_records(tmp_path, "made_up")


def test_file_out_of_place_is_named(tmp_path: Path) -> None:
    path = results.save_record(make_record(), tmp_path)
    renamed = path.rename(path.with_name("another-id.json"))
    with pytest.raises(RecordError, match=r"another-id\.json.*belongs to run pico"):
        results.load_records(tmp_path, "made_up")
    (tmp_path / "made_up" / "failed").mkdir()
    renamed.rename(tmp_path / "made_up" / "failed" / path.name)
    with pytest.raises(RecordError, match="stored under made_up/"):
        results.load_records(tmp_path, "made_up", failed=True)


def test_unknown_study_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there are: none"):
        results.load_records(tmp_path / "nowhere", "x")
    results.save_record(make_failure(config=make_config(study="b_study")), tmp_path)
    results.save_record(make_record(config=make_config(study="a_study")), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match=r"'x'.*there are: a_study, b_study"):
        results.load_records(tmp_path, "x")


def test_frame_has_flat_rows() -> None:
    good = make_record(pruned={"accuracy": math.nan}, fidelity={"kl": math.inf, "agreement": None})
    frame = results.to_frame([good, make_failure()])
    first, second = frame.to_dict("records")
    assert first["run_id"] == good.run_id
    assert first["metrics.dense.accuracy"] == 0.9
    assert first["metrics.fidelity.kl"] == math.inf
    assert first["undefined"] == "metrics.pruned.accuracy"
    assert json.loads(first["metrics.protocol"]) == good.metrics["protocol"]
    assert first["config.pruning.allocation"] == "global"
    assert first["config.calibration.examples"] == 512
    assert first["costs.prunable_macs.pruned"] == 49
    assert second["status"] == "failed"
    assert second["error.message"] == "it broke\nhere"
    assert list(store.to_frame([]).columns)[:2] == ["run_id", "status"]


# Provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert provenance.git_state(tmp_path)["commit"] is None  # no commit yet
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False, "git_note": None}
    assert provenance.git_state(tmp_path) == clean
    (tmp_path / "results" / "study").mkdir(parents=True)
    (tmp_path / "results" / "study" / "new.json").write_text("{}")
    assert provenance.git_state(tmp_path) == clean
    (tmp_path / "method.py").write_text("y = 2\n")
    assert provenance.git_state(tmp_path) == {**clean, "dirty": True}
    (tmp_path / "method.py").unlink()
    (tmp_path / "code.py").write_text("x = 3\n")
    assert provenance.git_state(tmp_path) == {**clean, "dirty": True}
    # A folder inside a checkout is not that checkout.
    assert provenance.git_state(tmp_path / "results")["commit"] is None


def test_git_state_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    state = provenance.git_state(tmp_path)
    assert (state["commit"], state["dirty"]) == (None, None)
    assert "not a git repository" in state["git_note"]
    monkeypatch.setenv("PATH", "")
    assert "git could not be run" in provenance.git_state(tmp_path)["git_note"]


def test_collected_provenance_fits_a_record(tmp_path: Path) -> None:
    found = results.collect(
        device="cpu", dtypes={"model": "float32"}, data_hashes={"test": "ab"}, model_hash="cd"
    )
    again = RunRecord.from_json(make_record(provenance=found).to_json()).provenance
    assert again == found
    assert found["packages"]["numpy"] == np.__version__
    assert found["date"].endswith("+00:00")
    assert found["python"] == ".".join(str(n) for n in sys.version_info[:3])
    assert provenance.package_versions(("no-such-package",)) == {"no-such-package": None}


def test_hash_of_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    expected = hashlib.sha256(b"config.json\x002\x00{}model.safetensors\x007\x00weights")
    first = results.hash_files(tmp_path)
    assert first == expected.hexdigest()
    (tmp_path / "README.md").write_text("about")
    assert results.hash_files(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert results.hash_files(tmp_path) != first
    with pytest.raises(provenance.ProvenanceError, match="no folder"):
        results.hash_files(tmp_path / "missing")


# What is imported

HEAVY = """
import sys
assert "pandas" in sys.modules, "the statement did not import what it should"
print(sorted({"torch", "transformers", "wandb"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("statement", "light"),
    [
        ("import stat_repro.results, stat_repro.reporting, stat_repro.run.tracking", True),
        ("import runpy; runpy.run_path('paper_figures/build.py')", False),
    ],
)
def test_no_torch(statement: str, light: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "STAT_REPRO_LIGHT"}
    if light:  # build.py asks for it itself
        environment["STAT_REPRO_LIGHT"] = "1"
    command = [sys.executable, "-c", statement + HEAVY]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
