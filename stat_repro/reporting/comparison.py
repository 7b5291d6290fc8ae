"""Variants of a study against a reference, paired by evaluated example and calibration seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stat_repro.config import PruningConfig
from stat_repro.reporting import bootstrap, fairness
from stat_repro.reporting.bootstrap import RESAMPLES, Estimate, Floats
from stat_repro.reporting.variants import ReportError, with_variants
from stat_repro.results import RunRecord

Values = Mapping[str, NDArray[Any]]
Side = Sequence[tuple[RunRecord, Values | None]]
Columns = dict[str, Floats]

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


def compare(
    frame: pd.DataFrame,
    values: Mapping[str, Values],
    reference: str | None = None,
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """All variants of every model and data set against the reference, at every ratio.

    A model and data set takes part if it has several variants, the reference among them, and values
    per example.

    Args:
        frame: Successful runs of a study, as `study_frame` gives them.
        values: Values per example by run id (`stat_repro.results.read_examples`).
        reference: Label of the reference as in the tables; if None, faithful `stat` (all options of
            `PruningConfig` at their defaults), or the only form of `stat` that there is.
        resamples: Draws of the bootstrap.

    Raises:
        ReportError: No model and data set of the study has a variant of that label.
    """
    frame = with_variants(frame)
    labels = sorted(set(frame["variant"]))
    if reference is not None and reference not in labels:
        raise ReportError(f"reference: expected one of {'; '.join(labels)}; got {reference!r}")
    entries = []
    for _, group in frame.groupby(["model", "dataset"]):
        label = _faithful(group) if reference is None else reference
        if label in set(group["variant"]) and not values.keys().isdisjoint(group["run_id"]):
            entries += _against(str(label), group, values)
    return _measured(entries, resamples)


def compare_pairs(
    pairs: Sequence[tuple[Side, Side]], records: Sequence[RunRecord]
) -> list[Comparison]:
    """Chosen runs against others, labelled by their methods.

    Args:
        pairs: Runs of one variant at one ratio, and those that they are compared with.
        records: All runs at hand, which tell what a unit costs.
    """
    units = fairness.units(records)
    entries = [
        _point(others[0][0].method, runs[0][0].method, others, runs, units)
        for runs, others in pairs
    ]
    return _measured(entries, RESAMPLES)


def _faithful(group: pd.DataFrame) -> str | None:
    """The variant with all pruning options at their defaults; of several, the plainest.

    Where a study has `stat` in one other form only (its selection at equal sizes, say), that one.
    """
    faithful = [one.typed_config.pruning == PruningConfig() for one in group["record"]]
    if any(faithful):
        forms = group[faithful]
        return min(zip(forms["extras"].map(len), forms["order"], forms["variant"], strict=True))[2]
    labels = set(group.loc[group["method"] == "stat", "variant"])
    return labels.pop() if len(labels) == 1 else None


def _against(
    reference: str, group: pd.DataFrame, values: Mapping[str, Values]
) -> list[tuple[Comparison, Columns]]:
    """One entry per variant and ratio, in the order of the tables."""
    units = fairness.units(group["record"].tolist())
    sides = {
        (form["variant"].iloc[0], form["ratio"].iloc[0]): [
            (record, values.get(record.run_id)) for record in form["record"]
        ]
        for _, form in group.groupby(["order", "variant", "ratio"])
    }
    return [
        _point(reference, variant, sides.get((reference, ratio), []), side, units)
        for (variant, ratio), side in sides.items()
        if variant != reference
    ]


def _point(
    reference: str, variant: str, references: Side, others: Side, units: Mapping[Any, fairness.Unit]
) -> tuple[Comparison, Columns]:
    """A comparison without its estimates, and what they are made of; nothing if left out."""
    first = others[0][0]
    named = Comparison(first.model, first.dataset, first.task, reference, variant, first.ratio)
    sides = [{record.seed: (record, of) for record, of in runs} for runs in (references, others)]
    if [len(side) for side in sides] != [len(references), len(others)]:
        return replace(named, left_out="several runs of one seed"), {}
    common = sorted(set(sides[0]) & set(sides[1]))
    if not common:
        return replace(named, left_out="the reference has no run of this ratio and seed"), {}
    kept = [s for s in common if all(side[s][1] is not None for side in sides)]
    left, right = ([side[s][0] for s in kept or common] for side in sides)
    named = replace(
        named,
        macs=fairness.mac_difference(left, right),
        whole_blocks=any(fairness.removes_blocks(record) for record in (*left, *right)),
        reference_ids=tuple(record.run_id for record in left),
        run_ids=tuple(record.run_id for record in right),
    )
    if not kept:
        return replace(named, left_out="no values per example"), {}
    reasons = [fairness.identity_difference(a, b) for a, b in zip(left, right, strict=True)]
    unit = units[first.provenance.get("model_hash")]
    reason = next((r for r in reasons if r is not None), fairness.mac_objection(left, right, unit))
    if reason is not None:
        return replace(named, left_out=reason), {}
    sums = [_over_seeds([side[s][1] or {} for s in kept]) for side in sides]
    sizes = {len(value) for side in sums for value in side.values()}
    if len(sizes) != 1 or set(sums[0]) != set(sums[1]):
        return replace(named, left_out="other values per example"), {}
    named = replace(named, seeds=tuple(kept), examples=sizes.pop())
    return named, _columns(named, *sums)


def _over_seeds(runs: Sequence[Values]) -> dict[str, Floats]:
    """Sum over the seeds of every example's values.

    The number of seeds divides last, with that of the examples: thirds would not add up exactly.
    """
    return {name: np.sum([run[name] for run in runs], axis=0, dtype=np.float64) for name in runs[0]}


def _measured(entries: Sequence[tuple[Comparison, Columns]], resamples: int) -> list[Comparison]:
    """Estimates of all pairs; those with equally many examples share one draw of them."""
    # Weights, and what several variants are compared with, are the same columns: drawn once.
    by_size: dict[int, dict[bytes, Floats]] = {}
    for one, columns in entries:
        of_size = by_size.setdefault(one.examples, {})
        of_size |= {column.tobytes(): column for column in columns.values()}
    drawn: dict[bytes, Floats] = {}
    for same_size in by_size.values():
        if not same_size:
            continue
        matrix = np.stack(list(same_size.values()), axis=1)
        # Nothing that is not finite has an interval, and zero times infinity would spread.
        broken = ~np.isfinite(matrix).all(axis=0, keepdims=True)
        sums = bootstrap.resampled_sums(np.where(broken, 0.0, matrix), resamples)
        drawn |= zip(same_size, np.where(broken, np.nan, sums).T, strict=True)
    return [
        _estimated(one, columns, {k: drawn[column.tobytes()] for k, column in columns.items()})
        if columns
        else one
        for one, columns in entries
    ]


def _columns(comparison: Comparison, references: Values, variants: Values) -> Columns:
    """The values per example, (N), whose sums the estimates of a pair are made of."""
    task, seeds = comparison.task, len(comparison.seeds)
    columns: Columns = {}
    for name in (*MEASURED[task], "agree"):
        if name not in references:
            continue
        weight = np.full(comparison.examples, float(seeds))
        if (task, name) in _WEIGHTS:
            weight = references[_WEIGHTS[task, name]]
        reference, variant = (side[name] * (weight / seeds) for side in (references, variants))
        with np.errstate(invalid="ignore"):  # infinity minus infinity is undefined, as it should be
            columns[name] = variant - reference
        columns[f"{name} weight"] = weight
        if name == MEASURED[task][1]:
            columns[f"{name} reference"] = reference
    return columns


def _estimated(comparison: Comparison, columns: Columns, resampled: Columns) -> Comparison:
    def quotient(above: str, below: str) -> Estimate:
        sums = bootstrap.total(columns[above]), bootstrap.total(columns[below])
        return bootstrap.estimate(sums, (resampled[above], resampled[below]))

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
