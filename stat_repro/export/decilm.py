"""A pruned decoder as a folder for vLLM's DeciLMForCausalLM.

That one has FFNs of any width per layer, as many query heads in all layers, layers without
attention behind the first, layers without FFN, and biases in all layers or in none.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stat_repro.export.errors import ExportError, check_gated
from stat_repro.export.stock import load_for_export, stock_values
from stat_repro.models.modeling_stat import LAYOUTS
from stat_repro.models.projections import linear

_CODE = Path(__file__).with_name("configuration_decilm.py")


def write_decilm(folder: Path, out: Path) -> None:
    """Write a pruned Llama, Mistral without window or Qwen2; vLLM loads it as remote code.

    Args:
        folder: Folder of the pruned model.
        out: New folder.

    Raises:
        ExportError: Sizes, biases or an architecture that this class of vLLM does not have.
        ModelLoadError: A folder that cannot be loaded.
    """
    model = load_for_export(folder)
    config = model.config
    check_gated(config, "decilm", "vLLM's DeciLM")
    queries = config.query_heads_per_layer
    if not queries[0] or len({*queries} - {0}) != 1:
        raise ExportError(
            "--format decilm, query_heads_per_layer: expected the same count in all layers that "
            f"have heads, the first among them; got {queries}; choose kinds=ffn or "
            "allocation=uniform when pruning, or --format gguf"
        )
    groups, neurons = config.kv_heads_per_layer, config.ffn_size_per_layer
    by_layer = [
        {
            "attention": {"no_op": not q, "n_heads_in_group": q // g if q else None},
            "ffn": {"no_op": not f, "intermediate_size": f or None},
        }
        for q, g, f in zip(queries, groups, neurons, strict=True)
    ]
    tensors, biases = _tensors(model)
    values = stock_values(config) | biases
    values |= {
        # Without it vLLM divides the width by the heads that are left.
        "head_dim": model.model.layers[0].self_attn.head_dim,
        "num_attention_heads": queries[0],
        "num_key_value_heads": groups[0],
        "block_configs": by_layer,
        "model_type": "nemotron-nas",
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": {"AutoConfig": f"{_CODE.stem}.DeciLMConfig"},
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    model.generation_config.save_pretrained(out)
    shutil.copy(_CODE, out)
    (out / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _tensors(model: Any) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """The weights by vLLM's names, and which biases there are: zeros where a layer has none."""
    layout = LAYOUTS[model.config.model_type]
    state = {name: t.contiguous() for name, t in model.state_dict().items() if t.numel()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    # What is biased together: key in the config, its projections, the norm before them.
    attention, ffn = "input_layernorm", "post_attention_layernorm"
    together = (
        ("qkv_bias", (layout.query, *layout.key_value), attention),
        ("attention_bias", (layout.attention_output,), attention),
        ("mlp_bias", (*layout.ffn_inputs, layout.ffn_output), ffn),
    )
    layers = list(model.base_model.get_submodule(layout.layers))
    biases = {
        key: any(linear(layer, name).bias is not None for layer in layers for name in names)
        for key, names, _ in together
    }
    for i, layer in enumerate(layers):
        place = f"model.{layout.layers}.{i}."
        for key, names, norm in together:
            for name in names:
                weight = linear(layer, name).weight
                if weight.numel():
                    if biases[key]:
                        zeros = torch.zeros(len(weight), dtype=weight.dtype)
                        state.setdefault(f"{place}{name}.bias", zeros)
                    continue
                state.pop(f"{place}{norm}.weight", None)
                bias = state.pop(f"{place}{name}.bias", None)
                if bias is not None and bias.any():
                    raise ExportError(
                        f"--format decilm, layer {i}: expected no bias where no unit is left; got "
                        f"one of {', '.join(names)}; choose a correction without biases"
                    )
    return state, biases
