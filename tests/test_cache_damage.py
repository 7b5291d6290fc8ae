"""What lies in the cache is compared with its manifest, and made again where it differs."""

import json
import os
import random

import pytest

from stat_repro.assets import cache
from stat_repro.assets.cache import MANIFEST, AssetError, build_once

SIZE = 3_000_000


@pytest.fixture(autouse=True)
def _cache(own_cache):
    pass


def build(folder):
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_bytes(bytes([random.randint(1, 255)]) * SIZE)  # see `zeroed`
    (folder / "deep" / "text.txt").write_text("a good line")


def new_process():
    """Entries are read once per process, unless they change."""
    cache._checked.clear()


@pytest.fixture
def entry(capsys):
    folder = build_once("thing", build)
    new_process()
    capsys.readouterr()
    return folder


def overwrite(path, start, content):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def zeroed(folder):
    overwrite(folder / "weights", 500_000, bytes(2_000_000))
    return "weights"


def one_bit(folder):
    byte = (folder / "weights").read_bytes()[-1]
    overwrite(folder / "weights", SIZE - 1, bytes([byte ^ 1]))
    return "weights"


def text(folder):
    (folder / "deep" / "text.txt").write_text("a goad line")
    return "deep/text.txt"


def cut_short(folder):
    os.truncate(folder / "weights", SIZE - 1)
    return "weights"


def gone(folder):
    (folder / "weights").unlink()
    return "weights"


def added(folder):
    (folder / "modeling_x.py").write_text("")
    return "modeling_x.py"


def torn_manifest(folder):
    os.truncate(folder / MANIFEST, 30)
    return "files that cannot be read"


def emptied_manifest(folder):
    (folder / MANIFEST).write_text("{}")
    return "deep/text.txt, weights"


def list_manifest(folder):
    (folder / MANIFEST).write_text(json.dumps(["weights"]))
    return "files that cannot be read"


@pytest.mark.parametrize(
    "damage",
    [zeroed, one_bit, text, cut_short, gone, added, torn_manifest, emptied_manifest, list_manifest],
)
def test_a_damaged_entry_is_told_and_made_again(entry, capsys, damage):
    before = {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()}
    what = damage(entry)
    assert build_once("thing", lambda folder: copy_of(before, entry, folder)) == entry
    told = capsys.readouterr().err
    assert f"thing: {entry}: " in told
    assert what in told
    assert "preparing it" in told
    assert {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()} == before
    new_process()
    build_once("thing", pytest.fail)
    assert capsys.readouterr().err == ""


def copy_of(files, root, folder):
    for path, content in files.items():
        if path.name != MANIFEST:
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def test_an_entry_is_read_once_per_process(entry, monkeypatch):
    reads = []
    contents = cache._contents
    monkeypatch.setattr(cache, "_contents", lambda folder: reads.append(1) or contents(folder))
    for _ in range(3):
        build_once("thing", pytest.fail)
    assert len(reads) == 1


@pytest.mark.parametrize("damage", [zeroed, one_bit, text, cut_short, gone, added, torn_manifest])
def test_an_entry_that_is_damaged_while_the_process_lives_is_made_again(entry, damage, capsys):
    for path in entry.rglob("*"):
        os.utime(path, (1, 1))  # clocks of file systems are coarse
    build_once("thing", pytest.fail)
    what = damage(entry)
    build_once("thing", build)
    assert what in capsys.readouterr().err


def test_an_entry_that_goes_while_the_process_lives_is_made_again(entry):
    build_once("thing", pytest.fail)
    entry.rename(entry.with_name("elsewhere"))
    assert (build_once("thing", build) / "weights").is_file()


def test_an_entry_without_a_manifest_gets_one_and_is_watched_from_then_on(entry, capsys):
    (entry / MANIFEST).unlink()
    build_once("thing", pytest.fail)
    assert f"no {MANIFEST} yet; its files are taken as they are" in capsys.readouterr().err
    new_process()
    one_bit(entry)
    build_once("thing", build)
    assert "changed since it was made: weights" in capsys.readouterr().err


@pytest.fixture
def read_only(monkeypatch):
    """A folder on a disk that takes nothing, also for an administrator."""

    def refuse(*arguments, **options):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(cache.Path, "touch", refuse)
    monkeypatch.setattr(cache.Path, "mkdir", refuse)


def test_a_read_only_cache_that_is_whole_can_be_used(entry, read_only, capsys):
    build_once("thing", pytest.fail)
    assert capsys.readouterr().err == ""
    new_process()
    (entry / MANIFEST).unlink()
    build_once("thing", pytest.fail)
    assert f"{entry / MANIFEST}: expected to write it; got: Read-only" in capsys.readouterr().err


def test_a_read_only_cache_that_is_damaged_is_named(entry, read_only, capsys):
    one_bit(entry)
    with pytest.raises(AssetError, match=r"cannot use the cache .* Read-only file system"):
        build_once("thing", pytest.fail)
    assert "changed since it was made: weights" in capsys.readouterr().err
