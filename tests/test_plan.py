import json

import pytest

from stat_repro.plan import LayerPlan, PlanError, PruningPlan, full_plan


def make_plan():
    layers = (LayerPlan((0, 2), (1, 3, 4), 3, 6), LayerPlan((), (), 3, 6))
    return PruningPlan(layers, "stat", {"cutoff": 0.5})


def test_json_round_trip_and_counts():
    plan = make_plan()
    assert PruningPlan.from_json(plan.to_json()) == plan
    assert plan.head_counts == (2, 0)
    assert plan.neuron_counts == (3, 0)
    assert plan.layers[0].kept("ffn") == (1, 3, 4)
    assert plan.layers[0].units("attention") == 3


def test_full_plan_keeps_everything():
    plan = full_plan([2, 1], [3, 4], "none")
    assert plan.head_counts == (2, 1)
    assert plan.neuron_counts == (3, 4)


@pytest.mark.parametrize("kept", [(1, 1), (2, 0), (0, 3), (-1, 0)])
def test_indices_outside_or_unordered_are_refused(kept):
    with pytest.raises(PlanError, match="kept_heads"):
        LayerPlan(kept, (), 3, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan_version": 2}, "plan_version 1, got 2"),
        ({"extra": 1}, "unknown keys"),
        ({"layers": [{"heads": 1}]}, "layer 0: missing keys"),
    ],
)
def test_foreign_json_is_refused(change, message):
    data = {**make_plan().to_dict(), **change}
    with pytest.raises(PlanError, match=message):
        PruningPlan.from_json(json.dumps(data))
