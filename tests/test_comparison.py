"""Paired comparisons: the bootstrap, what is compared with what, and the tables."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import made_up_examples as made
import numpy as np
import pytest
from made_up_examples import HASHES, HEAD, NEURON, compare, sentences

from stat_repro.config import TASKS
from stat_repro.reporting import bootstrap, fairness
from stat_repro.reporting.comparison import MEASURED
from stat_repro.reporting.comparison import compare as compare_records
from stat_repro.reporting.comparison_table import comparison_table
from stat_repro.reporting.variants import ReportError, study_frame


def test_seeds_are_averaged_and_differences_paired() -> None:
    reference = [made.run(sentences(s, 0.80, 0.05), seed=s) for s in (0, 1, 2)]
    variant = [made.run(sentences(s + 9, 0.76, 0.02), "flap", seed=s) for s in (0, 1, 3)]
    (found,) = compare(*reference, *variant)
    assert (found.reference, found.variant) == ("STAT", "FLAP")
    assert (found.seeds, found.examples, found.left_out) == ((0, 1), 400, None)
    assert (found.macs, found.whole_blocks) == (0, False)
    both = [
        {
            name: np.mean([made.decoded(data)[name] for _, data in runs[:2]], axis=0)
            for name in ("correct", "kl", "agree")
        }
        for runs in (reference, variant)
    ]
    pairs = ((found.metric, "correct"), (found.fidelity, "kl"), (found.agreement, "agree"))
    for got, name in pairs:
        difference = both[1][name] - both[0][name]
        assert got is not None
        assert got.value == pytest.approx(difference.mean(), rel=1e-6)
        error = float(difference.std()) / 20
        assert got.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.35 * error)
        assert got.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.35 * error)
    assert found.fidelity_ratio is not None
    ratio = both[1]["kl"].mean() / both[0]["kl"].mean()
    assert found.fidelity_ratio.value == pytest.approx(ratio)
    assert found.fidelity_ratio.low < ratio < found.fidelity_ratio.high < 1
    assert found.fidelity.excludes(0)


def test_equal_series_differ_by_exactly_nothing() -> None:
    values = sentences(0, 0.8, 0.05)
    (found,) = compare(made.run(values), made.run(values, "flap"))
    assert found.metric == found.fidelity == found.agreement == bootstrap.Estimate(0, 0, 0)
    assert found.fidelity_ratio == bootstrap.Estimate(1, 1, 1)


def test_a_difference_of_zero_is_zero_although_thirds_do_not_add_up() -> None:
    def flags(*correct: int) -> dict[str, np.ndarray]:
        values = np.array(correct, dtype=np.uint8)
        return {"correct": values, "kl": values.astype(np.float32), "agree": values}

    reference = [made.run(flags(0, i < 1, i < 2), seed=i) for i in range(3)]
    variant = [made.run(flags(1, 0, 0), "flap", seed=i) for i in range(3)]
    (found,) = compare(*reference, *variant)
    for estimate in (found.metric, found.fidelity, found.agreement):
        assert estimate is not None
        assert (estimate.value, found.seeds) == (0, (0, 1, 2))


def test_windows_of_a_question_count_as_in_the_record() -> None:
    def questions(kl: list[float], f1: list[float]) -> dict[str, np.ndarray]:
        flags = np.array([1, 0, 1], dtype=np.uint8)
        return {
            **{"f1": np.array(f1), "kl": np.array(kl), "agree": flags},
            "windows": np.array([3, 1, 1], dtype=np.int32),
        }

    first = made.run(questions([1, 2, 3], [0.5, 0, 1]), task="question_answering")
    second = made.run(questions([2, 2, 5], [0.5, 0.5, 1]), "flap", task="question_answering")
    (found,) = compare(first, second)
    assert found.fidelity is not None
    assert found.fidelity.value == pytest.approx((3 * 1 + 2) / 5)
    assert found.fidelity_ratio is not None
    assert found.fidelity_ratio.value == pytest.approx(13 / 8)
    assert found.metric is not None
    assert found.metric.value == pytest.approx(0.5 / 3)


def test_a_collapsed_variant_has_no_interval() -> None:
    values = sentences(0, 0.8, 0.05)
    broken = {**values, "kl": values["kl"].copy()}
    broken["kl"][3] = math.inf
    (found,) = compare(made.run(values), made.run(broken, "flap"))
    assert found.fidelity is not None
    assert (found.fidelity.value, math.isnan(found.fidelity.low)) == (math.inf, True)
    assert found.metric == bootstrap.Estimate(0, 0, 0)
    row = comparison_table([found]).cells.iloc[0]
    assert (row["KL difference"], row["KL ratio"]) == ("+inf", "inf")


def test_the_reference_is_faithful_stat_or_the_one_that_is_asked_for() -> None:
    values = sentences(0, 0.8, 0.05)
    runs = [
        made.run(values, "flap"),
        made.run(values, pruning={"allocation": "uniform"}),
        made.run(values),
        made.run(values, ratio=0.3),
    ]
    found = compare(*runs)
    assert {one.reference for one in found} == {"STAT, global"}
    assert [one.variant for one in found] == [
        "STAT, uniform",
        "FLAP",
    ]
    found = compare(*runs, reference="FLAP")
    assert [(one.variant, one.ratio, one.left_out) for one in found] == [
        ("STAT, global", 0.3, "the reference has no run of this ratio and seed"),
        ("STAT, global", 0.5, None),
        ("STAT, uniform", 0.5, None),
    ]
    with pytest.raises(ReportError, match=r"expected one of FLAP; .*; got 'flap'"):
        compare(*runs, reference="flap")
    # Without faithful stat its only form, if it has one only.
    assert [(one.reference, one.variant) for one in compare(*runs[:2])] == [
        ("STAT, uniform", "FLAP")
    ]
    other = made.run(values, pruning={"allocation": "uniform", "correction": "none"})
    assert compare(*runs[:2], other) == []
    assert compare(runs[0], made.run(values, "fisher")) == []
    assert compare(*runs[2:]) == []  # one variant
    records = [record for record, _ in runs]
    assert compare_records(study_frame(records), {}) == []  # no values


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": {"task": "classification", "split": "validation"}}, "another protocol"),
        ({"model_hash": "other"}, "another dense model"),
        ({"hashes": {"test": "other"}}, "other data"),
        ({"provenance": {"data_hashes": HASHES}}, "other calibration examples"),
        ({"neurons": (50, 41)}, "MACs kept differ by 2.70 points, more than half a unit (2.50)"),
        ({"heads": (2, 3)}, "MACs kept differ by 5.00 points, more than half a unit (2.50)"),
        ({"heads": (2, 3), "neurons": (50, 34)}, None),
        ({"neurons": (50, 42)}, None),
    ],
)
def test_unfair_comparisons_are_left_out_with_the_reason(
    change: dict[str, Any], reason: str | None
) -> None:
    runs = [made.run(sentences(s, 0.8, 0.05), seed=s) for s in (0, 1)]
    # One seed that does not fit is enough.
    variant = [
        made.run(sentences(5, 0.8, 0.05), "flap"),
        made.run(sentences(6, 0.8, 0.05), "flap", seed=1, **change),
    ]
    # Another protocol is another variant, see `with_variants`.
    found = [one for one in compare(*runs, *variant) if one.seeds != (0,)]
    assert [one.left_out for one in found] == [reason]
    assert (found[0].metric is None) == (reason is not None)


def test_runs_without_values_and_with_several_runs_of_a_seed_are_left_out() -> None:
    values = sentences(0, 0.8, 0.05)
    reference, variant = made.run(values), made.run(values, "flap")
    records = [reference[0], variant[0]]
    kept = {reference[0].run_id: made.decoded(reference[1])}
    (found,) = compare_records(study_frame(records), kept)
    assert found.left_out == "no values per example"
    twice = replace(variant[0], run_id="again"), variant[1]
    (found,) = compare(reference, variant, twice)
    assert found.left_out == "several runs of one seed"
    (found,) = compare(reference, made.run({**values, "more": values["kl"]}, "flap"))
    assert found.left_out == "other values per example"


def test_whole_blocks_are_compared_within_half_a_block_and_never_marked() -> None:
    reference = made.run(sentences(0, 0.8, 0.05), heads=(3, 2), neurons=(60, 60))
    details = {"allocation": "blocks"}
    blocks = made.run(
        sentences(1, 0.5, 0.5), "shortgpt", heads=(4, 0), neurons=(100, 0), details=details
    )
    (found,) = compare(reference, blocks)
    assert found.whole_blocks
    assert found.macs == pytest.approx(0.5 - (5 * HEAD + 120 * NEURON))
    assert found.metric is not None
    assert found.metric.excludes(0)
    row = comparison_table([found]).cells.iloc[0]
    assert row["MACs kept (points)"] == "-11.00"
    assert "*" not in row["difference"] + row["KL difference"] + row["KL ratio"]
    assert any("whole blocks" in note for note in comparison_table([found]).notes)
    far = made.run(sentences(0, 0.8, 0.05), heads=(4, 3), neurons=(90, 50))
    (found,) = compare(far, blocks)
    assert found.left_out == "MACs kept differ by 27.00 points, more than half a block (25.00)"


def test_costs_of_units_follow_from_the_records() -> None:
    records = [
        made.run(sentences(0, 0.8, 0.05), heads=heads, neurons=neurons)[0]
        for heads, neurons in (((2, 2), (50, 50)), ((3, 4), (20, 10)))
    ]
    unit = fairness.unit_shares(records)
    assert unit.single == pytest.approx(HEAD)
    assert unit.layer == pytest.approx(0.5)
    # Units in proportion to the dense ones, or MACs that do not follow from them.
    assert fairness.unit_shares(records[:1]) == fairness.Unit(None, None)
    odd = replace(records[1], mac_kept_fraction=0.6)
    assert fairness.unit_shares([records[0], odd, records[1]]) == fairness.Unit(None, None)
    objection = fairness.mac_objection(records[:1], [odd], fairness.Unit(None, None))
    assert objection == "MACs kept differ by 10.00 points, cost of a unit unknown"


def test_every_task_has_a_metric_to_compare() -> None:
    assert set(MEASURED) == set(TASKS)
