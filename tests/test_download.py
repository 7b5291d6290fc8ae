"""Fetching with the real pip from a folder, and its failures; the network is never used."""

import hashlib
import io
import os
import signal
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from stat_repro.assets import download
from stat_repro.assets import packages as assets
from stat_repro.assets.cache import AssetError
from stat_repro.assets.download import PackageFile, package_file


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_wheel(path: Path) -> None:
    info = "tiny_asset-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_asset/data.txt", "payload")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def leftovers(root: Path) -> list[Path]:
    """Everything in the cache but the empty lock files and their folder."""
    return [p for p in root.rglob("*") if p.suffix != ".lock" and p.name != "partial"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STAT_REPRO_CACHE", str(folder))
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the real pip takes for its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def tiny(index: Path, **changes: str) -> PackageFile:
    wheel = index / "tiny_asset-1.0-py3-none-any.whl"
    write_wheel(wheel)
    file = PackageFile("tiny-asset", "1.0", wheel.name, sha256(wheel), wheel.stat().st_size)
    return replace(file, **changes)


def test_real_pip_fetches_the_pinned_file(root, index, capsys):
    file = tiny(index)
    path = package_file(file)
    assert sha256(path) == file.sha256
    assert path == root / "downloads" / file.filename
    assert "downloading" in capsys.readouterr().err
    assert list((root / "partial").glob("*.tmp")) == []


def test_real_pip_refuses_a_wrong_hash(root, index):
    wrong = "0" * 64
    file = tiny(index)
    with pytest.raises(AssetError) as caught:
        package_file(replace(file, sha256=wrong))
    assert wrong in str(caught.value)
    assert file.sha256 in str(caught.value)
    assert leftovers(root) == []


def test_failing_pip_is_quoted_with_the_ways_out(root, index):
    with pytest.raises(AssetError) as caught:
        package_file(tiny(index, package="absent-asset"))
    message = str(caught.value)
    assert "No matching distribution found for absent-asset==1.0" in message
    assert str(root / "downloads") in message
    assert "model=hf model.path=" in message
    assert leftovers(root) == []


def fake_pip(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(
        download, "_pip_command", lambda file, folder: [sys.executable, "-c", code, str(folder)]
    )


def test_full_disk_in_pip(monkeypatch, root):
    fake_pip(monkeypatch, "import sys; sys.exit('ERROR: [Errno 28] No space left on device')")
    with pytest.raises(AssetError, match="disk is full"):
        package_file(assets.VADER)


def test_pip_reports_and_ends_with_the_caller(monkeypatch, root, tmp_path, capfd):
    """A real interrupt of this process, while pip downloads."""
    fake_pip(
        monkeypatch,
        "import os, subprocess; from pathlib import Path; print('1 of 2 MB', flush=True); "
        "build = subprocess.Popen(['sleep', '60']); "
        f"Path({str(tmp_path / 'pid')!r}).write_text(f'{{os.getpid()}} {{build.pid}}'); "
        "build.wait()",
    )

    def interrupt_when_it_runs() -> None:
        while not ((pid := tmp_path / "pid").is_file() and pid.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt_when_it_runs)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        package_file(assets.VADER)
    watcher.join()
    pip, build = map(int, (tmp_path / "pid").read_text().split())
    with pytest.raises(ProcessLookupError):
        os.kill(pip, 0)
    state = Path(f"/proc/{build}/stat")  # what pip has started is gone too, or a zombie
    time.sleep(0.1)
    assert not state.exists() or state.read_text().split()[2] == "Z"
    printed = capfd.readouterr()
    assert "1 of 2 MB" in printed.err
    assert printed.out == ""
    assert leftovers(root) == []


def test_nothing_of_a_source_distribution_runs(root, index, tmp_path):
    """Neither its setup.py, nor build tools: the index holds nothing but the file itself."""
    name = "tiny_source-1.0"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\n",
        "setup.py": f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from setuptools import setup\nsetup(name='tiny-source', version='1.0')\n",
    }
    archive = index / f"{name}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for member, text in files.items():
            info = tarfile.TarInfo(f"{name}/{member}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    file = PackageFile(
        "tiny-source", "1.0", archive.name, sha256(archive), archive.stat().st_size, source=True
    )
    assert sha256(package_file(file)) == file.sha256
    assert not (tmp_path / "ran").exists()
    assert list((root / "partial").glob("*.tmp")) == []
