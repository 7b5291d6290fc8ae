"""What the records say about checks of docs/claims.yaml: values with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from claim_records import DENSE, ClaimError, Missing, Reading, Records, Selection

from stat_repro.reporting import fairness
from stat_repro.reporting.bootstrap import Estimate
from stat_repro.reporting.comparison import Comparison, Side, compare_pairs
from stat_repro.reporting.comparison_table import exponential
from stat_repro.results import RunRecord, read_examples

# What a paired comparison has of a quantity, by the operation, and the tasks that have it so.
_WITH_KL = ("classification", "question_answering", "language_modeling")
_PAIRED = {
    ("minus", "accuracy"): ("metric", ("classification",)),
    ("minus", "f1"): ("metric", ("question_answering",)),
    ("minus", "agreement"): ("agreement", _WITH_KL),
    ("divided_by", "perplexity"): ("metric", ("language_modeling",)),
    ("divided_by", "kl"): ("fidelity_ratio", _WITH_KL),
    ("divided_by", "mse_to_dense"): ("fidelity_ratio", ("regression", "similarity")),
}
_SAME_AS_DENSE = {"kl": 0, "squared_difference": 0, "agree": 1}


@dataclass(frozen=True)
class Question:
    """What is asked of the records.

    Attributes:
        measure: The selection that is measured.
        operation: `minus` or `divided_by` another selection; empty for neither.
        other: That selection; empty without an operation.
        over: `seeds`, or `examples` wherever both have values for each of them; with `seeds` the
            two may have other calibration examples.
        place: Where in the data file it is asked.
    """

    measure: Selection
    operation: str
    other: Selection
    over: str
    place: str


@dataclass(frozen=True)
class Measured:
    """A value in the records' units with its interval, what that is taken over, and the records."""

    estimate: Estimate
    over: str
    records: tuple[str, ...]


def measured(records: Records, questions: Sequence[Question]) -> list[Measured | Missing]:
    """The answers, in this order.

    Raises:
        ClaimError: Settings that leave several records of one seed; names the place.
        RecordError: A damaged record.
    """
    results: list[Measured | Missing | None] = []
    for one in questions:
        try:
            sides = [records.read(side) for side in (one.measure, one.other or one.measure)]
        except ClaimError as err:
            raise ClaimError(f"{one.place}: {err}") from err
        gone = next((side for side in sides if isinstance(side, Missing)), None)
        paired = gone is None and _over_examples(one, sides)
        results.append(None if paired else gone or _over_seeds(records, one, *sides))
    places = [i for i, result in enumerate(results) if result is None]
    pairs = [(questions[i].measure, questions[i].other) for i in places]
    studies = sorted({selection["study"] for pair in pairs for selection in pair})
    sides = [(_side(records, one), _side(records, other)) for one, other in pairs]
    # All in one go, so that they share the draws of examples.
    done = compare_pairs(sides, [run for study in studies for run, _ in records.runs(study)])
    for i, comparison in zip(places, done, strict=True):
        results[i] = _of_pairs(questions[i], comparison)
    return results


def _side(records: Records, selection: Selection) -> Side:
    """Runs with their values per example; with those of the dense model where that is asked."""
    side = []
    for run in (reading.run for reading in records.read(selection)):
        values = read_examples(run, records.root / run.study / f"{run.run_id}.json")
        if values is not None and selection["value"].startswith(DENSE):
            values = {
                name: np.full_like(array, _SAME_AS_DENSE[name])
                if name in _SAME_AS_DENSE
                else values.get(f"dense_{name}", array)
                for name, array in values.items()
            }
        side.append((run, values))
    return side


def _over_examples(one: Question, sides: Sequence[Sequence[Reading]]) -> bool:
    """Whether the comparison can be made example by example."""
    value = one.measure["value"]
    tasks = _PAIRED.get((one.operation, value), ("", ()))[1]
    stored = [
        {r.seed for r in side if r.run and r.run.task in tasks and r.run.provenance.get("examples")}
        for side in sides
    ]
    return (
        one.over == "examples"
        and one.other.get("value") in (value, DENSE + value)
        and not set.isdisjoint(*stored)
    )


def _of_pairs(one: Question, done: Comparison) -> Measured | Missing:
    if done.left_out is not None:
        return Missing(f"the runs do not compare: {done.left_out}")
    value = one.measure["value"]
    estimate = getattr(done, _PAIRED[one.operation, value][0])
    estimate = exponential(estimate) if value == "perplexity" else estimate
    if not all(map(math.isfinite, astuple(estimate))):
        return Missing("a value is not finite")
    names = [f"{one.measure['study']}/{run}" for run in done.run_ids]
    names += [f"{one.other['study']}/{run}" for run in done.reference_ids]
    seeds = "one seed" if len(done.seeds) == 1 else f"{len(done.seeds)} seeds"
    return Measured(estimate, f"{done.examples:,} examples, {seeds}", tuple(dict.fromkeys(names)))


def _over_seeds(
    records: Records, asked: Question, one: Sequence[Reading], other: Sequence[Reading]
) -> Measured | Missing:
    """Lowest to highest over the seeds that both have, spreads of single measurements included."""
    by_seed = {reading.seed: reading for reading in other}
    both = [(reading, by_seed[reading.seed]) for reading in one if reading.seed in by_seed]
    if not both:
        return Missing("no seed has both")
    if why := _objection(records, asked, [(a.run, b.run) for a, b in both]):
        return Missing(f"the runs do not compare: {why}")
    if not all(math.isfinite(r.value) for pair in both for r in pair):
        return Missing("a value is not finite")
    if asked.operation == "divided_by" and not all(b.low > 0 for _, b in both):
        return Missing("a divisor is not above 0")
    left, right = zip(*both, strict=True)
    value = statistics.fmean(r.value for r in left)
    ends = [(a.low, a.high) for a in left]
    if asked.operation == "minus":
        value -= statistics.fmean(r.value for r in right)
        ends = [(a.low - b.high, a.high - b.low) for a, b in both]
    elif asked.operation == "divided_by":
        value /= statistics.fmean(r.value for r in right)
        ends = [(a.low / b.high, a.high / b.low) for a, b in both]
    estimate = Estimate(value, min(low for low, _ in ends), max(high for _, high in ends))
    names = dict.fromkeys(reading.record for side in (left, right) for reading in side)
    seeds = f"lowest and highest of {len(both)} seeds"
    if len(both) == 1:
        seeds = left[0].spread or "one run"
    elif left[0].spread:
        seeds += f", {left[0].spread} included"
    return Measured(estimate, seeds, tuple(names))


def _objection(
    records: Records, asked: Question, pairs: Sequence[tuple[RunRecord | None, RunRecord | None]]
) -> str | None:
    """Why runs of equal seeds cannot be compared, in words; None if they can."""
    if all(a is b for a, b in pairs):  # a value of one run beside another value of it
        return None
    runs = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(runs) < len(pairs):
        return "one is no run"
    # Where seeds are asked for, the calibration sets may be what the claim is about.
    same = asked.over == "examples"
    reasons = [fairness.identity_difference(a, b, calibration=same) for a, b in runs]
    studies = {asked.measure["study"], asked.other["study"]}
    units = fairness.units([run for study in studies for run, _ in records.runs(study)])
    unit = units[runs[0][0].provenance.get("model_hash")]
    return next(filter(None, reasons), None) or fairness.mac_objection(
        *zip(*runs, strict=True), unit
    )
