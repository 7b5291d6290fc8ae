"""Work that is done once and kept in the cache: complete and undamaged, or made again.

Work happens in a folder under `<cache>/partial` that is renamed at the end. One process at a time
works on the same thing; whatever goes wrong becomes one `AssetError`. A finished folder holds the
hashes of its files, which every process compares before it uses the folder for the first time, and
again where a file has another size or time than then.
"""

import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stat_repro.assets.convert import ConversionError
from stat_repro.paths import CACHE_VARIABLE, cache_dir
from stat_repro.scratch import locked, replace_file, scratch, tidy

# Part of the folder names: raise it when a conversion changes what it writes.
CONVERSION = 1
# Sizes and hashes of the other files of a finished folder.
MANIFEST = "manifest.json"

# Folders that this process has compared with their manifest, as they were then (`stamps`).
_checked: dict[Path, list[Any]] = {}


class AssetError(RuntimeError):
    """An asset that could not be had; says what was tried and what can be done."""


def build_once(key: str, build: Callable[[Path], None], target: Path | None = None) -> Path:
    """A finished folder of the cache, built under another name first if it is missing.

    Args:
        key: Name of what is built, unique in the cache.
        build: Creates the folder it is given; files beside that folder are thrown away.
        target: Where the folder belongs; among the assets if None.

    Returns:
        The folder in the cache.

    Raises:
        AssetError: The folder cannot be built.
    """
    if target is None:
        target = cache_dir() / "assets" / f"{key}-v{CONVERSION}"
    tidy(cache_dir() / "partial")
    if (trouble := _trouble(target)) is None:
        return target
    say(f"{key}: {trouble}; preparing it")
    with explained(key), exclusive(key) as partial:
        if _trouble(target) is None:  # another process was faster while this one waited
            return target
        start = time.monotonic()
        if target.is_dir():
            os.replace(target, partial / "damaged")
        build(partial / "folder")
        _write_manifest(partial / "folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        _publish(partial / "folder", target)
        _checked[target] = stamps(target)
        say(f"{key}: ready after {time.monotonic() - start:.0f} s in {target}")
    return target


def _trouble(folder: Path) -> str | None:
    """Why a folder of the cache has to be made; None if it holds what it was finished with."""
    if not folder.is_dir():
        return "not in the cache yet"
    if _checked.get(folder) == (state := stamps(folder)):
        return None
    if (folder / MANIFEST).exists():
        if damage := _damage(folder):
            return damage
    else:  # of an earlier version
        say(f"{folder}: no {MANIFEST} yet; its files are taken as they are")
        try:
            _write_manifest(folder)
        except OSError as error:
            say(f"{folder / MANIFEST}: expected to write it; got: {error.strerror}")
    _checked[folder] = state
    return None


def _files(place: Path) -> list[Path]:
    """A file, or every file of a folder; hidden ones do not count."""
    paths = sorted(place.rglob("[!.]*")) if place.is_dir() else [place]
    return [path for path in paths if path.is_file()]


def stamps(place: Path) -> list[Any]:
    """What the file system tells of a file, or of every file of a folder, without reading any."""
    return [
        (str(path), (status := path.stat()).st_ino, status.st_size, status.st_mtime_ns)
        for path in _files(place)
    ]


def _contents(folder: Path) -> dict[str, list[Any]]:
    """Size and sha256 of every file but the manifest, by its path in the folder."""
    contents = {}
    for path in _files(folder):
        if path != folder / MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            contents[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return contents


def _write_manifest(folder: Path) -> None:
    replace_file(folder / MANIFEST, (json.dumps(_contents(folder), indent=1) + "\n").encode())


def _damage(folder: Path) -> str | None:
    """What differs from the manifest, in words; None if nothing does."""
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        got = _contents(folder)
        names = sorted(n for n in {*got, *expected} if got.get(n) != expected.get(n))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"{folder}: files that cannot be read ({error})"
    return f"{folder}: changed since it was made: {', '.join(names)}" if names else None


def _publish(folder: Path, target: Path) -> None:
    """Rename a finished folder; if another machine sharing the cache has won, keep theirs."""
    try:
        os.replace(folder, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not target.is_dir():
            raise


@contextmanager
def exclusive(key: str) -> Iterator[Path]:
    """An empty working folder for this key, for one process at a time; removed afterwards.

    The lock falls with the process, so one that was killed blocks nobody, and what it left is
    removed by the next.
    """
    root = cache_dir() / "partial"
    root.mkdir(parents=True, exist_ok=True)
    waiting = f"{key}: waiting for another process that is making it"
    with (
        locked(root / f".{key}.lock", waiting, say),
        scratch(root, f".{key}", folder=True) as folder,
    ):
        yield folder


@contextmanager
def explained(key: str) -> Iterator[None]:
    """Turn what goes wrong below into one `AssetError` that says what to do."""
    try:
        yield
    except ConversionError as error:
        raise AssetError(f"{key}: {error}") from error
    except Exception as error:
        # safetensors reports a full disk as its own exception type, with the words of the system.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or os.strerror(errno.ENOSPC) in str(error):
            raise AssetError(
                f"{key}: the disk is full in {cache_dir()} (about 1 GB is needed for all "
                f"assets, and 1.3 GB for mpnet_base). Nothing half-written was left. Free some "
                f"space or set {CACHE_VARIABLE} to a folder on another disk."
            ) from error
        # Without an error number it is a library's own use of the class, not the file system's.
        if isinstance(error, OSError) and error.errno is not None:
            raise AssetError(
                f"{key}: cannot use the cache {cache_dir()}: {error}. Set {CACHE_VARIABLE} "
                "to a writable folder."
            ) from error
        raise


def say(line: str) -> None:
    """Write one progress line to standard error."""
    print(f"[cache] {line}", file=sys.stderr, flush=True)
