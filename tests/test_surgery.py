"""Surgery against masked dense models, and what it leaves alone."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers as hf
from pico_models import (
    EMPTY_SITES,
    PICO_HEADS,
    PICO_NAMES,
    REPRESENTATIVES,
    masked_model,
    pico_batches,
    pico_model,
    pico_outputs,
    precise_dtype,
    random_plan,
    selection_edits,
)
from pico_surgery import assert_same_state, state_copy, whole
from transformers import PreTrainedModel

from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear
from stat_repro.plan import LayerPlan, PruningPlan
from stat_repro.surgery.edit import SiteEdit, SurgeryError, prune_model, temporarily_pruned


def assert_equal_outputs(a: PreTrainedModel, b: PreTrainedModel, *, exact: bool = False) -> None:
    for batch in pico_batches(a, 2):
        tolerance = 0.0 if exact else 1e-9 if a.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(
            pico_outputs(a, batch), pico_outputs(b, batch), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize(("name", "head"), PICO_HEADS)
def test_full_plan_gives_equal_outputs_with_every_head(name: str, head: str) -> None:
    model = pico_model(name, head)
    pruned = prune_model(model, whole(model), [])
    assert type(pruned).__name__ == f"Stat{type(model).__name__}"
    assert_equal_outputs(model, pruned, exact=True)


@pytest.mark.parametrize(("name", "head"), PICO_HEADS)
def test_every_head_equals_the_masked_model(name: str, head: str) -> None:
    model = pico_model(name, head, dtype=torch.float64)
    plan = random_plan(model)
    assert_equal_outputs(
        prune_model(model, plan, selection_edits(model, plan)), masked_model(model, plan)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PICO_NAMES)
def test_selection_equals_the_masked_model(name: str, attention: str) -> None:
    model = pico_model(name, dtype=precise_dtype(name, attention), attention=attention)
    before = state_copy(model)
    plan = random_plan(model, seed=3)
    pruned = prune_model(model, plan, selection_edits(model, plan))
    assert pruned.config._attn_implementation == model.config._attn_implementation
    assert pruned.num_parameters() < model.num_parameters()
    assert_equal_outputs(pruned, masked_model(model, plan))
    dense = [pico_outputs(m, pico_batches(m, 1)[0]) for m in (pruned, model)]
    assert (dense[0] - dense[1]).abs().max() > 1e-3
    assert_same_state(model, before)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*REPRESENTATIVES, "qwen2_mixed", "opt_post_norm"])
@pytest.mark.parametrize("where", EMPTY_SITES)
def test_sites_that_keep_nothing(where: str, name: str, attention: str) -> None:
    model = pico_model(name, dtype=precise_dtype(name, attention), attention=attention)
    plan = random_plan(model, empty=EMPTY_SITES[where])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruned = prune_model(model, plan, selection_edits(model, plan))
    assert_equal_outputs(pruned, masked_model(model, plan))


@pytest.mark.parametrize("name", [*REPRESENTATIVES, "llama_bias", "opt_bare"])
def test_new_weights_and_biases_reach_the_consumer(name: str) -> None:
    """A bias on some layers only, also where the architecture has none."""
    model = pico_model(name, dtype=torch.float64)
    plan = random_plan(model)
    expected = masked_model(model, plan)
    edits = []
    for edit in selection_edits(model, plan):
        weight, bias = 2 * edit.consumer_weight, torch.linspace(-1, 1, 24, dtype=torch.float64)
        edits.append(SiteEdit(edit.site, edit.kept, weight, bias if edit.site.layer else None))
        consumer = linear(expected, edit.site.consumer)
        consumer.weight.data *= 2
        if edit.site.layer:
            consumer.module.bias = torch.nn.Parameter(bias)
    pruned = prune_model(model, plan, edits)
    own = linear(model, adapter_for(model).site(0, "ffn").consumer).bias is not None
    assert pruned.config.ffn_output_bias_per_layer == [own, True, True]
    assert_equal_outputs(pruned, expected)


def test_site_that_drops_nothing_may_have_an_edit() -> None:
    model = pico_model("bert", dtype=torch.float64)
    weight = torch.randn(24, 20, dtype=torch.float64)
    edit = SiteEdit(adapter_for(model).site(1, "ffn"), tuple(range(20)), weight)
    pruned = prune_model(model, whole(model), [edit])
    assert torch.equal(pruned.bert.encoder.layer[1].output.dense.weight, weight)
    assert not torch.equal(model.bert.encoder.layer[1].output.dense.weight, weight)


@pytest.mark.parametrize("name", PICO_NAMES)
def test_pruning_a_pruned_model_composes(name: str) -> None:
    model = pico_model(name, dtype=torch.float64)
    first = random_plan(model, seed=1, empty=[(0, "attention")], whole=[(1, "ffn")])
    once = prune_model(model, first, selection_edits(model, first))
    second = random_plan(once, seed=2)
    twice = prune_model(once, second, selection_edits(once, second))
    layers = tuple(
        LayerPlan(
            tuple(a.kept_heads[i] for i in b.kept_heads),
            tuple(a.kept_neurons[i] for i in b.kept_neurons),
            a.heads,
            a.neurons,
        )
        for a, b in zip(first.layers, second.layers, strict=True)
    )
    direct = PruningPlan(layers, "random")
    assert type(twice) is type(once)
    assert twice.config.ffn_size_per_layer == list(direct.neuron_counts)
    assert_equal_outputs(twice, masked_model(model, direct))


@pytest.mark.parametrize("name", PICO_NAMES)
def test_temporarily_pruned_is_the_pruned_model_and_leaves_no_trace(name: str) -> None:
    model = pico_model(name)
    modules, before = dict(model.named_modules()), state_copy(model)
    plan = random_plan(model, whole=[(i, "attention") for i in range(3)])
    edits = [edit for edit in selection_edits(model, plan) if edit.site.kind == "ffn"]
    pruned = prune_model(model, plan, edits)
    with temporarily_pruned(model, edits):
        assert_equal_outputs(model, pruned, exact=True)
        assert [s.units for s in adapter_for(model).of_kind("ffn")] == list(plan.neuron_counts)
    assert dict(model.named_modules()) == modules
    assert_same_state(model, before)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_temporarily_pruned_heads_and_errors(name: str) -> None:
    model = pico_model(name, dtype=precise_dtype(name, "eager"), attention="eager")
    modules, batch = dict(model.named_modules()), pico_batches(model, 1)[0]
    kinds, outputs = [type(module) for module in modules.values()], pico_outputs(model, batch)
    plan = random_plan(model, empty=[(0, "attention")])
    edits = selection_edits(model, plan)
    pruned = prune_model(model, plan, edits)

    def block() -> None:
        assert_equal_outputs(model, pruned, exact=True)
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), temporarily_pruned(model, edits):
        block()
    assert dict(model.named_modules()) == modules
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(pico_outputs(model, batch), outputs)
    bad = [edits[0], SiteEdit(adapter_for(model).site(2, "ffn"), (0, 1), torch.zeros(24, 3))]
    with (
        pytest.raises(SurgeryError, match="layer 2 ffn"),
        temporarily_pruned(model, bad),
    ):
        pytest.fail("the block must not run")
    assert dict(model.named_modules()) == modules


def test_no_tensor_is_shared_with_the_source() -> None:
    for name in PICO_NAMES:
        model = pico_model(name)
        pruned = prune_model(model, whole(model), [])
        tensors = [*model.parameters(), *model.buffers()]
        shared = {t.data_ptr() for t in tensors} & {
            t.data_ptr() for t in [*pruned.parameters(), *pruned.buffers()]
        }
        assert not shared
        assert all(t.device.type == "cpu" for t in [*pruned.parameters(), *pruned.buffers()])


def test_state_outside_the_weights_is_carried_over() -> None:
    model = pico_model("llama_tied", dtype=torch.bfloat16)
    model.generation_config.temperature = 0.625
    model.loss_function = lambda *_, **options: torch.tensor(7.0)
    model.train()
    model.model.layers[1].eval()
    model.model.embed_tokens.weight.requires_grad_(False)
    model.model.layers[0].mlp.down_proj.requires_grad_(False)
    plan = random_plan(model)
    pruned = prune_model(model, plan, selection_edits(model, plan))
    assert {p.dtype for p in pruned.parameters()} == {torch.bfloat16}
    assert pruned.generation_config.temperature == 0.625
    assert pruned.loss_function is model.loss_function
    assert pruned.generation_config is not model.generation_config
    assert pruned.training
    assert pruned.model.layers[0].mlp.training
    assert not pruned.model.layers[1].mlp.training
    frozen = {name for name, p in pruned.named_parameters() if not p.requires_grad}
    assert frozen == {"model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"}
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("name", "rope"),
    [
        *(("llama_grouped", rope) for rope in ("dynamic", "llama3", "yarn")),
        ("mistral", "dynamic"),
        ("qwen2", "yarn"),
    ],
)
def test_rotary_scaling_is_carried_over(name: str, rope: str) -> None:
    parameters = {"rope_type": rope, "rope_theta": 10000.0, "factor": 2.0}
    if rope == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if rope != "dynamic":
        parameters["original_max_position_embeddings"] = 16
    model = pico_model(name, rope_parameters=parameters, max_position_embeddings=20)
    long = pico_batches(model, 1, length=30)[0]
    short = pico_batches(model, 1, length=9)[0]
    pico_outputs(model, long)  # stretches dynamic frequencies before the copy
    pruned = prune_model(model, whole(model), [])
    for batch in (long, short):
        assert torch.equal(pico_outputs(pruned, batch), pico_outputs(model, batch))


def test_bert_without_pooler() -> None:
    model = hf.BertModel(pico_model("bert").config, add_pooling_layer=False).eval()
    pruned = prune_model(model, whole(model), [])
    assert pruned.pooler is None
    assert_equal_outputs(model, pruned, exact=True)
