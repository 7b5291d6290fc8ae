"""Records on disk: found, repeated, raced for, damaged; and as a table."""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_up_records import make_config, make_failure, make_record

from stat_repro import results
from stat_repro.results import RecordError, StudyError, store


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
    for name in ("x", "", ".", "a_study/"):
        with pytest.raises(StudyError, match=rf"'{name}'.*there are: a_study, b_study"):
            results.load_records(tmp_path, name)


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
