"""A decoder as a GGUF file for llama.cpp, which runs it as architecture `deci`.

That one has query heads, key/value heads and FFN neurons for each layer. Where it drops or forbids
what a pruned layer has, the layer gets one head or one neuron of zeros, which changes nothing.
"""

import logging
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from stat_repro.export.errors import ExportError, check_gated
from stat_repro.export.gguf_tokenizer import add_tokenizer
from stat_repro.export.stock import plain_config
from stat_repro.models.adapter import adapter_for
from stat_repro.models.configuration_stat import Layout
from stat_repro.models.loading import load_model
from stat_repro.models.modeling_stat import LAYOUTS
from stat_repro.models.projections import linear
from stat_repro.scratch import complete, scratch

log = logging.getLogger("stat_repro")

_BLOCKS = {"Q8_0": 32, "Q4_K_M": 256}
_FILE_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_gguf(folder: Path, out: Path, quantise: str | None = None) -> None:
    """Write the model of a folder, with its tokenizer, as one GGUF file.

    Args:
        folder: A Hugging Face folder, of a pruned or a dense model.
        out: The file; one that is there is replaced, in one step.
        quantise: `Q8_0` or `Q4_K_M`; None keeps the type of the weights.

    Raises:
        ExportError: A model or tokenizer that llama.cpp cannot hold, or Q4_K_M without
            llama-cpp-python.
        ModelLoadError: A folder that cannot be loaded.
    """
    config = plain_config(folder)
    check_gated(config, "gguf", "llama.cpp")
    dtype = config.dtype if config.dtype in _FILE_TYPES else torch.float32
    model = load_model(folder, AutoModelForCausalLM, dtype)
    _warn_of_widths(model, quantise)
    kind = gguf.GGMLQuantizationType["Q8_0" if quantise == "Q8_0" else _FILE_TYPES[dtype]]
    with complete(out) as partial:
        if quantise != "Q4_K_M":
            _write(model, folder, partial, kind)
            return
        with scratch(out.parent, f".{out.name}.plain", folder=False) as plain:
            _write(model, folder, plain, kind)
            _quantise(plain, partial)


def _warn_of_widths(model: Any, quantise: str | None) -> None:
    """Tell that FFNs of other widths stay as they are or get a coarser type."""
    size = _BLOCKS.get(quantise or "", 1)
    widths = {site.units for site in adapter_for(model).of_kind("ffn") if site.units % size}
    if widths:
        log.warning(
            "%s works on blocks of %d neurons; FFNs of other widths (%s) are stored in a larger "
            "type. round_to=%d gives widths that fit",
            *(quantise, size, ", ".join(map(str, sorted(widths)[:5])), size),
        )


def _write(model: Any, folder: Path, path: Path, kind: gguf.GGMLQuantizationType) -> None:
    """The whole file, matrices in this type and vectors in float32."""
    config, layout = model.config, LAYOUTS[model.config.model_type]
    layers = list(model.base_model.get_submodule(layout.layers))
    head_size = layers[0].self_attn.head_dim
    parts = [_layer(layer, layout, head_size, i, len(layers)) for i, layer in enumerate(layers)]
    writer = gguf.GGUFWriter(path, "deci")
    share = "ALL" if kind.name == "F32" else "MOSTLY"
    writer.add_file_type(gguf.LlamaFileType[f"{share}_{kind.name}"])
    writer.add_name(Path(config.name_or_path or folder).name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(layers))
    writer.add_head_count([len(part["attn_q.weight"]) // head_size for part in parts])
    writer.add_head_count_kv([len(part["attn_k.weight"]) // head_size for part in parts])
    writer.add_feed_forward_length([len(part["ffn_up.weight"]) for part in parts])
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    add_tokenizer(writer, folder, config.vocab_size)
    tensors = {"token_embd.weight": model.get_input_embeddings().weight}
    tensors["output_norm.weight"] = model.base_model.norm.weight
    if model.lm_head.weight is not tensors["token_embd.weight"]:
        tensors["output.weight"] = model.lm_head.weight
    if (factors := _frequency_factors(model, head_size)) is not None:
        tensors["rope_freqs.weight"] = factors
    for i, part in enumerate(parts):
        heads, neurons = len(part["attn_q.weight"]), len(part["ffn_up.weight"])
        for name, tensor in part.items():
            if neurons if name.startswith("ffn") else heads:
                if name.startswith(("attn_q.", "attn_k.")):
                    tensor = _turned(tensor, head_size)
                tensors[f"blk.{i}.{name}"] = tensor
    for name, tensor in tensors.items():
        _add(writer, name, tensor, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _layer(
    layer: Any, layout: Layout, head_size: int, number: int, layers: int
) -> dict[str, Tensor]:
    """Tensors of a layer by llama.cpp's names, with units of zeros where it needs them."""
    names = {
        "attn_q": layout.query,
        "attn_k": layout.key_value[0],
        "attn_v": layout.key_value[1],
        "attn_output": layout.attention_output,
        "ffn_gate": layout.ffn_inputs[0],
        "ffn_up": layout.ffn_inputs[1],
        "ffn_down": layout.ffn_output,
    }
    tensors: dict[str, Tensor] = {
        "attn_norm.weight": layer.input_layernorm.weight,
        "ffn_norm.weight": layer.post_attention_layernorm.weight,
    }
    for ours, theirs in names.items():
        module = linear(layer, theirs)
        tensors[f"{ours}.weight"] = module.weight
        if module.bias is not None:
            tensors[f"{ours}.bias"] = module.bias

    def pad(kind: str, output: str, rows: int) -> None:
        for name, tensor in tensors.items():
            if name.startswith(kind) and not name.endswith("norm.weight"):
                if name == f"{output}.weight":
                    tensors[name] = tensor.new_zeros(tensor.shape[0], rows)
                elif not name.startswith(output):
                    tensors[name] = tensor.new_zeros(rows, *tensor.shape[1:])

    heads = tensors["attn_q.weight"].numel() > 0
    # llama.cpp takes its defaults from layer 0, and knows no bias without heads.
    if not heads and (number == 0 or "attn_output.bias" in tensors):
        pad("attn", "attn_output", head_size)
        heads = True
    # A layer without neurons ends early there: its heads are dropped, and the last one aborts.
    if not tensors["ffn_up.weight"].numel() and (
        heads or number == layers - 1 or "ffn_down.bias" in tensors
    ):
        pad("ffn", "ffn_down", 1)
    return tensors


def _turned(tensor: Tensor, head_size: int) -> Tensor:
    """Rows of queries or keys in llama.cpp's order: the halves of a head take turns."""
    heads = len(tensor) // head_size
    return tensor.reshape(heads, 2, head_size // 2, -1).transpose(1, 2).reshape(tensor.shape)


def _frequency_factors(model: Any, head_size: int) -> Tensor | None:
    """By what llama.cpp divides the usual rotary frequencies; None if they are the usual ones."""
    rotary, config = model.base_model.rotary_emb, model.config
    if config.rope_parameters.get("rope_type", "default") == "default":
        return None
    powers = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
    usual = config.rope_parameters["rope_theta"] ** -powers
    return usual / rotary.inv_freq.double()


def _add(
    writer: gguf.GGUFWriter, name: str, tensor: Tensor, kind: gguf.GGMLQuantizationType
) -> None:
    """Add a tensor; vectors stay float32, matrices that do not fit a type's blocks are float16."""
    array = tensor.detach().float().contiguous().numpy()
    size, _ = gguf.GGML_QUANT_SIZES[kind]
    if array.ndim == 1:
        kind = gguf.GGMLQuantizationType.F32
    elif array.shape[1] % size:
        kind = gguf.GGMLQuantizationType.F16
    writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def _quantise(plain: Path, small: Path) -> None:
    """Q4_K_M by llama.cpp's own quantiser."""
    try:
        import llama_cpp
    except ImportError:
        raise ExportError(
            "--quantise Q4_K_M: expected llama-cpp-python, whose quantiser makes it; it is not "
            "installed; choose --quantise Q8_0, or pip install llama-cpp-python"
        ) from None
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    done = llama_cpp.llama_model_quantize(str(plain).encode(), str(small).encode(), settings)
    if done != 0:
        raise ExportError(
            f"--quantise Q4_K_M: llama.cpp could not quantise the model (code {done})"
        )
