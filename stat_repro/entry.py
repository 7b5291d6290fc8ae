"""How every command ends: errors and signals become one line and an exit status.

0: done; 1: an error; 2: wrong arguments (argparse); 130: Ctrl-C; 141: nobody reads what is printed,
as after `| head`; 143: SIGTERM.
"""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TypeVar

Number = TypeVar("Number", int, float)

# Beside the errors that this package defines: what the system or the libraries below refuse.
_EXPECTED = (OSError, MemoryError, BrokenExecutor)
_LIBRARIES = ("stat_repro", "hydra", "omegaconf", "safetensors", "safetensors_rust", "submitit")
# Names in a message at most, and letters of each.
_LISTED, _LETTERS = 20, 80


class Terminated(KeyboardInterrupt):
    """SIGTERM: work ends as after Ctrl-C, and cleans up on its way."""


def guarded(work: Callable[[], int | None], account: Callable[[], str]) -> int:
    """Run a command; nothing that it raises leaves this function but its own exit status.

    Args:
        work: The command; returns its exit status, None for 0.
        account: What is said of a command that was interrupted: what is done, how to go on.

    Returns:
        The exit status: that of the command, or 1, 130, 141 or 143.

    Raises:
        SystemExit: The command's own, if it has a number.
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        with _sigterm_raises():
            status = work() or 0
        print(end="", flush=True)
        return status
    except KeyboardInterrupt as end:
        print(f"interrupted: {account()}", file=sys.stderr)
        return 143 if isinstance(end, Terminated) else 130
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        print(f"error: {end.code}", file=sys.stderr)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads("\n"):
            return 141
        if is_expected(error):
            reason = str(error).strip() or type(error).__name__
            if error.__cause__ is not None and type(error).__module__ == "hydra.errors":
                reason += f": {str(error.__cause__).strip()}"  # the sentence of Hydra says where
            print(f"error: {reason}", file=sys.stderr)
        else:
            traceback.print_exc()
            print(f"error: not foreseen, please report it: {line_of(error)}", file=sys.stderr)
    finally:
        _nobody_reads()
    return 1


def _nobody_reads(text: str = "") -> bool:
    """Whether the reader of what is printed is gone.

    Then, and on a full disk, the rest is dropped: Python would complain about it at its end.
    """
    try:
        print(end=text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return isinstance(error, BrokenPipeError)
    return False


def one_line(error: BaseException) -> str:
    """The whole message of an error on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def listed(names: Iterable[object]) -> str:
    """Names of columns, keys or classes; of very many the first ones, and how many more."""
    texts = [name if len(name) <= _LETTERS else f"{name[:_LETTERS]}..." for name in map(str, names)]
    more = [f"... and {len(texts) - _LISTED} more"] if len(texts) > _LISTED else []
    return ", ".join([*texts[:_LISTED], *more])


def line_of(error: BaseException) -> str:
    """Type and message of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def at_least(low: int) -> Callable[[str], int]:
    """A type for argparse: integers from `low` on."""

    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {low}; got {text}")
        return int(text)

    return integer


def folder(text: str) -> Path:
    """A type for argparse: a folder, which need not exist yet, that can be written."""
    path = Path(text).expanduser()
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a folder that can be written; got {there}")
    return path


def share(text: str) -> float:
    """A type for argparse: the share of the MACs that is removed."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected 0 <= ratio < 1; got {text}")
    return value


def number_list(one: Callable[[str], Number]) -> Callable[[str], list[Number]]:
    """A type for argparse: numbers with commas between them, each of the type `one`."""
    return lambda text: [one(part) for part in text.split(",")]


def is_expected(error: Exception) -> bool:
    """Whether an error says by itself what is wrong, so that its stack trace would only hide it."""
    owners = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, _EXPECTED) or not owners.isdisjoint(_LIBRARIES)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turn the first SIGTERM into an exception; a second one ends the process at once."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
