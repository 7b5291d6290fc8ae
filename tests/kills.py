"""Processes that are killed (SIGKILL), or find the disk full, at their k-th change of a file.

Points are counted in a fork: before a file is opened for writing, made, renamed, linked, removed or
synced (audit events of Python), and for every file that is opened for writing once more behind it,
when it holds a part of a file's content. Tensor files, which are not written by Python, have both.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch

# Events of the interpreter by which files change; "open" counts where it is for writing.
EVENTS = ("os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.symlink")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
KILLED = -signal.SIGKILL
TORN = b'{"torn'


def points_of(calls: int, default: int) -> Sequence[int]:
    """Points to be killed at: so many seeded ones, or all of them with STAT_REPRO_KILLS=all."""
    if os.environ.get("STAT_REPRO_KILLS") == "all":
        return range(calls)
    return random.Random(calls).sample(range(calls), min(default, calls))


def in_child(
    action: Callable[[], object],
    kill_at: int | None = None,
    links: bool = True,
    full: bool = False,
) -> int:
    """Do this in a process of its own; how many points it passed, or `KILLED`.

    Args:
        action: What is done.
        kill_at: The point at which the process is killed.
        links: Whether its file systems have hard links.
        full: Whether, instead of a kill, the disk is full from that point on.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            count = _watched(action, kill_at, links, full)
            os.write(write, str(count).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(255)
    os.close(write)
    with os.fdopen(read) as pipe:
        count = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status or int(count)


def _watched(action: Callable[[], object], kill_at: int | None, links: bool, full: bool) -> int:
    """Do this, and count its points; an audit hook stays for the rest of the process."""
    count, inside = 0, False

    def point(torn: Callable[[], object] = lambda: None) -> None:
        nonlocal count
        count += 1
        if kill_at is None or count <= kill_at:
            return
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        torn()
        os.kill(os.getpid(), signal.SIGKILL)

    def opened(path: object, mode: object, flags: int) -> None:
        if not isinstance(path, str | os.PathLike) or not flags & WRITING:
            return
        if str(path).startswith(("/dev/", "/proc/")):
            return
        point()
        # Locks and empty files are opened without a mode, and nothing is written to them.
        if mode is not None:
            point(lambda: Path(path).write_bytes(TORN))

    def hook(event: str, arguments: tuple) -> None:
        nonlocal inside
        if inside or not (event == "open" or event in EVENTS):
            return
        inside = True
        try:
            point() if event != "open" else opened(*arguments)
        finally:
            inside = False

    def before(call: Callable) -> Callable:
        def wrapper(*arguments: object, **options: object) -> object:
            point()
            return call(*arguments, **options)

        return wrapper

    serialize = safetensors.torch.serialize_file

    def tensors(content: object, path: str, *arguments: object, **options: object) -> None:
        point()
        serialize(content, path, *arguments, **options)
        point(lambda: os.truncate(path, os.path.getsize(path) // 2))

    os.link = os.link if links else _no_links
    os.fsync = before(os.fsync)
    safetensors.torch.serialize_file = tensors
    sys.addaudithook(hook)
    action()
    return count


def files(root: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _no_links(*_: object) -> None:
    raise PermissionError(1, "no hard links here")
