"""Pruned models, the plan that keeps everything, and the state of a model before and after."""

from __future__ import annotations

import torch
from pico_models import (
    random_plan,
    selection_edits,
)
from torch import Tensor
from transformers import PreTrainedModel

from stat_repro.models.adapter import adapter_for
from stat_repro.plan import LayerPlan, PruningPlan
from stat_repro.surgery.edit import prune_model


def state_copy(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(model: PreTrainedModel, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def whole(model: PreTrainedModel) -> PruningPlan:
    """The plan that keeps everything."""
    attention, ffn = (adapter_for(model).of_kind(kind) for kind in ("attention", "ffn"))
    sizes = [(a.units, f.units) for a, f in zip(attention, ffn, strict=True)]
    layers = tuple(LayerPlan(tuple(range(h)), tuple(range(f)), h, f) for h, f in sizes)
    return PruningPlan(layers, "none")


def pruned_of(model: PreTrainedModel, **choice: object) -> PreTrainedModel:
    """Pruned at random without correction; the choice is that of `random_plan`."""
    plan = random_plan(model, **choice)
    return prune_model(model, plan, selection_edits(model, plan))
