"""Folders for vLLM's DeciLM, read by the rules of that class (vLLM has no wheel for CPUs)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from pico_export import WIDE, byte_tokenizer
from pico_models import pico_model, random_plan, selection_edits
from pico_surgery import pruned_of
from safetensors.torch import load_file
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from stat_repro.export import __main__ as command
from stat_repro.export.decilm import write_decilm
from stat_repro.export.errors import ExportError
from stat_repro.export.gguf_file import write_gguf
from stat_repro.surgery.edit import prune_model

MODELS = {
    "llama_grouped": {},
    "llama_bias": {},
    "llama_tied": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
}


def saved(folder: Path, name: str, *, empty: Any = ()) -> hf.PreTrainedModel:
    """A pruned model with one key/value head in all layers that are not named empty."""
    ids = dict(zip(("bos_token_id", "eos_token_id", "pad_token_id"), range(3), strict=True))
    values = {**WIDE, **ids, **MODELS.get(name, {})}
    if name == "qwen2":  # as released: it follows from the dense model's heads
        del values["head_dim"]
    model = pico_model(name, **values)
    plan = random_plan(model, empty=list(empty))
    layers = []
    for layer in plan.layers:
        kept = (0,) if layer.kept_heads else ()
        layers.append(type(layer)(kept, layer.kept_neurons, layer.heads, layer.neurons))
    plan = type(plan)(tuple(layers), plan.method)
    model.generation_config.eos_token_id = [1, 5]  # as released chat models have it, unlike config
    pruned = prune_model(model, plan, selection_edits(model, plan)).eval()
    pruned.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return pruned


class Nothing(nn.Module):
    """What a layer adds without attention or FFN."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> Any:
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if self.outputs == 2 else zeros


def as_vllm_reads_it(folder: Path) -> nn.Module:
    """Llama with the sizes of `block_configs`; every tensor has to have its place, as in vLLM."""
    config = hf.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (config.model_type, config.architectures) == ("nemotron-nas", ["DeciLMForCausalLM"])
    biased = config.attention_bias
    plain = hf.LlamaConfig(
        **{key: value for key, value in config.to_dict().items() if key != "model_type"}
    )
    plain._attn_implementation = "eager"
    model = hf.LlamaForCausalLM(plain).eval()
    for layer, block in zip(model.model.layers, config.block_configs, strict=True):
        assert not hasattr(block.ffn, "ffn_mult")
        if block.attention.no_op:
            layer.self_attn, layer.input_layernorm = Nothing(2), nn.Identity()
        else:
            groups = config.num_attention_heads // block.attention.n_heads_in_group
            assert groups == config.num_key_value_heads
            size, width = config.head_dim, config.hidden_size
            rows = {"q": config.num_attention_heads, "k": groups, "v": groups}
            for name, heads in rows.items():
                new = nn.Linear(width, heads * size, bias=config.qkv_bias)
                setattr(layer.self_attn, f"{name}_proj", new)
            new = nn.Linear(config.num_attention_heads * size, width, bias=biased)
            layer.self_attn.o_proj = new
        if block.ffn.no_op:
            layer.mlp, layer.post_attention_layernorm = Nothing(1), nn.Identity()
        else:
            plain.intermediate_size = block.ffn.intermediate_size
            layer.mlp = LlamaMLP(plain)
    tensors = load_file(folder / "model.safetensors")
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors)
    return model


@pytest.mark.parametrize("empty", [(), [(1, "attention"), (2, "ffn")], [(0, "ffn"), (2, "ffn")]])
@pytest.mark.parametrize("name", MODELS)
def test_the_folder_read_by_vllms_rules_gives_the_same_logits(
    name: str, empty: Any, tmp_path: Path
) -> None:
    model = saved(tmp_path / "pruned", name, empty=empty)
    out = tmp_path / "served"
    if name == "llama_bias" and empty:
        with pytest.raises(ExportError, match="expected no bias where no unit is left"):
            write_decilm(tmp_path / "pruned", out)
        assert not out.exists()
        return
    arguments = [str(tmp_path / "pruned"), "--format", "decilm", "--out", str(out)]
    assert command.main(arguments) == 0
    tokens = hf.AutoTokenizer.from_pretrained(out)("12 dogs ran", return_tensors="pt").input_ids
    with torch.no_grad():
        got, expected = as_vllm_reads_it(out)(tokens).logits, model(tokens).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    defaults = hf.GenerationConfig.from_pretrained(out)
    assert defaults.to_diff_dict() == model.generation_config.to_diff_dict()
    assert defaults.eos_token_id == [1, 5]


def test_counts_of_heads_that_differ_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "pruned", "llama_grouped", empty=[(0, "attention")])
    with pytest.raises(ExportError, match=r"query_heads_per_layer: expected .*got \[0, 2, 2\]"):
        write_decilm(tmp_path / "pruned", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("opt", "ForCausalLM", "model_type: expected llama or"),
        ("llama_tied", "ForSequenceClassification", "architectures: expected CausalLM, .*got Seq"),
        ("llama_tied", "Model", "architectures: expected CausalLM, .*got StatLlamaModel"),
    ],
)
def test_other_models_are_refused(name: str, head: str, message: str, tmp_path: Path) -> None:
    pruned_of(pico_model(name, head)).save_pretrained(tmp_path / "pruned")
    for write in (write_decilm, write_gguf):
        with pytest.raises(ExportError, match=f"--format [a-z]+, {message}"):
            write(tmp_path / "pruned", tmp_path / "out")
