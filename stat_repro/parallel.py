"""Several processes that work on one run: `torchrun --nproc-per-node=N run.py ...`.

Every process (rank) has the whole model. The calibration batches are dealt out in turns and the
statistics, which are sums, are added up over the ranks; factorisations are dealt out by layer and
their results exchanged. Without torch.distributed there is one rank, and nothing is exchanged.

No rank may wait for another that has failed. So every exchange carries the errors too, and a rank
that fails inside `with together()` takes part in the next exchange with its error: all ranks leave
the `with` in the same way.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import distributed

from stat_repro.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

# How long a rank waits for the others while the first one evaluates. A rank that ends is noticed at
# once; this is for one that hangs.
WAIT = timedelta(hours=12)


class RankError(RuntimeError):
    """Another process of the run failed; says which and why."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this one is.

    Attributes:
        rank: 0 for the one that evaluates and writes.
        size: Processes of the run.
    """

    rank: int = 0
    size: int = 1


def world() -> World:
    """This process among those of its run; `World(0, 1)` without torch.distributed."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return World()
    return World(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def joined(wait: timedelta = WAIT) -> Iterator[None]:
    """Join the processes that `torchrun` started, as its environment variables say.

    All leave together, also where they exit with an error status: torchrun ends the others as soon
    as one is gone, before they could say what happened. Sums of CUDA tensors go through NCCL, all
    else through gloo.

    Args:
        wait: How long an exchange waits for the slowest rank.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=wait)
    try:
        try:
            yield
        except SystemExit as end:
            _exchanged(None, f"it has ended with status {end.code}")
            raise
        _exchanged(None, "it has ended")
    finally:
        distributed.destroy_process_group()


def exchange(value: T) -> list[T]:
    """The values of all ranks, in their order.

    Args:
        value: What this rank has; tensors in it must be on the CPU.

    Raises:
        RankError: Another rank has failed.
    """
    if world().size == 1:
        return [value]
    values = _exchanged(value, None)
    for rank, (_, error) in enumerate(values):
        if error is not None:
            raise RankError(f"process {rank} of the run: {error}")
    return [value for value, _ in values]


@contextmanager
def together() -> Iterator[None]:
    """Work that all ranks finish or none does; must not be nested.

    Raises:
        RankError: On the ranks that did not fail themselves.
    """
    try:
        yield
    except RankError:
        raise
    except Exception as error:
        if world().size > 1:
            _exchanged(None, f"{type(error).__name__}: {error}")
        raise
    exchange(None)


def _exchanged(value: T, error: str | None) -> list[tuple[T, str | None]]:
    """The value or the error of every rank, in their order."""
    values: list[Any] = [None] * world().size
    try:
        distributed.all_gather_object(values, (value, error))
    except RuntimeError as failure:
        raise RankError(f"the other processes of this run cannot be reached: {failure}") from None
    return values


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Run the body of the `with` on the first rank, then on all others, which use its results."""
    if world().rank > 0:
        exchange(None)
    yield
    if world().rank == 0:
        exchange(None)


def sum_over_ranks(tensors: Iterable[torch.Tensor]) -> None:
    """Add up tensors over the ranks, in place; all ranks get the same bits.

    Args:
        tensors: The same shapes and types in the same order on every rank.
    """
    if world().size == 1:
        return
    exchange(None)
    for tensor in tensors:
        distributed.all_reduce(tensor)


def own_share(items: Iterable[T]) -> Iterable[T]:
    """Every size-th item from this rank's place on: all items for one rank."""
    place = world()
    if place.size == 1:
        return items
    if isinstance(items, Sequence):
        return items[place.rank :: place.size]
    return islice(items, place.rank, None, place.size)


def in_turns(results: Sequence[T]) -> list[T]:
    """The results of all ranks for their `own_share`, in the order of the items.

    Args:
        results: One value per item; tensors in them must be on the CPU.
    """
    shares = exchange(results)
    size = len(shares)
    return [shares[i % size][i // size] for i in range(sum(map(len, shares)))]


def spread(items: Sequence[T], work: Callable[[T], R], label: str) -> list[R]:
    """`work` of every item, item i done by rank i modulo their number; all results everywhere.

    Results are exchanged after every turn, so that no rank holds more than one turn twice.

    Args:
        items: The same on every rank.
        work: What it returns must hold its tensors on the CPU where there are several ranks.
        label: What the progress line says.
    """
    place = world()
    results: list[R] = []
    with Progress(label, len(items), "sites") as progress:
        for start in range(0, len(items), place.size):
            turn = items[start : start + place.size]
            result: Any = work(turn[place.rank]) if place.rank < len(turn) else None
            results += exchange(result)[: len(turn)]
            progress.advance(len(turn))
    return results


def same_everywhere(what: str, value: T) -> None:
    """Refuse ranks that are about to compute different things.

    Args:
        what: What the value is, for the message.
        value: Something with an equality.

    Raises:
        RankError: They differ.
    """
    values = exchange(value)
    if any(other != value for other in values):
        raise RankError(
            f"{what}: expected the same in every process of the run; got "
            + ", ".join(f"{other} in process {rank}" for rank, other in enumerate(values))
        )
