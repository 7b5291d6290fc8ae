"""Files that are there whole or not at all, also where processes are killed or write at once.

Who writes to a folder holds its lock, a file that falls with its process. So whatever lies there
under a temporary name while the lock is held was left by a process that was killed.
"""

from __future__ import annotations

import errno
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stat_repro.results.example_files import examples_path

log = logging.getLogger("stat_repro")

_LOCK = ".store.lock"
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def locked(path: Path, waiting: str | None = "") -> Iterator[None]:
    """Hold the lock of this name, a file that is there only as long as somebody holds it.

    Args:
        path: The file.
        waiting: What to log if another process holds it, empty for nothing; None does not wait.

    Raises:
        TimeoutError: Another process holds it, and `waiting` is None.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise
        if waiting:
            log.info(waiting)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # those who wait for it notice, and start over with a new file
        lock.release()


def write_first_free(
    folder: Path, names: Iterable[Path], data: bytes, examples: bytes | None = None
) -> Path:
    """Write a file, and values per example beside it, under the first name that is free.

    Args:
        folder: Where locks and temporary files go.
        names: Names to try, in this folder or below it.
        data: The file's content.
        examples: The content of the file beside it, if there is one.

    Returns:
        The name that was free.

    Raises:
        OSError: A file cannot be written; nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK):
        _remove_temporary(folder)
        for path in names:
            if not os.path.lexists(path) and _write_pair(folder, path, data, examples):
                return path
    raise ValueError("names: expected one that is free; got none")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left; what belongs to a living one stays."""
    for lock in folder.glob(".*.lock"):
        with suppress(OSError), locked(lock, None):
            pass  # it goes when it is let go of
    if any(folder.glob(".*.tmp")):
        with suppress(OSError), locked(folder / _LOCK, None):
            _remove_temporary(folder)


def _remove_temporary(folder: Path) -> None:
    for file in folder.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def _write_pair(folder: Path, path: Path, data: bytes, examples: bytes | None) -> bool:
    """A file with its values per example: both or none; False if the name is taken after all.

    Both are on disk before the first name is given, so that only an end of the process between two
    system calls could leave values without a record. Under the lock those are nobody's, and are
    replaced.
    """
    path.parent.mkdir(exist_ok=True)
    beside, stored = examples_path(path), False
    beside.unlink(missing_ok=True)
    with _written(folder, data) as record:
        try:
            if examples is not None:
                with _written(folder, examples) as values:
                    _publish(values, beside)
            stored = _publish(record, path)
        finally:
            if not stored:
                beside.unlink(missing_ok=True)
    return stored


@contextmanager
def _written(folder: Path, data: bytes) -> Iterator[Path]:
    """A file with this content under a name that nobody reads, for the time of the block."""
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> bool:
    """Give a finished file its name; False if the name is taken."""
    try:
        # Unlike a rename, a link fails where the name is taken, should the lock not hold.
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as err:
        if err.errno not in _NO_HARD_LINKS:
            raise
        # A file system without hard links: the lock alone keeps others away.
        if os.path.lexists(path):
            return False
        os.replace(temporary, path)
    return True
