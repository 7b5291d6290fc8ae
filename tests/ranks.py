"""Several processes of one run as forks of this one: what torchrun starts, without the imports."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch
from command_server import ENVIRONMENT, SCRIPT

from stat_repro.parallel import joined

_SECONDS = 280


def _variables(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets, and a loopback address for gloo."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return {
        **{key: str(value) for key, value in place.items()},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def fork_ranks(work: Callable[[int], None], size: int) -> list[int]:
    """Exit status of `work(rank)` in `size` forks, each ended after a while if it hangs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            status = 99
            try:
                signal.alarm(_SECONDS)
                os.environ.update(_variables(rank, size, port))
                work(rank)
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run_ranks(work: Callable[[], Any], folder: Path, size: int = 2) -> list[Any]:
    """Results of `work()` in joined processes, by rank; where it raised, the error as text."""

    def in_rank(rank: int) -> None:
        try:
            with joined(timedelta(seconds=_SECONDS)):
                # One that ends at once would close connections that the others still make.
                torch.distributed.barrier()
                result = work()
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        torch.save(result, folder / f"rank{rank}.pt")

    statuses = fork_ranks(in_rank, size)
    assert statuses == [0] * size, statuses
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(size)]


def command_in_ranks(
    arguments: Sequence[str],
    folder: Path,
    only: Mapping[int, Mapping[str, str]] | None = None,
    size: int = 2,
) -> list[CompletedProcess[str]]:
    """`torchrun --nproc-per-node=<size> run.py <arguments>` in forks, by rank.

    Args:
        arguments: Of the command.
        folder: Where its output goes.
        only: Environment variables of single ranks.
        size: How many processes.
    """

    def in_rank(rank: int) -> None:
        os.environ.update({**ENVIRONMENT, **(only or {}).get(rank, {})})
        for stream, name in ((1, "out"), (2, "err")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(folder / f"rank{rank}.{name}", flags, 0o600), stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = [str(SCRIPT), *arguments]
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return [
        CompletedProcess(
            list(arguments),
            status,
            *((folder / f"rank{rank}.{name}").read_text() for name in ("out", "err")),
        )
        for rank, status in enumerate(fork_ranks(in_rank, size))
    ]
