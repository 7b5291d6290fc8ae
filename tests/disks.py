"""Small and read-only disks for one process: mounted where that is allowed, else imitated."""

from __future__ import annotations

import ast
import ctypes
import errno
import logging
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kills import EVENTS, WRITING, files

from stat_repro.entry import guarded

SMALL, SMALL_FILE = 8192, 2048
_NEW_NAMESPACE, _READ_ONLY, _REMOUNT, _PRIVATE = 0x20000, 1, 32, 0x44000


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, what it said, and the files afterwards."""

    status: int
    said: str
    files: dict[str, bytes]


def full(root: Path, before: Callable[[], object]) -> None:
    """From here on this folder takes two pages, or, without a mount, no file of half a page."""
    if not _mount(root, f"size={SMALL}"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _limit(SMALL_FILE)
    before()


def read_only(root: Path, before: Callable[[], object]) -> None:
    """From here on this folder takes nothing."""
    mounted = _mount(root, "size=1000000")
    before()
    if mounted and _mount(root, "", _READ_ONLY | _REMOUNT):
        return

    def hook(event: str, arguments: tuple) -> None:
        writes = event in EVENTS or (event == "open" and arguments[2] & WRITING)
        if writes and str(arguments[0]).startswith(str(root)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))

    sys.addaudithook(hook)


def usual(root: Path, before: Callable[[], object]) -> None:
    """Nothing is wrong with the disk."""
    before()


def at_once(
    count: int,
    root: Path,
    do: Callable[[], object],
    before: Callable[[], object],
    disk: Callable[[Path, Callable[[], object]], None] = usual,
) -> list[Ended]:
    """Do this in so many processes that start together, each on such a disk."""
    start = time.monotonic() + 0.1 * (count - 1)
    children = []
    for number in range(count):
        said = root.with_name(f"{root.name}.{number}.said")
        left = root.with_name(f"{root.name}.{number}.left")
        child = os.fork()
        if child == 0:
            _child(root, do, before, disk, said, left, start)
        children.append((child, said, left))
    ended = []
    for child, said, left in children:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended.append(Ended(status, said.read_text(), ast.literal_eval(left.read_text())))
    return ended


def _child(
    root: Path,
    do: Callable[[], object],
    before: Callable[[], object],
    disk: Callable[[Path, Callable[[], object]], None],
    said: Path,
    left: Path,
    start: float,
) -> None:
    status = 255
    try:
        os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        logging.getLogger().handlers = [logging.StreamHandler()]
        found = os.open(left, os.O_CREAT | os.O_WRONLY)
        disk(root, before)
        time.sleep(max(0.0, start - time.monotonic()))
        status = guarded(lambda: do() and None, lambda: "")
        _limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        os.write(found, repr(_seen(root)).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _seen(root: Path) -> dict:
    """The files, while another process may be giving its own their names."""
    while True:
        with suppress(FileNotFoundError):
            return files(root)
        time.sleep(0.05)


def _limit(size: int) -> None:
    """Bytes that a file may have."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _mount(root: Path, options: str, flags: int = 0) -> bool:
    """Mount memory at a folder, for this process alone; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not flags and libc.unshare(_NEW_NAMESPACE):
        return False
    libc.mount(b"none", b"/", None, _PRIVATE, None)
    return not libc.mount(b"none", str(root).encode(), b"tmpfs", flags, options.encode())
