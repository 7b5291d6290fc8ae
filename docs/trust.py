"""Writes docs/trust.md: what was tried to break the commands, and what happened.

`python docs/trust.py`. Every row of its tables is a test; further tables are further functions in
`SECTIONS`.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from stat_repro.reporting.tables import to_markdown

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "trust.md"
INTRODUCTION = """# What was tried

Written by `python docs/trust.py` from the tables of the tests, so that every row is a test that
`make test` runs.

<!-- checked by tests/test_bad_inputs.py -->
<!-- checked by tests/test_faults.py -->
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return to_markdown(pd.DataFrame(rows, columns=head))


def bad_inputs() -> str:
    """Of the table `tests/bad_inputs.py`."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from bad_inputs import CASES
    finally:
        sys.path.pop(0)
    text = (
        f"## Bad inputs\n\n{len(CASES)} inputs. Each ends with exit status 1 (2 for wrong "
        "arguments) and a message `error: ...` that matches the pattern shown; nothing is written, "
        "and no stack trace is shown. `in/` holds made-up files, good ones and damaged ones.\n"
    )
    for command, cases in groupby(CASES, key=lambda case: case.command):
        group = list(cases)
        name = "`run.py`, its data" if command == "data" else f"`{command}`"
        rows = [(f"`{' '.join(c.given)}`", str(c.status), f"`{c.says}`") for c in group]
        text += f"\n### {name}: {len(group)} inputs\n\n{table(('given', 'exit', 'says'), rows)}"
    return text


def _tables() -> Any:
    """The tables of `tests/faults.py`."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        import faults
    finally:
        sys.path.pop(0)
    return faults


def kills() -> str:
    """Of works that were killed."""
    cases = _tables().KILLS
    rows = [(case.name, case.does, str(case.points), str(case.default)) for case in cases]
    total, default = (sum(getattr(c, key) for c in cases) for key in ("points", "default"))
    return (
        f"## Kills\n\nAbout {total} points at which a process gets SIGKILL: before each of its "
        "changes of files and in the middle of each file. Afterwards the same command ends as one "
        "that was not disturbed, byte for byte, and nothing else is left; what has its final name "
        f"is whole at any time. `make test` takes {default} of them, all with "
        "`STAT_REPRO_KILLS=all`.\n\n" + table(("work", "does", "points, about", "by default"), rows)
    )


def faults() -> str:
    """Of works that find something wrong."""
    cases = _tables().FAULTS
    rows = [(c.fault, c.name, str(c.status), f"`{c.says}`", c.afterwards) for c in cases]
    return (
        f"## Faults\n\n{len(cases)} cases; the works are those of the table above. Disks are "
        "mounted with two pages of room, or read-only, where a test may do that, and imitated "
        "elsewhere. "
        "Not noticed: a flipped bit in the weights of a folder that is given (safetensors files "
        "hold no checksum; the hash in a run's record tells which weights were read), and in a "
        "spill file, which lives for minutes.\n\n"
        + table(("fault", "work", "exit", "says", "afterwards"), rows)
    )


def others() -> str:
    """Of what other tests hold."""
    text = "## Signals, leftovers, damage, folders of strangers\n"
    for kind, cases in groupby(_tables().OTHERS, key=lambda case: case.kind):
        rows = [(case.what, case.then, f"`{case.test.partition('::')[0]}`") for case in cases]
        text += f"\n### {kind}\n\n{table(('what', 'then', 'test'), rows)}"
    return text


SECTIONS: tuple[Callable[[], str], ...] = (kills, faults, others, bad_inputs)


def page() -> str:
    """The page: an introduction and one section per table."""
    return "\n".join([INTRODUCTION, *(section() for section in SECTIONS)])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
