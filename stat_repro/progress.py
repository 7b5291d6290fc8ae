"""Progress of long stages: one redrawn line on a terminal, sparse plain lines in a log file.

Everything goes to standard error, so that standard output stays free for results. There is no
background thread and no cursor trick: a failure in the middle leaves the terminal as it was. (tqdm
redraws in log files as well; teaching it the sparse lines takes as much code as these do.)
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

REDRAW_SECONDS = 0.2
LOG_SECONDS = 10.0
# Stages shorter than this leave no trace in a log and no line on the terminal.
QUIET_SECONDS = 2.0


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


class Progress:
    """Progress of one stage, as a context manager with `advance`.

    On a terminal the line is redrawn a few times per second. Elsewhere a line is written after
    `QUIET_SECONDS`, then every `LOG_SECONDS`, so that a log file stays readable. A stage that took
    longer than `QUIET_SECONDS` closes with one line that says how long it took.

    Args:
        description: What is being done, such as "evaluating the dense model".
        total: Number of units, None if unknown.
        unit: Plural name of the units.
    """

    def __init__(self, description: str, total: int | None = None, unit: str = "batches") -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done, self.note = 0, ""

    def __enter__(self) -> Progress:
        self._stream, self._terminal = sys.stderr, sys.stderr.isatty()
        self._start = time.monotonic()
        self._next = self._start + (0.0 if self._terminal else QUIET_SECONDS)
        self.advance(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        took = time.monotonic() - self._start
        clear = "\r\x1b[2K" if self._terminal else ""
        outcome = "done" if kind is None else "stopped"
        last = f"{self._line(took)}, {outcome}\n" if took > QUIET_SECONDS else ""
        self._stream.write(clear + last)
        self._stream.flush()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count finished units.

        Args:
            units: How many finished since the last call.
            note: Shown behind the count, such as the current loss.
        """
        self.done, self.note = self.done + units, note
        now = time.monotonic()
        if now < self._next:
            return
        took, left = now - self._start, ""
        if self.total is not None and 0 < self.done < self.total:
            left = f" (about {_clock(took / self.done * (self.total - self.done))} left)"
        line = self._line(took, left)
        if self._terminal:
            line = f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}"
        self._stream.write(line if self._terminal else f"{line}\n")
        self._stream.flush()
        self._next = now + (REDRAW_SECONDS if self._terminal else LOG_SECONDS)

    def _line(self, took: float, left: str = "") -> str:
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        line = f"{self.description}: {count} {self.unit}, {_clock(took)}{left}"
        return f"{line}, {self.note}" if self.note else line


def track(iterable: Iterable[T], description: str, unit: str = "batches") -> Iterator[T]:
    """Iterate and show progress; an item counts as finished when the next one is asked for.

    How many there are is known if the iterable has a length.

    Args:
        iterable: What to iterate over.
        description: What is being done.
        unit: Plural name of the items.

    Yields:
        The items, unchanged.
    """
    total = len(iterable) if isinstance(iterable, Sized) else None
    with Progress(description, total, unit) as progress:
        for item in iterable:
            yield item
            progress.advance()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the reports and bars of transformers; bars that redraw make a log unreadable."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
