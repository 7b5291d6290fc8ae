"""Models that are never pruned are refused, by name and with the reason."""

from __future__ import annotations

import re

import pytest
import torch
import transformers as hf
from pico_models import pico_batches, pico_model, pico_outputs
from torch import nn

import stat_repro
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import UnsupportedModelError
from stat_repro.surgery.pruned_form import pruned_class


def with_config(config: hf.PreTrainedConfig) -> nn.Module:
    """The refusal needs no more of a model than its config."""
    model = nn.Module()
    model.config = config
    return model


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("t5", r"got 't5' \(an encoder and a decoder, which"),
        ("bart", "an encoder and a decoder"),
        ("mixtral", r"got 'mixtral' \(a mixture of experts, which are not pruned here"),
        ("qwen3_moe", "a mixture of experts"),
        ("deepseek_v3", "a mixture of experts"),
        ("vit", "a model of images or sound"),
        ("gemma3", r"got 'gemma3' \(a model of images or sound"),
        ("whisper", "a model of images or sound"),
        ("falcon", "got 'falcon'$"),
    ],
)
def test_other_kinds_of_models(model_type: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        adapter_for(with_config(hf.AutoConfig.for_model(model_type)))
    assert "stat_" not in str(caught.value)
    assert re.search("expected one of bert, .*gemma3_text, gpt2, ", str(caught.value))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_layers_that_attend_to_another_model(name: str) -> None:
    model = pico_model(name, "Model", is_decoder=True, add_cross_attention=True)
    with pytest.raises(UnsupportedModelError, match=r"config\.add_cross_attention of .*expected f"):
        stat_repro.compress(model, pico_batches(model))


def test_task_heads_that_have_no_pruned_form() -> None:
    model = hf.GPT2DoubleHeadsModel(hf.GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9))
    with pytest.raises(UnsupportedModelError, match="no pruned form of GPT2DoubleH") as caught:
        pruned_class(model)
    assert "GPT2LMHeadModel" in str(caught.value)
    assert "Llama" not in str(caught.value)
    assert "choose the backbone, model.transformer, and put" in str(caught.value)


def test_the_pruned_backbone_of_a_model_with_a_head_of_ones_own_takes_its_place() -> None:
    model = pico_model("llama_grouped")
    batch = pico_batches(model, 1)[0]
    wanted = pico_outputs(model, batch)
    model.model = stat_repro.compress(model.model, [batch], ratio=0.0).model
    torch.testing.assert_close(pico_outputs(model, batch), wanted)
