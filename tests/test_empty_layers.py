"""Layers that lost all heads or all neurons: modules without weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers as hf
from pico_models import (
    DECODER_NAMES,
    EMPTY_SITES,
    ENCODERS,
    PICO_NAMES,
    REPRESENTATIVES,
    masked_model,
    pico_batches,
    pico_model,
    pico_outputs,
    random_plan,
    selection_edits,
)
from pico_surgery import pruned_of
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.configuration_utils import get_head_shapes

import stat_repro
from stat_repro.models.adapter import adapter_for
from stat_repro.models.layers_stat import EmptyLinear
from stat_repro.models.projections import linear
from stat_repro.surgery.edit import prune_model

DECODERS = [name for name in REPRESENTATIVES if name in DECODER_NAMES]
EMPTY = [(0, "attention"), (1, "ffn"), (2, "attention"), (2, "ffn")]


def auto_class(name: str) -> type:
    return (
        hf.AutoModelForSequenceClassification if name in ENCODERS else hf.AutoModelForCausalLM
    )  # what `pico_model` makes by default


@pytest.mark.parametrize("name", PICO_NAMES)
def test_a_site_without_units_has_a_bias_at_most(name: str) -> None:
    dense = pico_model(name)
    model = pruned_of(dense, empty=EMPTY)
    assert all(parameter.numel() for parameter in model.parameters())
    assert all(tensor.numel() for tensor in model.state_dict().values())
    assert not [m for m in model.modules() if isinstance(m, nn.Linear) and 0 in m.weight.shape]
    for site in adapter_for(model).sites:
        consumer = linear(model, site.consumer)
        assert isinstance(consumer.module, EmptyLinear) == (site.key in EMPTY)
        assert (consumer.bias is None) == (linear(dense, site.consumer).bias is None)
        assert consumer.out_features == linear(dense, site.consumer).out_features
        names = {site.consumer, *(producer.module for producer in site.producers)}
        listed = {name for name, _ in model.named_modules()} & names
        if site.key in EMPTY:
            assert listed == ({site.consumer} if consumer.bias is not None else set())
        else:
            assert listed == names


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_gradients_of_what_is_in_front_of_nothing_are_zeros(name: str) -> None:
    """Plain DistributedDataParallel waits for a gradient of every parameter."""
    model = pruned_of(pico_model(name), empty=EMPTY_SITES["everything"]).train()
    model(**pico_batches(model, 1)[0]).logits.sum().backward()
    # What no layer is left to read: MPNet's table of positions, which all layers share.
    outside = ("pooler", "relative_attention_bias")
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not [name for name in without if not any(part in name for part in outside)]


@pytest.mark.parametrize("name", sorted({*ENCODERS} - {"mpnet"}))  # MPNet has its own attention
def test_an_encoder_layer_without_heads_calls_no_attention(name: str) -> None:
    calls: list[int] = []

    def counted(module: nn.Module, query: torch.Tensor, *rest: object, **options: object) -> tuple:
        calls.append(query.shape[1])
        return query.transpose(1, 2), None

    AttentionInterface.register("counted", counted)
    model = pruned_of(pico_model(name), empty=EMPTY, whole=[(1, "attention")])
    model.config._attn_implementation = "counted"
    pico_outputs(model, pico_batches(model, 1)[0])
    assert calls == [4]


def as_earlier(folder: Path, model: PreTrainedModel, dense: PreTrainedModel) -> None:
    """Give a folder the tensors without elements that folders had until 0.1.0."""
    tensors = load_file(folder / "model.safetensors")
    biases = [name for name in dense.state_dict() if name.endswith(".bias")]
    for site in adapter_for(model).sites:
        if site.units:
            continue
        for module in (site.consumer, *(producer.module for producer in site.producers)):
            weight = model.get_submodule(module).weight
            tensors[f"{module}.weight"] = weight
            if f"{module}.bias" in biases and not len(weight):
                tensors[f"{module}.bias"] = torch.empty(0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_folders_with_tensors_without_elements_still_load(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense = pico_model(name)
    plan = random_plan(dense, empty=EMPTY)
    model = prune_model(dense, plan, selection_edits(dense, plan))
    stat_repro.save_pruned(model, tmp_path / "earlier", plan=plan, base_model="pico")
    as_earlier(tmp_path / "earlier", model, dense)
    again, report = auto_class(name).from_pretrained(tmp_path / "earlier", output_loading_info=True)
    assert not any(report.values())
    batches = pico_batches(model)
    assert torch.equal(pico_outputs(again.eval(), batches[0]), pico_outputs(model, batches[0]))
    usual = stat_repro.compress(again, batches, ratio=0.3)
    caplog.clear()
    result = stat_repro.compress_checkpoint(
        tmp_path / "earlier", tmp_path / "again", batches, ratio=0.3, device="cpu"
    )
    assert not [record for record in caplog.records if "left out" in record.message]
    assert result.plan == usual.plan
    smaller = auto_class(name).from_pretrained(tmp_path / "again").eval()
    outputs = [pico_outputs(one, batches[0]) for one in (smaller, usual.model.eval())]
    assert torch.equal(*outputs)


def test_the_config_of_every_layer_has_its_counts(tmp_path: Path) -> None:
    model = pruned_of(pico_model("llama_grouped"), empty=[(0, "attention"), (1, "ffn")])
    model.config.save_pretrained(tmp_path)
    config = hf.AutoConfig.from_pretrained(tmp_path)
    written = config.to_diff_dict()["per_layer_config"]
    assert written["0"] == {
        "num_attention_heads": 0,
        "num_key_value_heads": 0,
        "intermediate_size": config.ffn_size_per_layer[0],
    }
    layers = config.per_layer_config
    assert [layer.intermediate_size for layer in layers] == config.ffn_size_per_layer
    assert [layer.num_attention_heads for layer in layers][1:] == config.query_heads_per_layer[1:]
    # The shapes of the cache; a layer without heads counts its tokens there.
    heads, sizes = get_head_shapes(config)
    assert heads == [1, *config.kv_heads_per_layer[1:]]
    assert sizes == [1, 6, 6]
    assert layers["full_attention"] is config
    assert config.num_attention_heads == 6


def test_continuous_batching_is_refused_where_heads_differ() -> None:
    model = pruned_of(pico_model("llama_grouped"), empty=[(0, "attention")])
    with pytest.raises(NotImplementedError, match=r"expected 3 key/value heads.*; choose generate"):
        model.generate_batch([[5, 6, 7]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_copy_without_gradients_in_bfloat16(attention: str) -> None:
    model = pico_model("opt", attention=attention)
    plan = random_plan(model, empty=EMPTY)
    small = prune_model(model, plan, selection_edits(model, plan))
    batch = pico_batches(model, 1)[0]
    torch.testing.assert_close(
        pico_outputs(copy.deepcopy(small), batch), pico_outputs(masked_model(model, plan), batch)
    )
    assert pico_outputs(small.to(torch.bfloat16), batch).dtype == torch.bfloat16


@pytest.mark.parametrize("name", DECODERS)
def test_a_cache_that_was_made_without_a_config(name: str) -> None:
    """It gets its slots one by one, as the layers use it."""
    model = pruned_of(pico_model(name), empty=[(1, "attention")])
    ids = pico_batches(model, 1)[0]["input_ids"][:1]
    wanted = model(input_ids=ids).logits
    cache = hf.DynamicCache()
    parts = [model(input_ids=part, past_key_values=cache).logits for part in ids.split(5, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "distilbert", "mpnet", "gpt2", "opt", "qwen3"])
@torch.no_grad()
def test_weights_may_be_offloaded_to_disk(name: str, tmp_path: Path) -> None:
    model = pruned_of(pico_model(name, attention="eager"), empty=EMPTY)
    model.save_pretrained(tmp_path / "saved")
    for room in (1_000, 20_000):
        again = auto_class(name).from_pretrained(
            tmp_path / "saved",
            device_map="auto",
            max_memory={"cpu": room},
            offload_folder=tmp_path / f"{room}",
            attn_implementation="eager",
        )
        assert any(parameter.is_meta for parameter in again.parameters())
        batch = pico_batches(model, 1)[0]
        torch.testing.assert_close(pico_outputs(again, batch), pico_outputs(model, batch))
