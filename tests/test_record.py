from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from made_up_records import make_failure, make_record

from stat_repro.plan import LayerPlan, PruningPlan
from stat_repro.results import RecordError, RunRecord
from stat_repro.results.record import describe_error


def test_record_survives_json() -> None:
    for record in (make_record(), make_failure()):
        again = RunRecord.from_json(record.to_json())
        assert again == record


def test_record_of_before_with_lists_of_units_is_read() -> None:
    plan = PruningPlan((LayerPlan((0,), (1, 3), 2, 4),), "stat")
    old, new = make_record(plan=plan.to_dict()), make_record(plan=plan.to_masks())
    for record in (old, new):
        assert RunRecord.from_json(record.to_json()).layers == plan.layers
        assert RunRecord.from_json(json.dumps(record.to_dict(), indent=1)) == record
    assert make_failure().layers == ()


def test_text_has_a_line_per_key_and_per_flat_object() -> None:
    record = make_record(
        site_errors=[{"layer": 0, "sizes": [1, 2]}, {"layer": 1, "sizes": []}],
        costs={"lengths": [1, 2.5], "measured": [{"batch_size": 1, "speedup": {"median": 2.0}}]},
        memory={},
    )
    text = record.to_json()
    assert text.startswith('{\n "schema_version": 1,\n "run_id": "')
    assert text.endswith(',\n "error": null,\n "non_finite": {}\n}\n')
    rows = '{"layer": 0, "sizes": [1, 2]},\n  {"layer": 1, "sizes": []}'
    assert f'\n "site_errors": [\n  {rows}\n ],\n' in text
    assert '\n "costs": {\n  "lengths": [1, 2.5],\n  "measured": [\n   {\n    "batch_size"' in text
    assert '"speedup": {\n     "median": 2.0\n    }\n   }\n  ]\n },\n "memory": {},\n' in text
    assert RunRecord.from_json(text) == record


def test_issue_keys_are_top_level() -> None:
    keys = set(json.loads(make_record().to_json()))
    named = "schema_version run_id status model dataset method ratio seed mac_kept_fraction"
    named += " param_kept_fraction metrics timings plan config provenance costs memory site_errors"
    assert keys == {*named.split(), "content", "error", "non_finite"}


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_metric_is_strict_json_and_comes_back(value: float) -> None:
    record = make_record(pruned={"perplexity": value}, dense={"perplexity": 50.0})
    data = json.loads(record.to_json(), parse_constant=pytest.fail)
    assert data["metrics"]["pruned"]["perplexity"] is None
    assert data["non_finite"] == {"/metrics/pruned/perplexity": f"{value:g}"}
    assert RunRecord.from_dict(data) == record


def test_nan_in_lists_and_odd_keys_comes_back_and_null_stays_null() -> None:
    record = make_record(
        site_errors=[{"a/b~c": math.nan}, {"a/b~c": 1.0}], fidelity={"kl": None, "agreement": 1.0}
    )
    again = RunRecord.from_json(record.to_json())
    assert math.isnan(again.site_errors[0]["a/b~c"])
    assert again.metrics["fidelity"]["kl"] is None


def test_numbers_of_numpy_become_plain() -> None:
    record = make_record(pruned={"accuracy": np.float32(0.5)}, memory={"peak_bytes": np.int64(3)})
    data = json.loads(record.to_json())
    assert data["metrics"]["pruned"]["accuracy"] == 0.5
    assert data["memory"]["peak_bytes"] == 3


def test_value_without_json_form_is_named() -> None:
    with pytest.raises(RecordError, match=r"/costs/x/1.*Path"):
        make_record(costs={"x": [1, Path("y")]}).to_json()


@pytest.mark.parametrize("key", [f.name for f in fields(RunRecord)] + ["non_finite"])
def test_missing_key_is_named(key: str) -> None:
    data = make_record().to_dict()
    del data[key]
    with pytest.raises(RecordError, match=key):
        RunRecord.from_dict(data)


def test_unknown_key_and_other_version_are_refused() -> None:
    data = make_record().to_dict()
    with pytest.raises(RecordError, match=r"unknown keys \['extra'\]"):
        RunRecord.from_dict({**data, "extra": 1})
    with pytest.raises(RecordError, match="schema_version: expected 1; got 2"):
        RunRecord.from_dict({**data, "schema_version": 2})


@pytest.mark.parametrize(
    "pointer", ["/metrics/pruned/missing", "/metrics/pruned/accuracy", "/site_errors/7", ""]
)
def test_non_finite_note_must_lead_to_a_null(pointer: str) -> None:
    data = make_record().to_dict()
    with pytest.raises(RecordError, match="non_finite"):
        RunRecord.from_dict({**data, "non_finite": {pointer: "inf"}})


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": NaN}'])
def test_text_that_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(RecordError):
        RunRecord.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "done"}, "status: expected one of ok, failed"),
        ({"ratio": 1.0}, "ratio"),
        ({"ratio": "0.5"}, "ratio: expected Real"),
        ({"seed": True}, "seed"),
        ({"mac_kept_fraction": 1.2}, "mac_kept_fraction"),
        ({"mac_kept_fraction": None}, "without mac_kept_fraction"),
        ({"plan": {}}, "without plan"),
        ({"timings": {}}, r"without timings\.compress_s"),
        ({"metrics": {}}, r"without metrics\.dense"),
        ({"run_id": "../up"}, "run_id: expected a file name"),
        ({"run_id": "x.repeat-1"}, "repeat"),
        ({"error": {"type": "a", "message": "b", "traceback": "c"}}, "error"),
        ({"status": "failed"}, "error: a failed run needs"),
        ({"pruned": {"f1": 0.5}}, "dense has"),
        ({"pruned": {"accuracy": "high"}}, r"pruned\.accuracy: expected a number"),
        ({"pruned": {"accuracy": True}}, r"pruned\.accuracy: expected a number"),
    ],
)
def test_bad_values_are_refused(changes: dict, message: str) -> None:
    good = make_record()
    with pytest.raises(RecordError, match=message):
        make_record(**changes) if "pruned" in changes else replace(good, **changes)


def test_error_of_a_failed_run_has_its_cause() -> None:
    try:
        raise KeyError("layer 3")
    except KeyError as err:
        error = describe_error(err)
    assert error["type"] == "KeyError"
    assert "test_record.py" in error["traceback"]
    make_failure(error=error)
