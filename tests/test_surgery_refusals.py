"""Edits and plans that do not fit their model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import transformers as hf
from pico_models import (
    pico_model,
    random_plan,
    selection_edits,
)
from pico_surgery import assert_same_state, state_copy, whole

from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import UnsupportedModelError
from stat_repro.plan import PlanError
from stat_repro.surgery.edit import SiteEdit, SurgeryError, prune_model


def changed(edits: Sequence[SiteEdit], **changes: object) -> list[SiteEdit]:
    """The edits with fields of the one for layer 1's FFN replaced."""
    return [replace(edit, **changes) if edit.site.key == (1, "ffn") else edit for edit in edits]


def test_edits_that_do_not_fit_are_refused() -> None:
    model = pico_model("bert")
    before = state_copy(model)
    plan = random_plan(model)
    edits = selection_edits(model, plan)
    others = [edit for edit in edits if edit.site.key != (1, "ffn")]
    elsewhere = replace(adapter_for(model).site(1, "ffn"), layer=3)
    dropped = 20 - plan.neuron_counts[1]
    cases: list[tuple[list[SiteEdit], type[Exception], str]] = [
        (others, SurgeryError, f"layer 1 ffn .*drops {dropped} of 20 units"),
        ([*edits, edits[0]], SurgeryError, "layer 0 attention: expected one edit; got two"),
        (changed(edits, site=elsewhere), SurgeryError, "layer 3 ffn: an edit, but no such site"),
        (changed(edits, kept=(0,)), PlanError, r"layer 1 ffn .*got one that keeps \[0\]"),
        (changed(edits, consumer_weight=torch.zeros(24, 19)), SurgeryError, r"got \(24, 19\)"),
        (changed(edits, consumer_bias=torch.zeros(23)), SurgeryError, r"bias of shape \(24,\)"),
        (
            changed(edits, consumer_weight=torch.full((24, plan.neuron_counts[1]), torch.nan)),
            SurgeryError,
            "layer 1 ffn .*weight is not finite",
        ),
    ]
    for bad, error, message in cases:
        with pytest.raises(error, match=message):
            prune_model(model, plan, bad)
    assert_same_state(model, before)


def test_plan_of_another_shape_is_refused() -> None:
    model, other = pico_model("bert"), pico_model("llama_grouped")
    plan = random_plan(other)
    with pytest.raises(PlanError, match="a plan for 4 units, as the model has; got one for 3"):
        prune_model(model, plan, selection_edits(other, plan))


def test_unsupported_classes_are_refused() -> None:
    bert = pico_model("bert")
    next_sentence = hf.BertForNextSentencePrediction(bert.config)
    with pytest.raises(UnsupportedModelError, match=r"BertForNextSentencePrediction.*BertModel"):
        prune_model(next_sentence, whole(bert), [])
