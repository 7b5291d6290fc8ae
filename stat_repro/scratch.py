"""Locks, and files and folders under a temporary name: both fall with their process.

Who works on a temporary one holds a lock on it (`flock`), so the next process can tell what a
killed one left, and removes it. Where a file system has no such locks, leftovers stay: nothing is
ever removed that might be in use.
"""

import errno
import glob
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout, lock_descriptor

log = logging.getLogger("stat_repro")


@contextmanager
def locked(
    path: Path, waiting: str | None = "", tell: Callable[[str], None] = log.info
) -> Iterator[None]:
    """Hold the lock of this name, a file that is there only as long as somebody holds it.

    Args:
        path: The file.
        waiting: What to say if another process holds it, empty for nothing; None does not wait.
        tell: Says it.

    Raises:
        TimeoutError: Another process holds it, and `waiting` is None.
        OSError: The file cannot be made, or its file system has no locks.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise
        if waiting:
            # In place of a lock it is a note, which outlives its process on another machine.
            note = isinstance(lock, SoftFileLock)
            tell(f"{waiting}; if it runs no more, delete {path}" if note else waiting)
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise
        path.unlink(missing_ok=True)  # nobody can hold it
        what = f"expected a file system with locks; got: {error.strerror}; choose another folder"
        raise OSError(error.errno, what, str(path.parent)) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # those who wait for it notice, and start over with a new file
        lock.release()


@contextmanager
def scratch(parent: Path, stem: str, *, folder: bool) -> Iterator[Path]:
    """A new file or folder; removed at the end, unless it was renamed.

    Before that, what killed processes left of the same stem goes.

    Args:
        parent: An existing folder.
        stem: First part of the name, the same for all that is made for one purpose.
        folder: Whether to make a folder, else an empty file.

    Raises:
        OSError: It cannot be made.
    """
    _remove_leftovers(parent, glob.escape(stem))
    path, held = _new(parent, stem, folder)
    try:
        yield path
    finally:
        _remove(path)
        if held is not None:
            os.close(held)


@contextmanager
def complete(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A file or folder to write to; it gets its name at the end, complete or not at all.

    Args:
        path: The name; its parents are made. A file that has it is replaced.
        folder: Whether to make a folder, else a file.

    Raises:
        OSError: It cannot be made or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch(path.parent, f".{path.name}", folder=folder) as temporary:
        yield temporary
        os.replace(temporary, path)


def tidy(folder: Path) -> None:
    """Remove what killed processes left under hidden names: locks, temporary files and folders."""
    for lock in folder.glob(".*.lock"):
        with suppress(OSError), locked(lock, None):
            pass  # it goes when it is let go of
    _remove_leftovers(folder, ".*")


def _remove_leftovers(folder: Path, stems: str) -> None:
    """Remove what killed processes left; what belongs to a living one stays."""
    for leftover in folder.glob(f"{stems}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError):  # in use, or another user's
            handle = _lock(leftover, wait=False)
            _remove(leftover)
            os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step; a failure leaves what was there before.

    Raises:
        OSError: The file cannot be written.
    """
    with complete(path) as temporary:
        temporary.write_bytes(data)


def _new(parent: Path, stem: str, folder: bool) -> tuple[Path, int | None]:
    """A new path and its lock, None where there are no locks."""
    while True:
        path = parent / f"{stem}.{uuid.uuid4().hex[:8]}.tmp"
        if folder:
            path.mkdir()
        else:
            path.touch(exist_ok=False)
        try:
            held = _lock(path, wait=True)
        except FileNotFoundError:
            continue
        except OSError:
            return path, None
        if os.path.lexists(path):
            return path, held
        os.close(held)  # another process took it for a leftover before it had its lock


def _lock(path: Path, *, wait: bool) -> int:
    """The handle of a locked file or folder; closing it lets go.

    Raises:
        OSError: Another process has the lock, or the system has none.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        if not lock_descriptor(handle, blocking=wait):
            raise BlockingIOError(f"{path}: another process has its lock")
    except OSError:
        os.close(handle)
        raise
    return handle


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
