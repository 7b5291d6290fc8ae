"""Counted costs: operations, sizes and memory against counts by hand."""

import struct

import pytest
import torch
from pico_models import (
    ENCODERS,
    LLAMA_NAMES,
    PICO_HEADS,
    pico_model,
    random_plan,
    selection_edits,
)
from pico_surgery import pruned_of
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers.pytorch_utils import Conv1D

from stat_repro.allocation.costs import prunable_costs
from stat_repro.cost.compare import counted_costs
from stat_repro.cost.count import size_bytes, whole_model_macs
from stat_repro.cost.memory import forward_bytes
from stat_repro.models.adapter import adapter_for
from stat_repro.surgery.edit import prune_model

CPU = torch.device("cpu")
VARIANTS = [
    *((name, head) for name, head in PICO_HEADS if head != "ForMultipleChoice"),
    *((name, "ForCausalLM") for name in LLAMA_NAMES),
]


def linear_macs(model, length, once=()):
    """By hand: every Linear reads every token, except those of `once`, which read one position."""
    total = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            total += module.weight.numel() * (1 / length if name.endswith(once) else 1)
    return total


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [1, 23.6])
@pytest.mark.parametrize(
    ("name", "head", "once"),
    [
        ("bert", "ForSequenceClassification", ("pooler.dense", "classifier")),
        ("bert", "ForQuestionAnswering", ("none",)),
        ("roberta", "ForSequenceClassification", ("classifier.dense", "classifier.out_proj")),
        ("electra", "ForSequenceClassification", ("classifier.dense", "classifier.out_proj")),
        ("distilbert", "ForSequenceClassification", ("pre_classifier", "classifier")),
        ("llama_grouped", "ForCausalLM", ("none",)),
        ("llama_tied", "ForCausalLM", ("none",)),
        ("mistral", "ForCausalLM", ("none",)),
        ("qwen2_mixed", "ForCausalLM", ("none",)),
        ("gemma2", "ForCausalLM", ("none",)),
        ("gemma3", "ForCausalLM", ("none",)),
        ("olmo2", "ForCausalLM", ("none",)),
        ("phi3", "ForCausalLM", ("none",)),
        ("gpt2", "ForCausalLM", ("none",)),
        ("opt", "ForCausalLM", ("none",)),
        ("opt_post_norm", "ForCausalLM", ("none",)),
    ],
)
def test_whole_model_macs_are_those_counted_by_hand(name, head, once, length, attention):
    dense = pico_model(name, head, attention=attention)
    for model in (dense, pruned_of(dense)):
        products = sum(
            2 * site.columns * length for site in adapter_for(model).of_kind("attention")
        )
        expected = linear_macs(model, length, once) + products
        assert whole_model_macs(model, length) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "head"), VARIANTS)
def test_what_pruning_removes_from_the_whole_is_what_it_removes_from_the_prunable_part(name, head):
    dense = pico_model(name, head)
    pruned = pruned_of(dense, empty=[(1, "attention"), (2, "ffn")])
    whole = [whole_model_macs(model, 21.25) for model in (dense, pruned)]
    part = [prunable_costs(adapter_for(model), 21.25).macs for model in (dense, pruned)]
    assert whole[0] - whole[1] == pytest.approx(part[0] - part[1], rel=1e-12)
    assert whole[1] >= part[1]


def test_counted_costs_agree_with_the_plan():
    dense = pico_model("llama_grouped")
    plan = random_plan(dense, empty=[(0, "attention")])
    pruned = prune_model(dense, plan, selection_edits(dense, plan))
    costs = counted_costs(dense, pruned, 12.5)
    adapter = adapter_for(dense)
    for name, wanted in (("dense", None), ("pruned", plan)):
        prunable = prunable_costs(adapter, 12.5, wanted)
        assert costs["prunable_macs_per_token"][name] == prunable.macs
        assert costs["prunable_params"][name] == prunable.params
    assert costs["params"] == {"dense": dense.num_parameters(), "pruned": pruned.num_parameters()}
    assert costs["size_bytes"]["pruned"] < costs["size_bytes"]["dense"]


@pytest.mark.parametrize(
    "name", ["bert", "roberta", "electra", "distilbert", "llama_grouped", "llama_tied", "opt"]
)
@pytest.mark.parametrize("head", [None, "tied"])
def test_size_is_that_of_the_saved_file_without_its_header(name, head, tmp_path):
    head = "ForMaskedLM" if head and name in ENCODERS else None
    model = pico_model(name, head, dtype=torch.bfloat16)
    for which, one in (("dense", model), ("pruned", pruned_of(model))):
        one.save_pretrained(tmp_path / which)
        (path,) = (tmp_path / which).glob("*.safetensors")
        with path.open("rb") as file:
            (header,) = struct.unpack("<Q", file.read(8))
        assert size_bytes(one) == path.stat().st_size - 8 - header


class Known(nn.Module):
    """x (B, 8) to (B, 100), its relu, and back to (B, 8)."""

    def __init__(self):
        super().__init__()
        self.wide, self.back = nn.Linear(8, 100), nn.Linear(100, 8)

    def forward(self, x):
        return self.back(torch.relu(self.wide(x)))


def test_memory_of_a_pass_is_the_activations_that_live_together():
    model, x = Known(), torch.ones(5, 8)
    with torch.inference_mode():
        # The wide layer's output and its relu; the first is gone when the result is made.
        assert forward_bytes(lambda: model(x), CPU) == 2 * 5 * 100 * 4
        # Views and operations in place take nothing.
        assert forward_bytes(lambda: model.wide(x).relu_().view(-1)[7:].t(), CPU) == 5 * 100 * 4
        held = []
        assert forward_bytes(lambda: held.append(x + 1), CPU) == 5 * 8 * 4


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_memory_of_a_pass_agrees_with_the_allocator(name):
    model = pico_model(name)
    tokens = torch.ones(4, 16, dtype=torch.int64)

    @torch.inference_mode()
    def forward():
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens))

    forward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        forward()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert peak > 0
    # The allocator also sees what an operation takes for itself, which is little.
    assert forward_bytes(forward, CPU) == pytest.approx(peak, rel=0.03)


def test_memory_on_cuda_is_the_peak_of_the_allocator_above_what_was_there(monkeypatch):
    steps = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: steps.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda d: steps.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1234)
    assert forward_bytes(lambda: steps.append("forward"), torch.device("cuda:0")) == 234
    assert steps == ["wait", "reset", "forward", "wait"]
