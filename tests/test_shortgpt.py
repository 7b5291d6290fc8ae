"""Whole layers: which go, and that nothing of them is left."""

import copy

import pytest
import torch
from pico_models import pico_batches, pico_model
from torch.nn import functional

import stat_repro
from stat_repro.allocation.costs import BudgetError
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.influence import layer_influence
from stat_repro.methods.shortgpt import layers_to_remove
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear

PRE_NORM = ["llama_grouped", "llama_bias", "mistral", "qwen2", "opt", "modernbert"]
POST_NORM = ["bert", "distilbert", "mpnet", "electra", "opt_post_norm"]


def without_layers(model, adapter, removed):
    """The model with layers taken out of its list."""
    model = copy.deepcopy(model)
    parent, _, _ = adapter.layer_names[0].rpartition(".")
    layers = model.get_submodule(parent)
    rest = torch.nn.ModuleList(one for i, one in enumerate(layers) if i not in removed)
    model.set_submodule(parent, rest)
    base = model.base_model
    for owner in (base, getattr(base, "decoder", base)):
        owner.config.num_hidden_layers = len(rest)
    return model


def with_own_norms(model):
    """The model with norms that are not what they are made with, so that mixing them up shows."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name.lower():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator).to(parameter))
    return model


def reads_no_cache(model):
    return {"use_cache": False} if adapter_for(model).layout.decoder else {}


@pytest.mark.parametrize("name", [*PRE_NORM, *POST_NORM])
def test_the_pruned_model_is_the_dense_one_without_the_layers(name, tmp_path):
    model = with_own_norms(pico_model(name, dtype=torch.float64))
    batches = pico_batches(model)
    result = stat_repro.compress(model, batches, ratio=1 / 3, method="shortgpt")
    removed = result.plan.details["removed_blocks"]
    influence = result.plan.details["block_influence"]
    first = int(name in POST_NORM)  # the norm in front of the first layer is no layer's
    assert removed == [influence.index(min(influence[first:]))]
    assert result.report.mac_kept_fraction == pytest.approx(2 / 3)
    for i, layer in enumerate(result.plan.layers):
        sizes = (len(layer.kept_heads), len(layer.kept_neurons))
        assert sizes == ((0, 0) if i in removed else (layer.heads, layer.neurons))
    expected = without_layers(model, adapter_for(model), removed)
    result.model.save_pretrained(tmp_path)
    loaded = type(result.model).from_pretrained(tmp_path, dtype=torch.float64)
    with torch.no_grad():
        logits = expected(**batches[0], **reads_no_cache(model)).logits
        close = {"rtol": 1e-4, "atol": 1e-4} if first else {}  # eps of the norms
        torch.testing.assert_close(result.model(**batches[0]).logits, logits, **close)
        assert torch.equal(loaded(**batches[0]).logits, result.model(**batches[0]).logits)


@pytest.mark.parametrize("name", POST_NORM)
def test_neighbouring_layers_with_norms_behind_the_sums_go_together(name):
    model = with_own_norms(pico_model(name, dtype=torch.float64))
    batches = pico_batches(model)
    before = copy.deepcopy(model.state_dict())
    result = stat_repro.compress(model, batches, ratio=2 / 3, method="shortgpt")
    assert result.plan.details["removed_blocks"] == [1, 2]
    expected = without_layers(model, adapter_for(model), [1, 2])
    with torch.no_grad():
        logits = expected(**batches[0], **reads_no_cache(model)).logits
        pruned = result.model(**batches[0]).logits
    torch.testing.assert_close(pruned, logits, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_the_first_layer_behind_a_norm_of_the_embeddings_stays():
    model = pico_model("bert")
    with pytest.raises(BudgetError, match=r"the first of 3 stays.*at most 0\.667"):
        stat_repro.compress(model, pico_batches(model), ratio=0.9, method="shortgpt")


@pytest.mark.parametrize("name", ["llama_grouped", "opt"])
def test_influence_is_one_minus_the_mean_cosine(name):
    model = pico_model(name, dtype=torch.float64)
    adapter = adapter_for(model)
    batches = pico_batches(model)
    streams = [[] for _ in adapter.layer_names]
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda m, args, kwargs, i=i: streams[i].append(
                args[0] if args else kwargs["hidden_states"]
            ),
            with_kwargs=True,
        )
        for i, name in enumerate(adapter.layer_names)
    ]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    for handle in handles:
        handle.remove()
    mask = torch.cat([batch["attention_mask"].flatten() for batch in batches]).bool()
    rows = [torch.cat([s.flatten(0, 1) for s in stream])[mask] for stream in streams]
    found = layer_influence(model, adapter, batches)
    for i in range(len(rows) - 1):
        cosine = functional.cosine_similarity(rows[i], rows[i + 1], dim=-1).mean()
        assert float(found[i]) == pytest.approx(float(1 - cosine), abs=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_adds_nothing_goes_first():
    model = pico_model("llama_bias", dtype=torch.float64)
    for kind in ("attention", "ffn"):
        consumer = linear(model, adapter_for(model).site(1, kind).consumer)
        consumer.weight.data.zero_()
        consumer.bias.data.zero_()
    batches = pico_batches(model)
    result = stat_repro.compress(model, batches, ratio=0.3, method="shortgpt")
    assert result.plan.details["removed_blocks"] == [1]
    with torch.no_grad():
        pruned, dense = (m(**batches[0]).logits for m in (result.model, model))
    torch.testing.assert_close(pruned, dense)


@pytest.mark.parametrize(
    ("ratio", "removed"), [(0.0, 0), (0.1, None), (0.2, 1), (1 / 3, 1), (0.4, None), (0.6, 2)]
)
def test_the_budget_is_met_within_half_a_layer_or_refused(ratio, removed):
    costs, order = [10.0, 10.0, 10.0], [2, 0, 1]
    if removed is None:
        with pytest.raises(BudgetError, match="3 layers meet ratios of k/3 and up to half a layer"):
            layers_to_remove(costs, order, ratio)
    else:
        assert layers_to_remove(costs, order, ratio) == set(order[:removed])


def test_layers_that_are_gone_already_are_passed_over():
    model = pico_model("llama_grouped", dtype=torch.float64)
    batches = pico_batches(model)
    once = stat_repro.compress(model, batches, ratio=1 / 3, method="shortgpt")
    twice = stat_repro.compress(once.model, batches, ratio=0.5, method="shortgpt")
    assert sorted(twice.plan.head_counts) == [0, 0, 3]
    assert once.plan.details["removed_blocks"] != twice.plan.details["removed_blocks"]
    assert twice.report.mac_kept_fraction == pytest.approx(0.5)


def test_a_refused_ratio_costs_no_pass_over_the_data(monkeypatch):
    model = pico_model("llama_grouped")
    name = "stat_repro.methods.shortgpt.layer_influence"
    monkeypatch.setattr(name, lambda *a: pytest.fail("measured"))
    with pytest.raises(BudgetError, match=r"ratio=0\.4"):
        stat_repro.compress(model, pico_batches(model), ratio=0.4, method="shortgpt")


def test_unusable_calibration_data_is_told():
    model = pico_model("llama_grouped")
    empty = {key: value * 0 for key, value in pico_batches(model, count=1)[0].items()}
    with pytest.raises(CalibrationError, match="no tokens"):
        stat_repro.compress(model, [empty], method="shortgpt")
    linear(model, "model.layers.1.mlp.down_proj").weight.data[:] = float("nan")
    with pytest.raises(CalibrationError, match=r"model\.layers\.1"):
        layer_influence(model, adapter_for(model), pico_batches(model))
