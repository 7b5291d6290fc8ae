"""Writes docs/trust.md: what was tried to break the commands, and what happened.

`python docs/trust.py`. Every row of its tables is a test; further tables are further functions in
`SECTIONS`.
"""

import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "trust.md"
INTRODUCTION = """# What was tried

Written by `python docs/trust.py` from the tables of the tests, so that every row is a test that
`make test` runs.

<!-- checked by tests/test_bad_inputs.py -->
"""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    first = tuple(head)
    lines = [first, ("---",) * len(first), *map(tuple, rows)]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


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


SECTIONS: tuple[Callable[[], str], ...] = (bad_inputs,)


def page() -> str:
    """The page: an introduction and one section per table."""
    return "\n".join([INTRODUCTION, *(section() for section in SECTIONS)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
