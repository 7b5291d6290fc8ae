"""Every row of the table of faults: the exit status, what is said, and that nothing is lost."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from disks import at_once, full, read_only, usual
from faults import FAULTS, KILLS, OTHERS
from kills import files
from works import make_works, write_sources

from stat_repro.calibration.spill import FileStore
from stat_repro.scratch import locked


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def works(source):
    with pytest.MonkeyPatch.context() as patch:
        yield make_works(source, patch)


def of(fault):
    cases = [case for case in FAULTS if case.fault == fault]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def done(work, root, disk=usual, count=1):
    """A work in so many processes; how the last of them ended, by status."""
    ended = at_once(count, root, lambda: work.do(root), lambda: work.before(root), disk)
    assert not any("Traceback" in one.said or "not foreseen" in one.said for one in ended)
    return max(ended, key=lambda one: one.status)


def expect(case, ended):
    assert ended.status == case.status, ended.said
    assert re.search(case.says, ended.said), ended.said
    lines = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    assert len(lines) == (case.status == 1), ended.said


def before(work, tmp_path):
    """The files that a work finds."""
    (tmp_path / "before").mkdir()
    work.before(tmp_path / "before")
    return files(tmp_path / "before")


def undisturbed(work, tmp_path):
    """The files that it leaves."""
    (tmp_path / "whole").mkdir()
    ended = done(work, tmp_path / "whole")
    assert ended.status == 0, ended.said
    return ended.files


@of("full disk")
def test_a_full_disk(case, works, root, tmp_path):
    ended = done(works[case.name], root, full)
    expect(case, ended)
    old = before(works[case.name], tmp_path)
    assert ended.files == ({} if case.name.startswith("asset") else old)


@of("read-only folder")
def test_a_read_only_folder(case, works, root, tmp_path):
    ended = done(works[case.name], root, read_only)
    expect(case, ended)
    assert ended.files == before(works[case.name], tmp_path)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize(
    ("case", "damage"),
    [
        pytest.param(case, damage, id=f"{case.name}-{damage.__name__}")
        for fault, damage in (("truncated file", cut), ("flipped bit", flip))
        for case in FAULTS
        if case.fault == fault
    ],
)
def test_damaged_files_are_made_again(case, damage, works, root):
    whole = done(works[case.name], root).files
    for name in sorted(whole):
        if "partial" in name or "downloads" in name or name.endswith("manifest.json"):
            continue
        damage(root / name)
        ended = at_once(1, root, lambda: works[case.name].do(root), lambda: None)[0]
        expect(case, ended)
        assert {k: v for k, v in ended.files.items() if ".damaged-" not in k} == whole
        if case.name == "store":
            assert any(".damaged-" in k for k in ended.files)
            for path in root.rglob("*.damaged-*"):
                path.unlink()


@of("truncated input")
def test_a_truncated_checkpoint(case, works, source, root):
    weights = source / "llama" / "model.safetensors"
    content = weights.read_bytes()
    try:
        cut(weights)
        ended = done(works[case.name], root)
    finally:
        weights.write_bytes(content)
    expect(case, ended)
    assert ended.files == {}


@of("truncated spill file")
def test_a_truncated_spill_file(case, works, root, monkeypatch):
    get = FileStore.get

    def torn(self, name):
        if name.startswith("gram"):
            cut(self._path(name))
        return get(self, name)

    monkeypatch.setattr(FileStore, "get", torn)
    ended = done(works[case.name], root)
    expect(case, ended)
    assert ended.files == {}


@of("lock of a dead process")
def test_a_lock_of_a_dead_process(case, works, root, tmp_path):
    whole = undisturbed(works[case.name], tmp_path)
    (root / "made_up").mkdir()
    (root / "cache" / "partial").mkdir(parents=True)
    keys = {Path(name).parent.name.removesuffix("-v1") for name in whole}
    keys |= {f"checkpoint-{key}" for key in keys}
    names = [*(root / "cache" / "partial" / f".{key}.lock" for key in keys)]
    if case.name == "store":
        run = next(Path(name).stem for name in whole if name.endswith(".json"))
        names = [root / "made_up" / name for name in (".store.lock", f".{run}.run.lock")]
    for name in names:
        child = os.fork()
        if child == 0:
            with locked(name):
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert name.exists()
    ended = done(works[case.name], root)
    expect(case, ended)
    assert ended.files == whole


@of("two processes")
def test_two_processes_at_once(case, works, root, tmp_path):
    whole = undisturbed(works[case.name], tmp_path)
    work = works[case.name]
    work.before(root)
    ended = at_once(2, root, lambda: work.do(root), lambda: None)
    assert not any("Traceback" in one.said for one in ended)
    assert min(one.status for one in ended) == 0
    worst = max(ended, key=lambda one: one.status)
    expect(case, worst)
    assert files(root) == whole


def test_every_row_of_the_page_has_its_test():
    folder = Path(__file__).parent
    for other in OTHERS:
        file, _, name = other.test.partition("::")
        assert f"def {name}(" in (folder / file).read_text(), other
    assert {kill.test for kill in KILLS} <= {path.name for path in folder.glob("test_*.py")}
    assert sum(kill.points for kill in KILLS) >= 50
    assert sum(kill.default for kill in KILLS) >= 12
