"""Processes that are killed (SIGKILL) before their k-th call of the operating system."""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

CALLS = ("open", "mkdir", "fsync", "link", "replace", "unlink")
KILLED = -signal.SIGKILL


def points_of(calls: int, default: int) -> Sequence[int]:
    """Calls to be killed at: so many seeded ones, or all of them with STAT_REPRO_KILLS=all."""
    if os.environ.get("STAT_REPRO_KILLS") == "all":
        return range(calls)
    return random.Random(calls).sample(range(calls), default)


def in_child(action: Callable[[], object], kill_at: int | None = None, links: bool = True) -> int:
    """Do this in a process of its own; how many calls it made, or `KILLED`.

    Args:
        action: What is done.
        kill_at: The call before which the process is killed.
        links: Whether its file systems have hard links.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def counted(call: Callable) -> Callable:
            def wrapper(*arguments: object, **options: object) -> object:
                nonlocal count
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return call(*arguments, **options)

            return wrapper

        try:
            os.link = os.link if links else _no_links
            for name in CALLS:
                setattr(os, name, counted(getattr(os, name)))
            action()
            os._exit(min(count, 254))
        except BaseException:
            traceback.print_exc()
            os._exit(255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status != 255
    return status


def files(root: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _no_links(*_: object) -> None:
    raise PermissionError(1, "no hard links here")
