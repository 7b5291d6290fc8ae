"""Files that are there whole or not at all, also where processes are killed or write at once.

Who writes to a folder holds its lock, a file that falls with its process.
"""

import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stat_repro.results.example_files import examples_path
from stat_repro.scratch import locked, scratch

_LOCK, _TEMPORARY = ".store.lock", ".store"
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def repeat_names(folder: Path, stem: str) -> Iterator[Path]:
    """The name of a record, and the ones that it has when it is measured again."""
    yield folder / f"{stem}.json"
    yield from (folder / f"{stem}.repeat-{k}.json" for k in itertools.count(1))


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
        for path in names:
            if not os.path.lexists(path) and _write_pair(folder, path, data, examples):
                return path
    raise ValueError("names: expected one that is free; got none")


def _write_pair(folder: Path, path: Path, data: bytes, examples: bytes | None) -> bool:
    """A file with its values per example: both or none; False if the name is taken after all.

    Both are on disk before the first name is given, so that only an end of the process between two
    system calls could leave values without a record. Under the lock those are nobody's, and are
    replaced.
    """
    path.parent.mkdir(exist_ok=True)
    beside = examples_path(path)
    beside.unlink(missing_ok=True)
    with _written(folder, data) as record:
        try:
            if examples is not None:
                with _written(folder, examples) as values:
                    _publish(values, beside)
            return _publish(record, path)
        finally:
            # Ctrl-C may come when the record has its name, and before anybody was told.
            if not os.path.lexists(path):
                beside.unlink(missing_ok=True)


@contextmanager
def _written(folder: Path, data: bytes) -> Iterator[Path]:
    """A file with this content under a name that nobody reads, for the time of the block."""
    with scratch(folder, _TEMPORARY, folder=False) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary


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
