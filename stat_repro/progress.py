"""Progress of long stages: one redrawn line on a terminal, sparse plain lines in a log file.

Everything goes to standard error, so that standard output stays free for results. There is no
background thread and no cursor trick: a failure in the middle leaves the terminal as it was.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TextIO, TypeVar

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
        stream: Where lines go; standard error at the time of the call if None.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        unit: str = "batches",
        stream: TextIO | None = None,
    ) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.note = ""
        self.done = 0
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._start = self._next = time.monotonic()

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._next = self._start + (0.0 if self._terminal else QUIET_SECONDS)
        self._report()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        took = time.monotonic() - self._start
        if self._terminal:
            self._stream.write("\r\x1b[2K")
        if took > QUIET_SECONDS:
            outcome = "done" if kind is None else "stopped"
            self._stream.write(f"{self._line(took, remaining=False)}, {outcome}\n")
        self._stream.flush()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count finished units.

        Args:
            units: How many finished since the last call.
            note: Shown behind the count, such as the current loss.
        """
        self.done += units
        self.note = note
        self._report()

    def _line(self, took: float, remaining: bool) -> str:
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        parts = [f"{self.description}: {count} {self.unit}", _clock(took)]
        if remaining and self.total is not None and 0 < self.done < self.total:
            parts[-1] += f" (about {_clock(took / self.done * (self.total - self.done))} left)"
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _report(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        line = self._line(now - self._start, remaining=True)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[2K{line[:width]}")
            self._next = now + REDRAW_SECONDS
        else:
            self._stream.write(f"{line}\n")
            self._next = now + LOG_SECONDS
        self._stream.flush()


def track(
    iterable: Iterable[T], description: str, total: int | None = None, unit: str = "batches"
) -> Iterator[T]:
    """Iterate and show progress; an item counts as finished when the next one is asked for.

    Args:
        iterable: What to iterate over.
        description: What is being done.
        total: Number of items; `len(iterable)` if None and it has a length, else unknown.
        unit: Plural name of the items.

    Yields:
        The items, unchanged.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(description, total, unit) as progress:
        for item in iterable:
            yield item
            progress.advance()
