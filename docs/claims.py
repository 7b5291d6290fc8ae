"""Writes docs/claims.md and docs/claims.json: every claim, what the records say, and a verdict.

`python docs/claims.py` (part of `make paper`). The claims and their rules are in docs/claims.yaml,
the numbers come from results/. Needs no torch. The report (`make report`) shows the json at its
top; it names the records of every row.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

# Before the package is imported: it would import torch, to register the pruned architectures.
os.environ["STAT_REPRO_LIGHT"] = "1"

from claim_records import DENSE, SERVED, ClaimError, Missing, Records, Selection, text
from claim_rules import FAILS, HOLDS, OPEN, OPERATIONS, Check, Claim, read_claims, style, together
from claim_values import Measured, measured

from stat_repro.config import METHODS
from stat_repro.paths import results_dir
from stat_repro.reporting.outputs import sweep_header
from stat_repro.reporting.styles import in_words
from stat_repro.reporting.tables import to_markdown
from stat_repro.results.strict_json import RecordError, to_text
from stat_repro.scratch import replace_file

DOCS = Path(__file__).parent
DATA, PAGE, REPORT = (DOCS / f"claims.{ending}" for ending in ("yaml", "md", "json"))
_COLUMNS = ("measured", "settings", "value", "holds if", "verdict", "taken over", "study")
_BEFORE = "before_recovery."
_RULES = """\
A check compares a number from the records, and the interval around it, with a bound. The check
holds if the whole interval meets the bound, and does not hold if no part of it does. Otherwise it
is not testable here: the interval lies on both sides of the bound, or there is no record. A claim
holds if all of its checks do, and does not hold if one of them does not.

Every row says what its interval is taken over. Over examples, it is a 95 % paired percentile
bootstrap interval, with the same draws for both sides and values averaged over the calibration
seeds; it says nothing about other seeds. Over seeds, it goes from the lowest value to the highest.
Over turns, it does so for the times of one measurement. A single run has no interval, and the
number itself decides.
"""
INTRODUCTION = f"""# Claims, and whether they hold

`python docs/claims.py` (part of `make paper`) writes this page from [the claims and their
rules](claims.yaml) and the stored records; do not edit it. The first part restates, in our words
and sentence by sentence, what the abstract of the paper (arXiv 2406.00061) claims; the body of the
paper could not be read here. The second part has the claims of this project.

<!-- checked by tests/test_claims.py -->

{_RULES}
STAT+ is this project's own variant (`stat_plus`). KL is measured from the dense model's
predictions, differences of percentages are in points, and "50 % removed" is half of the prunable
multiply-accumulates (MACs).
"""


@dataclass(frozen=True)
class Row:
    """A check with what came out: the cells of the table, the verdict alone, and the records."""

    cells: tuple[str, ...]
    verdict: str
    missing: str
    records: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """A claim with what came out."""

    name: str
    claim: Claim
    rows: tuple[Row, ...]

    @property
    def verdict(self) -> str:
        """The one that its rows make."""
        return together([row.verdict for row in self.rows])


def judged(data: Path, root: Path) -> list[tuple[str, list[Judged]]]:
    """All claims of the data file with what the records of a folder say about them.

    Raises:
        ClaimError: The data file is wrong.
        RecordError: A damaged record.
    """
    parts = read_claims(data)
    checks = [check for *_, claims in parts for claim in claims for check in claim.checks]
    results = iter(measured(Records(root), checks))
    answer = []
    for part, letter, claims in parts:
        done = []
        for number, claim in enumerate(claims, 1):
            rows = tuple(_row(check, next(results)) for check in claim.checks)
            done.append(Judged(f"{letter}{number}", claim, rows))
        answer.append((part, done))
    return answer


def page(parts: Sequence[tuple[str, Sequence[Judged]]]) -> str:
    """The text of docs/claims.md."""
    counts = Counter(one.verdict for _, claims in parts for one in claims)
    text = (
        f"{INTRODUCTION}\nOf {counts.total()} claims {counts[HOLDS]} hold, {counts[FAILS]} do not "
        f"hold, and {counts[OPEN]} are not testable here.\n"
    )
    for part, claims in parts:
        rows = [(f"[{one.name}](#{one.name.lower()})", one.claim.text, one.verdict, _tally(one))
                for one in claims]  # fmt: skip
        text += f"\n## {part}\n\n" + to_markdown(
            pd.DataFrame(rows, columns=["", "claim", "verdict", "checks"])
        )
        text += "".join(f"\n{_section(one)}" for one in claims)
    return text


def plain(parts: Sequence[tuple[str, Sequence[Judged]]]) -> dict[str, Any]:
    """The same as tables of the report: the claims, and all checks with the records behind them."""
    claims = [one for _, claims in parts for one in claims]
    rows = [(one.name, row) for one in claims for row in one.rows]
    summary = {
        "title": "Claims, and whether they hold",
        "columns": ["", "claim", "where it is made", "verdict", "checks"],
        "rows": [[o.name, o.claim.text, o.claim.source, o.verdict, _tally(o)] for o in claims],
        "runs": [],
        "notes": [],
    }
    checks = {
        "title": "What the claims rest on",
        "columns": ["claim", *_COLUMNS],
        "rows": [[name, *row.cells] for name, row in rows],
        "runs": [list(row.records) for _, row in rows],
        "notes": [" ".join(_RULES.split())],
    }
    return {"claims": summary, "checks": checks}


def report(parts: Sequence[tuple[str, Sequence[Judged]]]) -> str:
    """The text of docs/claims.json, a row per line."""
    return to_text(plain(parts))


def _row(check: Check, result: Measured | Missing) -> Row:
    verdict, why = check.verdict(result)
    shared = _shared(check)
    value, over, records = "-", "-", ()
    if isinstance(result, Measured):
        value, over, records = _number(check, result), result.over, result.records
    studies = sorted({one["study"] for one in (check.measure, check.other) if one})
    settings = ", ".join(_setting(key, value) for key, value in shared.items())
    said = f"{verdict}: {why}" if why else verdict
    cells = (_words(check, shared), settings, value, check.rule(), said, over, ", ".join(studies))
    missing = result.study if isinstance(result, Missing) else ""
    return Row(cells, verdict, missing, records)


def _shared(check: Check) -> dict[str, Any]:
    """Settings of both sides that are the same; the method is told where the sides are."""
    other = check.other or check.measure
    hidden = ("study", "value", "method")
    return {k: v for k, v in check.measure.items() if k not in hidden and other[k] == v}


def _words(check: Check, shared: Selection) -> str:
    """What is measured: the quantity, and the two sides."""
    one, other, word = check.measure, check.other, OPERATIONS.get(check.operation)
    quantity, unit = check.style.label.partition(" (")[::2]
    label = check.style.label if check.operation != "divided_by" else quantity
    if check.operation == "minus" and unit == "%)":
        label = f"{quantity} (points)"
    sides = [_side(one, shared), *([_side(other, shared)] if other else [])]
    if other and style(other["value"]) != check.style:
        label = f"{quantity} {word} {style(other['value']).label.partition(' (')[0]}"
        sides = list(dict.fromkeys(sides))
    return ": ".join(filter(None, [label, f" {word} ".join(sides)]))


def _side(one: Selection, shared: Selection) -> str:
    if one["value"].startswith(DENSE):
        return "dense"
    words = [METHODS[one["method"]].label] if "method" in one else []
    hidden = ("study", "value", "method", *shared)
    words += [_setting(key, value) for key, value in one.items() if key not in hidden]
    words += ["before training"] if one["value"].startswith(_BEFORE) else []
    return ", ".join(words)


def _setting(key: str, value: Any) -> str:
    if key == "ratio":
        return f"{100 * value:g} % removed"
    if key in ("model", "dataset", "shape"):
        return in_words(value)
    return "CPU" if (key, value) == ("card", "none") else f"{key}={text(value)}"


def _number(check: Check, result: Measured) -> str:
    form = f".{check.style.decimals}f"
    form = {"minus": f"+{form}", "divided_by": "#.3g"}.get(check.operation, form)
    one = result.estimate
    value, low, high = (f"{check.scale * v:{form}}" for v in (one.value, one.low, one.high))
    return value if one.low == one.high else f"{value} [{low}, {high}]"


def _section(one: Judged) -> str:
    lines = [f"### {one.name}\n", f"**{one.verdict}.** {one.claim.text} ({one.claim.source})"]
    lines += [one.claim.note] if one.claim.note else []
    rows = [(*row.cells[:-1], _link(row)) for row in one.rows]
    table = to_markdown(pd.DataFrame(rows, columns=_COLUMNS))
    return "\n".join([*lines, "", table, *_commands(one)])


def _link(row: Row) -> str:
    """The studies of a check, each with its section of the page of results."""
    names = Counter(record.partition("/")[0] for record in row.records)
    linked = [
        f"[{study}](serving.md)" if study.startswith(SERVED)
        else f"[{study}](results.md#{study}), {count} {'record' if count == 1 else 'records'}"
        for study, count in names.items()
    ]  # fmt: skip
    return ", ".join(linked) or row.cells[-1]


def _commands(one: Judged) -> Iterator[str]:
    """What would make the records that are missing."""
    for study in dict.fromkeys(row.missing for row in one.rows if row.missing):
        made = f"`{one.claim.command}`" if one.claim.command else "no command yet"
        if sweep_header(study):
            needs = f"[what it needs](../experiments/sweep/{study}.yaml)"
            made = f"`python run.py -m sweep={study}` ({needs})"
        yield f"Missing records of `{study}`: {made}.\n"


def _tally(one: Judged) -> str:
    counts = Counter(row.verdict for row in one.rows)
    words = {HOLDS: "hold", FAILS: "do not", OPEN: "not testable"}
    return ", ".join(f"{counts[verdict]} {words[verdict]}" for verdict in words if counts[verdict])


def main() -> int:
    """Write both files; 1 where the data file is wrong or a record is damaged."""
    try:
        parts = judged(DATA, results_dir())
    except (ClaimError, RecordError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    replace_file(PAGE, page(parts).encode())
    replace_file(REPORT, report(parts).encode())
    print(f"written to {PAGE} and {REPORT}")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    sys.exit(main())
