"""docs/claims.yaml: claims, the records they rest on, and the rules that decide about them.

A check measures one selection of records, by itself or against another one, and holds if the whole
interval meets the bounds. A selection with a list stands for one check per entry. The other
selection takes over every setting that it does not name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from claim_records import DENSE, ClaimError, Missing, full_name
from claim_values import Measured, Question
from omegaconf import OmegaConf

from stat_repro.reporting.styles import QuantityStyle, quantity_style

HOLDS, FAILS, OPEN = "holds", "does not hold", "not testable here"
OPERATIONS = {"minus": "minus", "divided_by": "/"}
_PART, _CLAIM = ("part", "letter", "claims"), ("claim", "source", "note", "command", "checks")
_CHECK = ("measure", *OPERATIONS, "over", "at_least", "at_most")
_FASTER = "speed-up "  # names of the benchmark go on with settings
_CORRELATIONS = ("pearson", "spearman", "matthews")
_STYLES = {
    "heads_kept": QuantityStyle("heads kept (%)", 100, 1, fraction=True),
    "neurons_kept": QuantityStyle("neurons kept (%)", 100, 1, fraction=True),
    "macs_kept": QuantityStyle("MACs kept (%)", 100, 2, fraction=True),
    "time_kept": QuantityStyle("share of the dense model's time (%)", 100, 1, fraction=True),
    "time_asked": QuantityStyle("share asked for (%)", 100, 1, fraction=True),
    "time_in_all": QuantityStyle("time to prune and train (s)", decimals=1),
    "training_steps": QuantityStyle("training steps", decimals=0),
    "training_seconds": QuantityStyle("seconds of training", decimals=0),
    "gradient_seconds": QuantityStyle("seconds of taking gradients", decimals=0),
    "speedup": QuantityStyle("times as fast as dense", decimals=2),
    "speedup_of_macs": QuantityStyle("speed-up that the MACs promise", decimals=2),
    "process_peak": QuantityStyle("peak memory of the process (GB)", 1e-9, 2),
    "compress_by_forward_passes": QuantityStyle(
        "time to compress / time of its forward passes", decimals=2
    ),
    "authors_ffn_by_gram_ffn": QuantityStyle(
        "time of the authors' factorisation / time of sums", decimals=2
    ),
}


@dataclass(frozen=True)
class Check(Question):
    """A question with a rule; bounds are in the unit that is shown."""

    at_least: float | None
    at_most: float | None

    @property
    def style(self) -> QuantityStyle:
        """Look of the quantity."""
        return style(self.measure["value"])

    @property
    def scale(self) -> float:
        """Factor from the records' unit to the one shown; a quotient has none."""
        return 1.0 if self.operation == "divided_by" else self.style.scale

    def rule(self) -> str:
        """The bounds in words."""
        bounds = {"at least": self.at_least, "at most": self.at_most}
        return " and ".join(f"{word} {b:,g}" for word, b in bounds.items() if b is not None)

    def verdict(self, result: Measured | Missing) -> tuple[str, str]:
        """The verdict, and why nothing can be said if so."""
        if isinstance(result, Missing):
            return OPEN, result.reason
        low, high = self.scale * result.estimate.low, self.scale * result.estimate.high
        least = -math.inf if self.at_least is None else self.at_least
        most = math.inf if self.at_most is None else self.at_most
        if least <= low and high <= most:
            return HOLDS, ""
        if high < least or most < low:
            return FAILS, ""
        return OPEN, "the interval lies on both sides of the bound"


@dataclass(frozen=True)
class Claim:
    """A claim in words, where it is made, what limits it, and its checks."""

    text: str
    source: str
    note: str
    command: str
    checks: tuple[Check, ...]


def style(value: str) -> QuantityStyle:
    """Look of a value of a selection."""
    if value.startswith(_FASTER):
        setting = value.removeprefix(_FASTER).replace(" ", ", ")
        return replace(_STYLES["speedup"], label=f"times as fast as dense, {setting}")
    return _STYLES.get(value) or quantity_style(value.rpartition(".")[2])


def together(verdicts: Sequence[str]) -> str:
    """The verdict of a claim: one check that fails decides, then one that cannot be made."""
    return next((one for one in (FAILS, OPEN) if one in verdicts), HOLDS)


def read_claims(path: Path) -> list[tuple[str, str, list[Claim]]]:
    """The parts of the page: title, the letter that names its claims, and these.

    Raises:
        ClaimError: An unknown key, a value that cannot be, or a rule that cannot fail; says where.
    """
    parts = []
    for i, part in enumerate(OmegaConf.to_container(OmegaConf.load(path))):
        _known(part, _PART, _PART, f"{path.name}: {i}")
        claims = []
        for j, given in enumerate(part["claims"]):
            place = f"{path.name}: {i}.claims.{j}"
            _known(given, _CLAIM, ("claim", "source", "checks"), place)
            checks: list[Check] = []
            for k, check in enumerate(given["checks"]):
                where = f"{place}.checks.{k}"
                _known(check, _CHECK, ("measure",), where)
                try:
                    checks += _expanded(check, where)
                except ClaimError as err:
                    raise ClaimError(f"{where}: {err}") from err
            if not checks:
                raise ClaimError(f"{place}.checks: expected at least one check; got none")
            words = (given["claim"], given["source"], given.get("note", ""))
            claims.append(Claim(*words, given.get("command", ""), tuple(checks)))
        parts.append((part["part"], part["letter"], claims))
    return parts


def _known(given: Any, keys: Sequence[str], needed: Sequence[str], place: str) -> None:
    if not isinstance(given, dict):
        raise ClaimError(f"{place}: expected a mapping; got {given!r}")
    if unknown := [key for key in given if key not in keys]:
        raise ClaimError(
            f"{place}.{unknown[0]}: expected a known key; got {unknown[0]!r}; choose one of "
            f"{', '.join(keys)}"
        )
    if missing := [key for key in needed if key not in given]:
        raise ClaimError(f"{place}.{missing[0]}: expected this key; got none")


def _expanded(given: Mapping[str, Any], place: str) -> Iterator[Check]:
    """One check for every combination of the entries of lists."""
    operations = [key for key in OPERATIONS if key in given]
    if len(operations) > 1:
        raise ClaimError(f"expected one of {', '.join(OPERATIONS)}; got both")
    over = given.get("over", "examples")
    if over not in ("examples", "seeds"):
        raise ClaimError(f"over: expected examples or seeds; got {over!r}")
    operation = operations[0] if operations else ""
    for one in _combinations(given["measure"]):
        for key in ("study", "value"):
            if key not in one:
                raise ClaimError(f"measure.{key}: expected this key; got none")
        changes = _combinations(given[operation]) if operation else [{}]
        for change in changes:
            other = {**one, **change} if operation else {}
            bounds = given.get("at_least"), given.get("at_most")
            check = Check(one, operation, other, over, place, *bounds)
            _check(check)
            yield check


def _combinations(selection: Mapping[str, Any]) -> list[dict[str, Any]]:
    lists = [value if isinstance(value, list) else [value] for value in selection.values()]
    return [dict(zip(selection, values, strict=True)) for values in product(*lists)]


def _check(check: Check) -> None:
    """Refuse settings that do not exist, and a rule whose outcome is known beforehand."""
    for one in filter(None, (check.measure, check.other)):
        for key in one:
            if key not in ("study", "value"):
                full_name(one["study"], key)
    if check.measure == check.other:
        raise ClaimError(f"{check.operation}: expected another selection; got the same one")
    bounds = {k: getattr(check, k) for k in ("at_least", "at_most")}
    there = {key: bound for key, bound in bounds.items() if bound is not None}
    if not there:
        raise ClaimError(
            "at_least, at_most: expected one of them; got none: such a rule cannot fail"
        )
    for key, bound in there.items():
        if isinstance(bound, bool | str) or not math.isfinite(bound):
            raise ClaimError(f"{key}: expected a finite number; got {bound!r}")
    if len(there) == 2 and there["at_least"] > there["at_most"]:
        raise ClaimError(f"at_least: expected no more than at_most; got {check.rule()}")
    low, high = _range(check)
    never_fails = there.get("at_least", math.inf) <= low or there.get("at_most", -math.inf) >= high
    never_holds = there.get("at_least", low) > high or there.get("at_most", high) < low
    if never_fails or never_holds:
        raise ClaimError(
            f"{', '.join(there)}: expected a bound between {low:g} and {high:g}, where the numbers "
            f"can be; got {check.rule()}: such a rule cannot {'fail' if never_fails else 'hold'}"
        )


def _range(check: Check) -> tuple[float, float]:
    """Between what a check's number must lie, in the unit that is shown."""
    value = check.measure["value"].removeprefix(DENSE)
    low, high = (0.0, check.scale if check.style.fraction else math.inf)
    if value in _CORRELATIONS:
        low = -1.0
    if check.operation == "divided_by":
        return 0.0, math.inf
    return (low - high, high - low) if check.operation == "minus" else (low, high)
