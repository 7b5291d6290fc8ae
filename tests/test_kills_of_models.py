"""Processes that are killed while they fetch, train, prune or save: the same command goes on.

Afterwards every file is that of an undisturbed run, byte for byte, and nothing else is there. Right
after the kill, what has its final name is whole. A few points of every case by default, all with

    STAT_REPRO_KILLS=all python -m pytest tests/test_kills_of_models.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import KILLS
from kills import KILLED, files, in_child, points_of
from works import make_works, write_sources


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield make_works(write_sources(tmp_path_factory.mktemp("source")), patch)


CASES = [kill for kill in KILLS if kill.test == Path(__file__).name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_after_a_kill_the_next_command_ends_as_one_without(case, works, tmp_path):
    work = works[case.name]

    def again(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        work.before(root)
        return root

    old, whole = files(again("before")), again("whole")
    points = in_child(lambda: work.do(whole))
    assert abs(points - case.points) <= case.points / 4, points
    expected = files(whole)
    for point in points_of(points, case.default):
        root = again(str(point))
        assert in_child(lambda r=root: work.do(r), point) == KILLED
        for name, content in files(root).items():
            final = ".tmp" not in name and not name.endswith(".lock")
            assert not final or content in (expected.get(name), old.get(name)), (point, name)
        if files(root) != expected:
            in_child(lambda r=root: work.do(r))
        assert files(root) == expected, point
