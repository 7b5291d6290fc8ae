import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stat_repro.plan import LayerPlan, PlanError, PruningPlan


def make_plan():
    layers = (LayerPlan((0, 2), (1, 3, 4), 3, 6), LayerPlan((), (), 3, 6))
    return PruningPlan(layers, "stat", {"cutoff": 0.5})


def test_json_round_trip_and_counts():
    plan = make_plan()
    assert PruningPlan.from_json(plan.to_json()) == plan
    assert len(plan.to_json().splitlines()) == 1 + len(plan.layers) + 1
    assert plan.head_counts == (2, 0)
    assert plan.neuron_counts == (3, 0)
    assert plan.layers[0].kept("ffn") == (1, 3, 4)
    assert plan.layers[0].units("attention") == 3


@pytest.mark.parametrize("kept", [(1, 1), (2, 0), (0, 3), (-1, 0)])
def test_indices_outside_or_unordered_are_refused(kept):
    with pytest.raises(PlanError, match="kept_heads"):
        LayerPlan(kept, (), 3, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan_version": 3}, "plan_version: expected 1 or 2; got 3"),
        ({"extra": 1}, "unknown keys"),
        ({"layers": [{"heads": 1}]}, "layer 0: missing keys"),
    ],
)
def test_foreign_json_is_refused(change, message):
    data = {**make_plan().to_dict(), **change}
    with pytest.raises(PlanError, match=message):
        PruningPlan.from_json(json.dumps(data))


def test_masks_are_as_documented():
    kept = (0, 2, 3, 5, 7)
    plan = PruningPlan((LayerPlan((0, 1, 11), kept, 12, 8), LayerPlan((), kept, 0, 9)), "stat")
    masks = plan.to_masks()
    assert masks["plan_version"] == 2
    assert masks["layers"] == [
        {
            **{"heads": 12, "kept_heads": 3, "head_mask": "110000000001"},
            **{"neurons": 8, "kept_neurons": 5, "neuron_mask": "b5"},
        },
        {
            **{"heads": 0, "kept_heads": 0, "head_mask": ""},
            **{"neurons": 9, "kept_neurons": 5, "neuron_mask": "b500"},
        },
    ]
    assert PruningPlan.from_dict(masks) == plan


@given(st.data())
def test_both_forms_of_any_plan_are_read(data):
    def kept(units):
        return tuple(sorted(data.draw(st.sets(st.integers(0, units - 1))) if units else ()))

    sizes = data.draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), max_size=3))
    layers = tuple(LayerPlan(kept(h), kept(f), h, f) for h, f in sizes)
    plan = PruningPlan(layers, "stat", {"cutoff": 0.5})
    for form in (plan.to_dict(), plan.to_masks()):
        assert PruningPlan.from_dict(json.loads(json.dumps(form))) == plan


@pytest.mark.parametrize(
    "change",
    [
        *({"head_mask": mask} for mask in ("11", "1010", "001", "201", "1x1")),
        *({"neuron_mask": mask} for mask in ("", "5 8", "5801", "59", "5C", "5", "xy")),
        *({"kept_heads": 1}, {"kept_neurons": 4}, {"heads": 2}, {"neurons": 12}, {"neurons": 3}),
    ],
)
def test_masks_that_contradict_the_counts_are_refused(change):
    data = make_plan().to_masks()
    assert data["layers"][0]["head_mask"] == "101"
    assert data["layers"][0]["neuron_mask"] == "58"
    data["layers"][0] |= change
    with pytest.raises(PlanError, match=r"layer 0: "):
        PruningPlan.from_dict(data)


def test_keys_of_the_other_form_are_refused():
    lists, masks = make_plan().to_dict(), make_plan().to_masks()
    for one, other in ((lists, masks), (masks, lists)):
        with pytest.raises(PlanError, match="layer 0: missing keys"):
            PruningPlan.from_dict({**one, "layers": other["layers"]})
