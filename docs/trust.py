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

`python docs/trust.py` writes this page from the tables that the tests use: every row is a test that
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
        "and no stack trace is printed. `in/` has made-up files, good ones and damaged ones.\n"
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
        f"## Kills\n\nA process is killed (SIGKILL) at about {total} points: before every change "
        "that it makes to files, and in the middle of every file that it writes. Whatever has its "
        "final name is then complete, and the same command, run again, leaves the same bytes as a "
        f"run that was not disturbed, and nothing else. `make test` tries {default} of these "
        "points; with `STAT_REPRO_KILLS=all` it tries all of them.\n\n"
        + table(("work", "does", "points, about", "by default"), rows)
    )


def faults() -> str:
    """Of works that find something wrong."""
    cases = _tables().FAULTS
    rows = [(c.fault, c.name, str(c.status), f"`{c.says}`", c.afterwards) for c in cases]
    return (
        f"## Faults\n\n{len(cases)} cases, for the works of the table above. Where a test may "
        "mount disks, it mounts one with room for two pages, or a read-only one; elsewhere it "
        "imitates them. Two faults go unnoticed: a flipped bit in the weights of a folder that the "
        "user gives (safetensors files hold no checksum; the hash in a run's record tells which "
        "weights were read), and a flipped bit in a spill file, which exists for minutes only.\n\n"
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
