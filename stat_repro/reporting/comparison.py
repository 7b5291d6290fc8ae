"""Variants of a study against a reference, paired by evaluated example and calibration seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stat_repro.config import PruningConfig
from stat_repro.reporting import bootstrap, fairness
from stat_repro.reporting.bootstrap import RESAMPLES, Estimate, Floats
from stat_repro.reporting.variants import ReportError, with_variants
from stat_repro.results import RunRecord, to_frame

Values = Mapping[str, NDArray[Any]]
Side = Sequence[tuple[RunRecord, Values | None]]

# Per task: the metric, and the distance to the dense model.
MEASURED = {
    "classification": ("correct", "kl"),
    "regression": ("squared_error", "squared_difference"),
    "similarity": ("squared_difference", "squared_difference"),
    "question_answering": ("f1", "kl"),
    "language_modeling": ("nll", "kl"),
}
# How much an example counts in the mean, where not every one counts the same.
_WEIGHTS = {("question_answering", "kl"): "windows"}


@dataclass(frozen=True)
class Comparison:
    """A variant against the reference at one ratio. Differences are variant minus reference.

    Attributes:
        model: Label of the model.
        dataset: Label of the data set.
        task: Task of the data set.
        reference: Label of the reference.
        variant: Label of the variant.
        ratio: Ratio of both.
        run_ids: Runs of the variant that were compared, seed by seed.
        reference_ids: Those of the reference.
        seeds: Calibration seeds that both have, with values per example.
        examples: Evaluated examples N; 0 where left out.
        macs: Mean difference of the shares of MACs kept; None without common seeds.
        left_out: Why there are no numbers; None if there are.
        whole_blocks: Whether one of the two removes whole blocks, so that MACs are only equal
            within half a block.
        metric: Difference of the task's metric (`MEASURED`), in the record's unit.
        fidelity: Difference of the distance to the dense model.
        fidelity_ratio: The variant's distance by the reference's.
        agreement: Difference of the agreement with the dense model, where the task has it.
    """

    model: str
    dataset: str
    task: str
    reference: str
    variant: str
    ratio: float
    run_ids: tuple[str, ...] = ()
    reference_ids: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    examples: int = 0
    macs: float | None = None
    left_out: str | None = None
    whole_blocks: bool = False
    metric: Estimate | None = None
    fidelity: Estimate | None = None
    fidelity_ratio: Estimate | None = None
    agreement: Estimate | None = None


@dataclass(frozen=True)
class _Run:
    record: RunRecord
    values: Values | None
    variant: str
    extras: tuple[str, ...]
    order: Any


@dataclass(frozen=True)
class _Pair:
    """A comparable pair: values of both, (N) each, added up over the seeds."""

    comparison: Comparison
    reference: Values
    variant: Values


def compare(
    records: Sequence[RunRecord],
    values: Mapping[str, Values],
    reference: str | None = None,
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """All variants of every model and data set against the reference, at every ratio.

    A model and data set takes part if it has several variants, the reference among them, and values
    per example.

    Args:
        records: Successful runs of a study.
        values: Values per example by run id (`stat_repro.results.read_examples`).
        reference: Label of the reference as in the tables; if None, faithful `stat` (all options of
            `PruningConfig` at their defaults), or the only form of `stat` that there is.
        resamples: Draws of the bootstrap.

    Raises:
        ReportError: No model and data set of the study has a variant of that label.
    """
    runs = _runs(records, values)
    groups: dict[tuple[str, str], list[_Run]] = {}
    for run in runs:
        groups.setdefault((run.record.model, run.record.dataset), []).append(run)
    if reference is not None and all(run.variant != reference for run in runs):
        labels = sorted({run.variant for run in runs})
        raise ReportError(f"reference: expected one of {'; '.join(labels)}; got {reference!r}")
    entries: list[Comparison | _Pair] = []
    for _, group in sorted(groups.items()):
        label = _faithful(group) if reference is None else reference
        measured = any(run.values is not None for run in group)
        if label is not None and measured and any(run.variant == label for run in group):
            entries += _against(label, group)
    return _measured(entries, resamples)


def compare_pairs(
    pairs: Sequence[tuple[Side, Side]], records: Sequence[RunRecord], resamples: int = RESAMPLES
) -> list[Comparison]:
    """Chosen runs against others, labelled by their methods.

    Args:
        pairs: Runs of one variant at one ratio, and those that they are compared with.
        records: All runs at hand, which tell what a unit costs.
        resamples: Draws of the bootstrap.
    """
    entries, units = [], fairness.units(records)
    for pair in pairs:
        runs, others = ([_Run(*run, "", (), None) for run in side] for side in pair)
        first, method = runs[0].record, others[0].record.method
        empty = Comparison(
            first.model, first.dataset, first.task, method, first.method, first.ratio
        )
        entries.append(_point(empty, others, runs, units[first.provenance.get("model_hash")]))
    return _measured(entries, resamples)


def _runs(records: Sequence[RunRecord], values: Mapping[str, Values]) -> list[_Run]:
    frame = with_variants(to_frame(records))
    rows = frame[["variant", "extras", "order"]].itertuples(index=False)
    return [
        _Run(record, values.get(record.run_id), *row)
        for record, row in zip(records, rows, strict=True)
    ]


def _faithful(group: Sequence[_Run]) -> str | None:
    """The variant with all pruning options at their defaults; of several, the plainest.

    Where a study has `stat` in one other form only (its selection at equal sizes, say), that one.
    """
    defaults = asdict(PruningConfig())
    faithful = [run for run in group if {**defaults, **run.record.config["pruning"]} == defaults]
    if faithful:
        return min(faithful, key=lambda run: (len(run.extras), run.order)).variant
    forms = {run.variant for run in group if run.record.method == "stat"}
    return forms.pop() if len(forms) == 1 else None


def _against(reference: str, group: Sequence[_Run]) -> list[Comparison | _Pair]:
    """One entry per variant and ratio, in the order of the tables."""
    points: dict[tuple[Any, str, float], list[_Run]] = {}
    for run in group:
        points.setdefault((run.order, run.variant, run.record.ratio), []).append(run)
    references = {key[2]: runs for key, runs in points.items() if key[1] == reference}
    entries, units = [], fairness.units([run.record for run in group])
    for key in sorted(points):
        if key[1] == reference:
            continue
        first = points[key][0].record
        empty = Comparison(first.model, first.dataset, first.task, reference, key[1], key[2])
        unit = units[first.provenance.get("model_hash")]
        entries.append(_point(empty, references.get(key[2], []), points[key], unit))
    return entries


def _point(
    empty: Comparison, references: Sequence[_Run], others: Sequence[_Run], unit: fairness.Unit
) -> Comparison | _Pair:
    """Both sides of a comparison, or why there is none."""
    sides = [{run.record.seed: run for run in runs} for runs in (references, others)]
    if [len(side) for side in sides] != [len(references), len(others)]:
        return replace(empty, left_out="several runs of one seed")
    common = sorted(set(sides[0]) & set(sides[1]))
    if not common:
        return replace(empty, left_out="the reference has no run of this ratio and seed")
    kept = [s for s in common if all(side[s].values is not None for side in sides)]
    left, right = ([side[s].record for s in kept or common] for side in sides)
    whole = any(fairness.removes_blocks(record) for record in (*left, *right))
    named = replace(empty, macs=fairness.mac_difference(left, right), whole_blocks=whole)
    ids = [tuple(record.run_id for record in one) for one in (left, right)]
    named = replace(named, reference_ids=ids[0], run_ids=ids[1])
    if not kept:
        return replace(named, left_out="no values per example")
    reasons = [fairness.identity_difference(a, b) for a, b in zip(left, right, strict=True)]
    reason = next((r for r in reasons if r is not None), fairness.mac_objection(left, right, unit))
    if reason is not None:
        return replace(named, left_out=reason)
    sums = [_over_seeds([side[s].values or {} for s in kept]) for side in sides]
    sizes = {len(value) for side in sums for value in side.values()}
    if len(sizes) != 1 or set(sums[0]) != set(sums[1]):
        return replace(named, left_out="other values per example")
    return _Pair(replace(named, seeds=tuple(kept), examples=sizes.pop()), *sums)


def _over_seeds(runs: Sequence[Values]) -> dict[str, Floats]:
    """Sum over the seeds of every example's values.

    The number of seeds divides last, with that of the examples: thirds would not add up exactly.
    """
    return {name: np.sum([run[name] for run in runs], axis=0, dtype=np.float64) for name in runs[0]}


def _measured(entries: Sequence[Comparison | _Pair], resamples: int) -> list[Comparison]:
    """Estimates of all pairs; those with equally many examples share one draw of them."""
    columns = [_columns(entry) if isinstance(entry, _Pair) else {} for entry in entries]
    by_size: dict[int, list[Floats]] = {}
    for column in (column for of_pair in columns for column in of_pair.values()):
        by_size.setdefault(len(column), []).append(column)
    drawn = {}
    for size, same_size in by_size.items():
        matrix = np.stack(same_size, axis=1)
        # Nothing that is not finite has an interval, and zero times infinity would spread.
        broken = ~np.isfinite(matrix).all(axis=0, keepdims=True)
        sums = bootstrap.resampled_sums(np.where(broken, 0.0, matrix), resamples)
        drawn[size] = iter(np.where(broken, np.nan, sums).T)
    result = []
    for entry, of_pair in zip(entries, columns, strict=True):
        if isinstance(entry, _Pair):
            draws = drawn[entry.comparison.examples]
            result.append(_estimated(entry.comparison, of_pair, {k: next(draws) for k in of_pair}))
        else:
            result.append(entry)
    return result


def _columns(pair: _Pair) -> dict[str, Floats]:
    """The values per example, (N), whose sums the estimates of a pair are made of."""
    task, seeds = pair.comparison.task, len(pair.comparison.seeds)
    columns = {}
    for name in (*MEASURED[task], "agree"):
        if name not in pair.reference:
            continue
        reference, variant = pair.reference[name], pair.variant[name]
        if (task, name) in _WEIGHTS:
            counts = pair.reference[_WEIGHTS[task, name]]
            columns[f"{name} weight"] = counts
            reference, variant = reference * (counts / seeds), variant * (counts / seeds)
        with np.errstate(invalid="ignore"):  # infinity minus infinity is undefined, as it should be
            columns[name] = variant - reference
        if name == MEASURED[task][1]:
            columns[f"{name} reference"] = reference
    return columns


def _estimated(
    comparison: Comparison, columns: Mapping[str, Floats], resampled: Mapping[str, Floats]
) -> Comparison:
    def quotient(above: str, below: str) -> Estimate:
        # Without weights every example counts the same, once per seed.
        weight: Any = np.float64(comparison.examples * len(comparison.seeds))
        drawn_weight = weight
        if below in columns:
            weight, drawn_weight = bootstrap.total(columns[below]), resampled[below]
        sums = bootstrap.total(columns[above]), weight
        return bootstrap.estimate(sums, (resampled[above], drawn_weight))

    metric, fidelity = MEASURED[comparison.task]
    # One plus the relative difference is exactly one where the two are the same.
    relative = quotient(fidelity, f"{fidelity} reference")
    ratio = Estimate(1 + relative.value, 1 + relative.low, 1 + relative.high)
    return replace(
        comparison,
        metric=quotient(metric, f"{metric} weight"),
        fidelity=quotient(fidelity, f"{fidelity} weight"),
        fidelity_ratio=ratio,
        agreement=quotient("agree", "agree weight") if "agree" in columns else None,
    )
