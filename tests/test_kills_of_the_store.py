"""Processes that are killed while they store a run: the next one ends as if nothing had happened.

A child is killed (see `kills`) at one of its changes of files. Two seeded ones of every case are
taken by default, a dozen in all; every one with

    STAT_REPRO_KILLS=all python -m pytest tests/test_kills_of_the_store.py tests/test_points.py

which adds those of a sweep that saves its models.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from faults import KILLS
from kills import KILLED, files, in_child, points_of
from made_up_records import make_failure, make_record

from stat_repro import results
from stat_repro.results import example_files
from stat_repro.results.store import claimed

DATA = example_files.encode_examples({"kl": np.array([0.5, 1.0], dtype=np.float32)})
RECORD = make_record(provenance={"examples": example_files.describe_examples(DATA)})


def measure(root: Path, record: results.RunRecord, data: bytes | None) -> None:
    """What the program does with a point."""
    with claimed(root, record.study, record.run_id) as stored:
        if stored is None:
            results.save_record(record, root, data)


def nothing(root: Path) -> None:
    """The study is empty."""


def damaged(root: Path) -> None:
    """The record is cut off, as by a full disk."""
    path = results.save_record(RECORD, root, DATA)
    path.write_bytes(path.read_bytes()[:-30])


def values_only(root: Path) -> None:
    """The values of another measurement, whose record was never written."""
    (root / RECORD.study).mkdir(parents=True)
    (root / RECORD.study / f"{RECORD.run_id}.examples.safetensors").write_bytes(b"cut off")


# By the names of the table: what is there, what is stored, on which kind of file system.
WORKS = {
    "record": (nothing, make_record(), None, True),
    "record and values": (nothing, RECORD, DATA, True),
    "record and values, no hard links": (nothing, RECORD, DATA, False),
    "record for a damaged one": (damaged, RECORD, DATA, True),
    "record for a damaged one, no hard links": (damaged, RECORD, DATA, False),
    "record beside values of another": (values_only, RECORD, DATA, True),
}
CASES = [kill for kill in KILLS if kill.test == Path(__file__).name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_after_a_kill_the_next_run_ends_as_one_without(case, tmp_path):
    before, record, data, links = WORKS[case.name]
    whole = tmp_path / "whole"
    before(whole)
    calls = in_child(lambda: measure(whole, record, data), links=links)
    assert 5 < calls < 100
    assert abs(calls - case.points) <= case.points / 4, calls
    assert results.load_records(whole, record.study) == [record]
    for point in points_of(calls, case.default):
        root = tmp_path / f"killed-{point}"
        before(root)
        assert in_child(lambda r=root: measure(r, record, data), point, links) == KILLED
        in_child(lambda r=root: measure(r, record, data), links=links)
        assert files(root) == files(whole), point


def test_a_killed_failure_is_stored_by_the_next_run(tmp_path):
    """What failed is tried again whether it was stored or not, so a second file may come of it."""
    failure = make_failure()
    for point in range(4, 12, 3):
        root = tmp_path / str(point)
        in_child(lambda r=root: measure(r, failure, None), point)
        in_child(lambda r=root: measure(r, failure, None))
        names = [Path(name).name for name in files(root)]
        endings = {f"{failure.run_id}-{k}.json" for k in (1, 2)}
        assert set(names) <= endings
        assert results.load_records(root, failure.study, failed=True)


def test_two_processes_measure_one_point_once(tmp_path):
    """The second one waits, and takes what the first one stored."""
    (tmp_path / "measured").mkdir()

    def slowly() -> None:
        with claimed(tmp_path / "results", RECORD.study, RECORD.run_id) as stored:
            if stored is None:
                (tmp_path / "measured" / str(os.getpid())).touch()
                time.sleep(0.2)
                results.save_record(RECORD, tmp_path / "results", DATA)

    child = os.fork()
    if child == 0:
        slowly()
        os._exit(0)
    slowly()
    assert os.waitpid(child, 0)[1] == 0
    assert len(list((tmp_path / "measured").iterdir())) == 1
    assert sorted(files(tmp_path / "results")) == [
        f"{RECORD.study}/{RECORD.run_id}.examples.safetensors",
        f"{RECORD.study}/{RECORD.run_id}.json",
    ]
