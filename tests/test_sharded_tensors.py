"""Names, foreign tensors and unsaved buffers of checkpoints that are pruned shard by shard."""

import pytest
import torch
import transformers as hf
from pico_checkpoints import same_weights, saved
from pico_models import pico_batches, pico_model
from safetensors.torch import load_file, save_file

import stat_repro
from stat_repro.models.tensor_files import SINGLE_FILE, ShardedCheckpoint
from stat_repro.sharded import skeleton as skeletons


def with_head_only(state):
    state["lm_head.weight"] = state.pop("model.decoder.embed_tokens.weight")
    return state


def without_prefix(state):
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def with_old_buffers(state):
    return {**state, "model.decoder.layers.0.rotary_emb.inv_freq": torch.ones(3)}


def as_gpt2(state):
    """As openai-community/gpt2: no prefix, and the masks of the attention as buffers."""
    state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    return {**state, "h.0.attn.bias": torch.ones(1, 1, 3, 3)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("opt", with_head_only),
        ("opt", without_prefix),
        ("opt", with_old_buffers),
        ("gpt2", as_gpt2),
    ],
)
def test_published_names_are_understood(name, change, tmp_path, caplog):
    model = pico_model(name)
    batches = pico_batches(model)
    source = saved(model, tmp_path / "dense")
    weights = source / SINGLE_FILE
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    result = stat_repro.compress_checkpoint(
        source, tmp_path / "pruned", batches, ratio=0.3, device="cpu"
    )
    usual = stat_repro.compress(model, batches, ratio=0.3)
    same_weights(hf.AutoModelForCausalLM.from_pretrained(result.folder), usual.model)
    assert "left out" not in caplog.text


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_head_beside_tied_embeddings(factor, tmp_path):
    """The same once more is left out; another one is kept, and the config no longer ties it."""
    source = saved(pico_model("llama_tied"), tmp_path / "dense")
    state = load_file(source / SINGLE_FILE)
    state["lm_head.weight"] = factor * state["model.embed_tokens.weight"]
    save_file(state, source / SINGLE_FILE, metadata={"format": "pt"})
    model = hf.AutoModelForCausalLM.from_pretrained(source)
    batches = pico_batches(model)
    usual = stat_repro.compress(model, batches, ratio=0.3)
    stat_repro.save_pruned(usual.model, tmp_path / "usual", plan=usual.plan, base_model="dense")
    result = stat_repro.compress_checkpoint(
        source, tmp_path / "pruned", batches, ratio=0.3, device="cpu"
    )
    assert result.report.params == usual.report.params
    same_weights(hf.AutoModelForCausalLM.from_pretrained(result.folder), usual.model)
    for folder in (result.folder, tmp_path / "usual"):
        config = hf.AutoConfig.from_pretrained(folder)
        assert config.tie_word_embeddings == (factor == 1.0)
        head_there = "lm_head.weight" in ShardedCheckpoint(folder).entries
        assert head_there == (factor != 1.0)


def test_foreign_tensors_are_left_out_and_named(tmp_path, caplog):
    model = pico_model("bert")
    source = saved(model, tmp_path / "dense")
    weights = source / SINGLE_FILE
    save_file({**load_file(weights), "value_head": torch.ones(2)}, weights)
    result = stat_repro.compress_checkpoint(
        source, tmp_path / "pruned", pico_batches(model), ratio=0.3, device="cpu"
    )
    assert "1 tensors are not of BertForSequenceClassification" in caplog.text
    assert "value_head" not in ShardedCheckpoint(result.folder).entries


@pytest.mark.parametrize("sinusoidal", [True, False])
def test_unsaved_buffers_are_those_of_a_loaded_model(sinusoidal, tmp_path):
    for name, changes in (
        ("bert", {}),
        ("distilbert", {"sinusoidal_pos_embds": sinusoidal}),
        ("llama_grouped", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    ):
        model = pico_model(name, **changes)
        source = saved(model, tmp_path / name)
        found = skeletons.open_checkpoint(source, torch.device("cpu")).model
        buffers = dict(found.named_buffers())
        assert buffers
        assert all(torch.equal(buffers[key], value) for key, value in model.named_buffers())
