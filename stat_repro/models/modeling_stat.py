"""Pruned encoders and decoders: the stock models with different sizes in every layer.

An architecture is one config class with its layout, listed in `CONFIGS`; the model classes follow
from it.

This file is self-contained: it is part of `stat_repro`, which registers the classes when it is
imported, and it is copied into every saved model folder, where `trust_remote_code=True` loads it.
The dense head and neuron counts stay in the config (head sizes and rotary frequencies derive from
them); the `*_per_layer` lists say what each layer really has.
"""

import copy
import functools
import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import transformers as hf
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Layout:
    """Module names of one architecture, relative to the base model (`layers`) or to a layer.

    Names were read off transformers 5.23. The last projection of the FFN reads the neurons. A fused
    projection is named once for each part; its parts are stacked in that order, query, key and
    value, or gate and up.

    Attributes:
        layers: The list of layers.
        query: Query projection.
        key_value: Key and value projections.
        attention_output: Consumer of the heads.
        ffn_inputs: Producers of the neurons (two for a gated FFN).
        ffn_output: Consumer of the neurons.
        decoder: Whether the model is a causal decoder.
        head_dim: Attribute of the attention module that holds the size of a head.
        head_norms: Norms over the queries of all heads and over the keys of all heads; their
            weights go with the heads.
        pre_norm: Whether a layer adds to the stream that it reads, with its norms inside the
            branches.
        norms: Norms behind the two sums of a layer, where they stand there.
        norm_behind: Whether a norm stands between a branch's last projection and the stream.
        positions_behind_padding: Whether the first token has the row of the positions that comes
            after the padding token's number.
        numbered_heads: Whether all layers share a table of position biases with a row for each head
            of the dense model. A layer then reads those of the heads that it kept.
        layer_tuples: Whether a layer returns a tuple, the stream first.
    """

    layers: str
    query: str
    key_value: tuple[str, str]
    attention_output: str
    ffn_inputs: tuple[str, ...]
    ffn_output: str
    decoder: bool
    head_dim: str = "head_dim"
    head_norms: tuple[str, ...] = ()
    pre_norm: bool = False
    norms: tuple[str, ...] = ()
    norm_behind: bool = False
    positions_behind_padding: bool = False
    numbered_heads: bool = False
    layer_tuples: bool = False

    @property
    def attention(self) -> str:
        """The module that holds the projections and the head size."""
        return self.query.rpartition(".")[0]

    def attention_parts(self, queries: int, keys: int) -> dict[str, tuple[int, ...]]:
        """Modules with rows of the heads, and how many rows each of their parts has.

        Args:
            queries: Rows of the query projection.
            keys: Rows of the key projection, and of the value projection.
        """
        named = [(self.query, queries), *((name, keys) for name in self.key_value)]
        named += zip(self.head_norms, (queries, keys), strict=False)
        return {name: tuple(rows for other, rows in named if other == name) for name, _ in named}

    def ffn_parts(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Modules with rows of the neurons, and how many rows each of their parts has."""
        return {name: (rows,) * self.ffn_inputs.count(name) for name in self.ffn_inputs}

    def groups(self, queries: int, rows: int) -> int:
        """Key/value heads.

        Args:
            queries: Query heads.
            rows: Heads that the module with the key projection has rows for.
        """
        key = self.key_value[0]
        return (rows - queries * (key == self.query)) // self.key_value.count(key)


# BERT and the encoders that are built like it.
BERT = Layout(
    layers="encoder.layer",
    query="attention.self.query",
    key_value=("attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    ffn_inputs=("intermediate.dense",),
    ffn_output="output.dense",
    decoder=False,
    head_dim="attention_head_size",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
)
ROBERTA = replace(BERT, positions_behind_padding=True)

# Llama and the decoders that are built like it.
GATED = Layout(
    layers="layers",
    query="self_attn.q_proj",
    key_value=("self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    ffn_inputs=("mlp.gate_proj", "mlp.up_proj"),
    ffn_output="mlp.down_proj",
    decoder=True,
    pre_norm=True,
)
GATED_NORM_BEHIND = replace(GATED, norm_behind=True)


def _check_counts(name: str, counts: list[int], layers: int, maximum: int) -> None:
    """Refuse a per-layer list of the wrong length or with a count outside 0..maximum."""
    if len(counts) != layers:
        raise ValueError(
            f"{name}: expected one entry for each of the {layers} layers; got {len(counts)}"
        )
    for layer, count in enumerate(counts):
        if not 0 <= count <= maximum:
            raise ValueError(f"{name}, layer {layer}: expected 0 to {maximum}; got {count}")


def _check_groups(query_heads: list[int], kv_heads: list[int]) -> None:
    """Refuse query heads that do not share the key/value heads of their layer evenly."""
    for layer, (queries, groups) in enumerate(zip(query_heads, kv_heads, strict=True)):
        if (queries == 0) != (groups == 0) or (groups > 0 and queries % groups != 0):
            raise ValueError(
                f"layer {layer}: expected query heads in a multiple of the key/value heads, or "
                f"none of both; got query_heads_per_layer {queries} and kv_heads_per_layer {groups}"
            )


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class _LayerConfigs(list):
    """Configs of the layers by number; by a kind of layer that of the whole model.

    Attributes:
        whole: That of the whole model. What transformers asks for by kind is the same in all layers
            of a kind (rotary positions, windows).
    """

    whole: Any

    def __getitem__(self, layer: Any) -> Any:
        return self.whole if isinstance(layer, str) else super().__getitem__(layer)


@strict
class SizesPerLayerConfig(hf.PreTrainedConfig):
    """What the configs of all pruned models have in common. None: as in the unpruned model.

    Attributes:
        layout: Where the architecture has its projections.
        output_biases: Whether the unpruned attention output and FFN output have a bias: the field
            of the config that says it, or what always holds.
        query_heads_per_layer: Attention (query) heads of each layer.
        ffn_size_per_layer: FFN neurons of each layer.
        attention_output_bias_per_layer: Whether the attention output projection has a bias.
        ffn_output_bias_per_layer: Whether the last Linear of the FFN has a bias.
    """

    layout: ClassVar[Layout]
    output_biases: ClassVar[tuple[str | bool, str | bool]] = (True, True)

    query_heads_per_layer: list[int] | None = None
    ffn_size_per_layer: list[int] | None = None
    attention_output_bias_per_layer: list[bool] | None = None
    ffn_output_bias_per_layer: list[bool] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        attention_bias, ffn_bias = (
            getattr(self, bias) if isinstance(bias, str) else bias for bias in self.output_biases
        )
        defaults = {
            "query_heads_per_layer": self.num_attention_heads,
            "ffn_size_per_layer": self.intermediate_size,
            "attention_output_bias_per_layer": attention_bias,
            "ffn_output_bias_per_layer": ffn_bias,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, [value] * self.num_hidden_layers)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = _auto_map(type(self))

    @property
    def per_layer_config(self) -> "_LayerConfigs":
        """Configs with the counts of each layer, which caches and exporters of transformers ask.

        A layer without heads has a slot with one number per token in the cache (`_WithoutHeads`).
        """
        layers = _LayerConfigs()
        layers.whole = self
        for sizes in self._sizes_of_layers():
            layer = copy.copy(self)
            layer.head_dim = _head_size(self)
            if not sizes["num_attention_heads"]:
                layer.head_dim = 1
                sizes |= {name: 1 for name in sizes if name.endswith("_heads")}
            for name, value in sizes.items():
                setattr(layer, name, value)
            layers.append(layer)
        return layers

    @per_layer_config.setter
    def per_layer_config(self, _: Any) -> None:
        """Config files have it for other readers; here the lists say it."""

    def _sizes_of_layers(self) -> list[dict[str, int]]:
        """What transformers' `per_layer_config` says of every layer."""
        names = {
            "num_attention_heads": "query_heads_per_layer",
            "num_key_value_heads": "kv_heads_per_layer",
            "intermediate_size": "ffn_size_per_layer",
        }
        lists = {name: getattr(self, ours) for name, ours in names.items() if hasattr(self, ours)}
        return [{k: v[i] for k, v in lists.items()} for i in range(self.num_hidden_layers)]

    def to_dict(self) -> dict[str, Any]:
        """As of any config, with `per_layer_config` beside the lists."""
        sizes = {str(layer): sizes for layer, sizes in enumerate(self._sizes_of_layers())}
        return {**super().to_dict(), "per_layer_config": sizes}

    def validate_sizes_per_layer(self) -> None:
        """Check the per-layer lists (called on construction and on saving)."""
        limits = {
            "query_heads_per_layer": self.num_attention_heads,
            "ffn_size_per_layer": self.intermediate_size,
            "attention_output_bias_per_layer": 1,
            "ffn_output_bias_per_layer": 1,
        }
        for name, limit in limits.items():
            _check_counts(name, getattr(self, name), self.num_hidden_layers, limit)


@strict
class StatBertConfig(SizesPerLayerConfig, hf.BertConfig):
    """`BertConfig` with sizes per layer."""

    model_type = "stat_bert"
    layout = BERT


@strict
class StatRobertaConfig(SizesPerLayerConfig, hf.RobertaConfig):
    """`RobertaConfig` with sizes per layer."""

    model_type = "stat_roberta"
    layout = ROBERTA


@strict
class StatXLMRobertaConfig(SizesPerLayerConfig, hf.XLMRobertaConfig):
    """`XLMRobertaConfig` with sizes per layer."""

    model_type = "stat_xlm-roberta"
    layout = ROBERTA


@strict
class StatCamembertConfig(SizesPerLayerConfig, hf.CamembertConfig):
    """`CamembertConfig` with sizes per layer."""

    model_type = "stat_camembert"
    layout = ROBERTA


@strict
class StatElectraConfig(SizesPerLayerConfig, hf.ElectraConfig):
    """`ElectraConfig` with sizes per layer."""

    model_type = "stat_electra"
    layout = BERT


@strict
class StatMPNetConfig(SizesPerLayerConfig, hf.MPNetConfig):
    """`MPNetConfig` with sizes per layer.

    Attributes:
        kept_heads_per_layer: Which heads of the dense model each layer has: its rows in the table
            of position biases, which all layers share.
    """

    model_type = "stat_mpnet"
    layout = replace(
        ROBERTA,
        query="attention.attn.q",
        key_value=("attention.attn.k", "attention.attn.v"),
        attention_output="attention.attn.o",
        norms=("attention.LayerNorm", "output.LayerNorm"),
        numbered_heads=True,
        layer_tuples=True,
    )

    kept_heads_per_layer: list[list[int]] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.kept_heads_per_layer is None:
            self.kept_heads_per_layer = [list(range(n)) for n in self.query_heads_per_layer or []]

    def validate_kept_heads(self) -> None:
        """Check the numbers of the heads (called on construction and on saving)."""
        counts, kept = self.query_heads_per_layer or [], self.kept_heads_per_layer or []
        expected = [sorted({*heads} & {*range(self.num_attention_heads)}) for heads in kept]
        if kept != expected or [len(heads) for heads in kept] != counts:
            raise ValueError(
                f"kept_heads_per_layer: expected {counts} ascending numbers below "
                f"{self.num_attention_heads}; got {kept}"
            )


@strict
class StatModernBertConfig(SizesPerLayerConfig, hf.ModernBertConfig):
    """`ModernBertConfig` with sizes per layer."""

    model_type = "stat_modernbert"
    output_biases = ("attention_bias", "mlp_bias")
    layout = Layout(
        layers="layers",
        query="attn.Wqkv",
        key_value=("attn.Wqkv", "attn.Wqkv"),
        attention_output="attn.Wo",
        ffn_inputs=("mlp.Wi", "mlp.Wi"),
        ffn_output="mlp.Wo",
        decoder=False,
        pre_norm=True,
    )


@strict
class StatDistilBertConfig(SizesPerLayerConfig, hf.DistilBertConfig):
    """`DistilBertConfig` with sizes per layer."""

    model_type = "stat_distilbert"
    layout = Layout(
        layers="transformer.layer",
        query="attention.q_lin",
        key_value=("attention.k_lin", "attention.v_lin"),
        attention_output="attention.out_lin",
        ffn_inputs=("ffn.lin1",),
        ffn_output="ffn.lin2",
        decoder=False,
        head_dim="attention_head_size",
        norms=("sa_layer_norm", "output_layer_norm"),
    )
    attribute_map: ClassVar[dict[str, str]] = {
        **hf.DistilBertConfig.attribute_map,
        "intermediate_size": "hidden_dim",
    }


@strict
class GroupsPerLayerConfig(SizesPerLayerConfig):
    """What the configs of decoders with grouped queries have in common.

    Attributes:
        kv_heads_per_layer: Key/value heads of each layer; None: unpruned. The query heads of a
            layer must be a multiple of them.
    """

    output_biases: ClassVar[tuple[str | bool, str | bool]] = (False, False)

    kv_heads_per_layer: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.kv_heads_per_layer is None:
            self.kv_heads_per_layer = [self.num_key_value_heads] * self.num_hidden_layers

    def validate_groups(self) -> None:
        """Check the key/value heads (called on construction and on saving)."""
        query_heads, kv_heads = self.query_heads_per_layer or [], self.kv_heads_per_layer or []
        layers, limit = self.num_hidden_layers, self.num_key_value_heads
        _check_counts("kv_heads_per_layer", kv_heads, layers, limit)
        _check_groups(query_heads, kv_heads)


@strict
class StatLlamaConfig(GroupsPerLayerConfig, hf.LlamaConfig):
    """`LlamaConfig` with sizes per layer."""

    model_type = "stat_llama"
    layout = GATED
    output_biases = ("attention_bias", "mlp_bias")


@strict
class StatMistralConfig(GroupsPerLayerConfig, hf.MistralConfig):
    """`MistralConfig` with sizes per layer."""

    model_type = "stat_mistral"
    layout = GATED


@strict
class StatQwen2Config(GroupsPerLayerConfig, hf.Qwen2Config):
    """`Qwen2Config` with sizes per layer."""

    model_type = "stat_qwen2"
    layout = GATED


@strict
class StatQwen3Config(GroupsPerLayerConfig, hf.Qwen3Config):
    """`Qwen3Config` with sizes per layer."""

    model_type = "stat_qwen3"
    layout = GATED
    output_biases = ("attention_bias", False)


@strict
class StatSmolLM3Config(GroupsPerLayerConfig, hf.SmolLM3Config):
    """`SmolLM3Config` with sizes per layer."""

    model_type = "stat_smollm3"
    layout = GATED
    output_biases = ("attention_bias", "mlp_bias")


@strict
class StatOlmo2Config(GroupsPerLayerConfig, hf.Olmo2Config):
    """`Olmo2Config` with sizes per layer.

    Queries and keys are normalised over all heads of a layer together. Where heads are gone, the
    mean square is that of the kept heads: it, and with it the attention of the kept heads, is that
    of the unpruned model only as far as the kept heads' mean square is.
    """

    model_type = "stat_olmo2"
    layout = replace(GATED_NORM_BEHIND, head_norms=("self_attn.q_norm", "self_attn.k_norm"))
    output_biases = ("attention_bias", False)


@strict
class StatGemma2Config(GroupsPerLayerConfig, hf.Gemma2Config):
    """`Gemma2Config` with sizes per layer."""

    model_type = "stat_gemma2"
    layout = GATED_NORM_BEHIND
    output_biases = ("attention_bias", False)


@strict
class StatGemma3TextConfig(GroupsPerLayerConfig, hf.Gemma3TextConfig):
    """`Gemma3TextConfig` with sizes per layer."""

    model_type = "stat_gemma3_text"
    layout = GATED_NORM_BEHIND
    output_biases = ("attention_bias", False)


@strict
class StatPhi3Config(GroupsPerLayerConfig, hf.Phi3Config):
    """`Phi3Config` with sizes per layer."""

    model_type = "stat_phi3"
    layout = replace(
        GATED,
        query="self_attn.qkv_proj",
        key_value=("self_attn.qkv_proj", "self_attn.qkv_proj"),
        ffn_inputs=("mlp.gate_up_proj", "mlp.gate_up_proj"),
    )


@strict
class StatGPT2Config(SizesPerLayerConfig, hf.GPT2Config):
    """`GPT2Config` with sizes per layer."""

    model_type = "stat_gpt2"
    layout = Layout(
        layers="h",
        query="attn.c_attn",
        key_value=("attn.c_attn", "attn.c_attn"),
        attention_output="attn.c_proj",
        ffn_inputs=("mlp.c_fc",),
        ffn_output="mlp.c_proj",
        decoder=True,
        pre_norm=True,
    )
    attribute_map: ClassVar[dict[str, str]] = {
        **hf.GPT2Config.attribute_map,
        "intermediate_size": "n_inner",
    }

    n_inner: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.n_inner is None:
            self.n_inner = 4 * self.hidden_size
        super().__post_init__(**kwargs)


@strict
class StatOPTConfig(SizesPerLayerConfig, hf.OPTConfig):
    """`OPTConfig` with sizes per layer."""

    model_type = "stat_opt"
    output_biases = ("enable_bias", "enable_bias")
    layout = Layout(
        layers="decoder.layers",
        query="self_attn.q_proj",
        key_value=("self_attn.k_proj", "self_attn.v_proj"),
        attention_output="self_attn.out_proj",
        ffn_inputs=("fc1",),
        ffn_output="fc2",
        decoder=True,
        pre_norm=True,
        norms=("self_attn_layer_norm", "final_layer_norm"),  # of OPT-350m
    )
    attribute_map: ClassVar[dict[str, str]] = {
        **hf.OPTConfig.attribute_map,
        "intermediate_size": "ffn_dim",
    }


CONFIGS: tuple[Any, ...] = (
    StatBertConfig,
    StatRobertaConfig,
    StatXLMRobertaConfig,
    StatCamembertConfig,
    StatElectraConfig,
    StatMPNetConfig,
    StatModernBertConfig,
    StatDistilBertConfig,
    StatLlamaConfig,
    StatMistralConfig,
    StatQwen2Config,
    StatQwen3Config,
    StatSmolLM3Config,
    StatOlmo2Config,
    StatGemma2Config,
    StatGemma3TextConfig,
    StatPhi3Config,
    StatGPT2Config,
    StatOPTConfig,
)

# By `config.model_type`, of the stock model and of its pruned form.
LAYOUTS: dict[str, Layout] = {
    model_type: config.layout
    for config in CONFIGS
    for model_type in (config.model_type.removeprefix("stat_"), config.model_type)
}


class EmptyLinear(nn.Module):
    """What is left of a projection without rows or columns: the bias, if it reads nothing.

    No Linear, and without a weight: quantisers, adapters and sharding find nothing to work on.

    Attributes:
        shape: (out, in), or (width,) where it was a norm.
        bias: Shape (out,), or None.
    """

    bias: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], bias: nn.Parameter | None) -> None:
        super().__init__()
        self.shape = shape
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> torch.Tensor:
        """The weight, which has no elements."""
        weight = torch.empty(self.shape)
        return weight if self.bias is None else weight.to(self.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., any) to (..., out)."""
        # Nothing is read, but in the graph it is: gradients before this are zeros and not missing.
        output = nn.functional.pad(hidden_states[..., :0], (0, self.shape[0]))
        return output if self.bias is None else output + self.bias


def as_matrix(module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A projection's weight as (out, in), or back: Conv1D (GPT-2) keeps (in, out).

    A bias, and the weight of a norm, stay as they are.
    """
    return weight.T if isinstance(module, Conv1D) and weight.ndim == 2 else weight


def empty_like(old: Any, shape: tuple[int, ...], bias: bool) -> Any:
    """An uninitialised projection or norm, on the device and in the dtype of another.

    Args:
        old: A Linear, a Conv1D or a norm.
        shape: (out, in), or (width,) of a norm; with a zero the result is an EmptyLinear.
        bias: Whether it has a bias.
    """
    device, dtype = old.weight.device, old.weight.dtype
    if 0 in shape:
        left = torch.zeros(shape[0], device=device, dtype=dtype) if bias and shape[0] else None
        return EmptyLinear(shape, None if left is None else nn.Parameter(left))
    if isinstance(old, nn.Linear):
        new: Any = nn.Linear(1, 1, bias=False, device="meta")
        new.out_features, new.in_features = shape
    else:
        new = copy.copy(old)
        new._parameters = dict.fromkeys(old._parameters)
        if isinstance(old, Conv1D):
            new.nf, new.nx = shape
    weight = torch.empty(shape, device=device, dtype=dtype)
    new.weight = nn.Parameter(as_matrix(old, weight).contiguous())
    if bias:
        new.bias = nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype))
    return new


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a projection or norm into its place.

    One without parameters is an attribute and no submodule: nothing that walks through the modules
    of a model, by class or by name, meets it.
    """
    parent, _, key = name.rpartition(".")
    owner = model.get_submodule(parent)
    owner.__dict__.pop(key, None)
    hidden = next(module.parameters(), None) is None
    owner._modules[key] = None if hidden else module
    if hidden:
        owner.__dict__[key] = module


class _Changed(nn.Module):
    """An attention module with another forward pass: the same names, hooks and weights."""

    # The stock class, and the name of the output projection if it is inside this module.
    stock: ClassVar[type]
    output: ClassVar[str | None]

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from its stock class: its own class is in no module to be looked up in."""
        return _revived, (type(self).__bases__[0], self.stock, self.output), self.__dict__


class _SomeHeads(_Changed):
    """Attention whose heads have a row each in a table of position biases, which lost some."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in the stock class, with biases (B, heads of the dense model, S, S)."""
        stock: Any = super()
        numbers: Any = self.head_numbers
        bias = None if position_bias is None else position_bias[:, list(numbers)]
        return stock.forward(hidden_states, attention_mask, bias, **kwargs)


class _WithoutHeads(_Changed):
    """The attention of a layer that lost all its heads: only the output bias is left.

    The stock forward pass must not run: torch 2.11 ends the process when its fused attention gets
    no heads. In a decoder the layer still counts the tokens in its slot of the cache, with one
    number each: a model asks one slot of a kind for the tokens seen, whichever layer it belongs to.
    A quantised cache works on groups of numbers; there it is as many as in the dense model.
    """

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output (B, S, D or 0) and empty attention weights (B, 0, S, tokens seen)."""
        batch, length, _ = hidden_states.shape
        marks = hidden_states.new_zeros(batch, 1, length, 1)
        if past_key_values is not None:
            slots: Any = getattr(past_key_values, "layers", [])
            if slots and isinstance(slots[self.layer_idx], hf.cache_utils.QuantizedLayer):
                config: Any = self.config
                heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
                size: Any = self.head_dim
                marks = marks.expand(-1, heads or 1, -1, size)
            marks, _ = past_key_values.update(marks, marks, self.layer_idx)
        output = hidden_states[..., :0]
        # A norm over single heads is left: it gets a gradient of zeros, as any other parameter.
        for parameter in self.parameters():
            output = output + parameter.flatten()[:0]
        if self.output is not None:
            output = self.get_submodule(self.output)(output)
        return output, hidden_states.new_empty(batch, 0, length, marks.shape[-2])


def _revived(change: Any, stock: Any, output: str | None) -> Any:
    """A changed attention module, before its state is set."""
    made = _changed(change, stock, output)
    return made.__new__(made)


@functools.cache
def _changed(change: Any, stock: Any, output: str | None) -> Any:
    """The class of an attention module of this stock class with a `_Changed` forward pass."""
    name = f"{stock.__name__.removesuffix('Attention')}{change.__name__.removeprefix('_')}"
    return type(name, (change, stock), {"stock": stock, "output": output})


class _LayerConfig:
    """The model's config with the query heads of one layer, where Phi-3 splits its projection."""

    def __init__(self, model_config: Any, num_attention_heads: int) -> None:
        self.model_config, self.num_attention_heads = model_config, num_attention_heads

    def __getattr__(self, name: str) -> Any:
        if name == "model_config":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.model_config, name)


def count_heads(layer: nn.Module, layout: Layout) -> None:
    """Make the attention of a layer work with as many heads as its projections have."""
    attention: Any = layer.get_submodule(layout.attention)
    head_size = getattr(attention, layout.head_dim)
    rows, _ = _size(layer.get_submodule(layout.key_value[0]))
    _, columns = _size(layer.get_submodule(layout.attention_output))
    queries = columns // head_size
    groups = layout.groups(queries, rows // head_size)
    # The same module with another forward pass: names, hooks and weights stay.
    if isinstance(attention, _Changed):
        attention.__class__ = attention.stock
        attention.__dict__.pop("head_numbers", None)
    stock: Any = type(attention)
    if groups == 0:
        inside, output = f"{layout.attention}.", layout.attention_output
        name = output.removeprefix(inside) if output.startswith(inside) else None
        attention.__class__ = _changed(_WithoutHeads, stock, name)
    elif layout.numbered_heads and queries < attention.num_attention_heads:
        attention.head_numbers = head_numbers(layer.get_submodule(layout.query), queries)
        attention.__class__ = _changed(_SomeHeads, stock, None)
    counts = {"num_heads": queries, "num_key_value_heads": groups, "split_size": columns}
    counts["all_head_size"] = columns
    if groups:
        counts["num_key_value_groups"] = queries // groups
    for name, count in counts.items():
        if hasattr(attention, name):
            setattr(attention, name, count)
    if layout.query in layout.key_value:
        config = getattr(attention.config, "model_config", attention.config)
        whole = queries == config.num_attention_heads
        attention.config = config if whole else _LayerConfig(config, queries)


def head_numbers(query: nn.Module, heads: int) -> tuple[int, ...]:
    """Which heads of the dense model a query projection has.

    Args:
        query: The projection; a sliced one is marked with its `head_numbers`.
        heads: How many it has.
    """
    numbers: tuple[int, ...] = getattr(query, "head_numbers", tuple(range(heads)))
    return numbers


def _size(module: Any) -> tuple[int, ...]:
    """(out, in) of a projection, (width,) of a norm."""
    return tuple(as_matrix(module, module.weight).shape)


def _resize_layers(model: hf.PreTrainedModel) -> None:
    """Give every layer the sizes of `model.config`; doing it twice changes nothing."""
    config: Any = model.config
    layout: Layout = config.layout
    empty: set[str] = set()

    def resize(layer: nn.Module, name: str, shape: tuple[int, ...], bias: bool) -> None:
        old: Any = layer.get_submodule(name)
        if (_size(old), _has_bias(old)) != (shape, bias):
            new = empty_like(old, shape, bias)
            model._init_weights(new)
            put(layer, name, new)
        if 0 in shape:
            empty.add(rf"\.{i}\.{re.escape(name)}\.(weight|bias)$")

    for i, layer in enumerate(model.base_model.get_submodule(layout.layers)):
        head_size = getattr(layer.get_submodule(layout.attention), layout.head_dim)
        queries, ffn_size = config.query_heads_per_layer[i], config.ffn_size_per_layer[i]
        groups = getattr(config, "kv_heads_per_layer", config.query_heads_per_layer)[i]
        parts = layout.attention_parts(queries * head_size, groups * head_size)
        for name, rows in (parts | layout.ffn_parts(ffn_size)).items():
            old = layer.get_submodule(name)
            resize(layer, name, (sum(rows), *_size(old)[1:]), _has_bias(old))
        for name, columns, bias in (
            (layout.attention_output, queries * head_size, config.attention_output_bias_per_layer),
            (layout.ffn_output, ffn_size, config.ffn_output_bias_per_layer),
        ):
            resize(layer, name, (config.hidden_size, columns), bias[i])
        if layout.numbered_heads:
            query: Any = layer.get_submodule(layout.query)
            query.head_numbers = tuple(config.kept_heads_per_layer[i])
        count_heads(layer, layout)
    # Folders of earlier versions hold tensors without elements here.
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    model._keys_to_ignore_on_load_unexpected = {*ignored, *empty}


def _has_bias(module: nn.Module) -> bool:
    return getattr(module, "bias", None) is not None


class _SizesPerLayer(nn.Module):
    """Builds the stock model, then gives its layers the sizes of the config."""

    def __init__(self, config: SizesPerLayerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        _resize_layers(self)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """As of any model, where all layers have the key/value heads that the config gives."""
        config: Any = self.config
        counts = getattr(config, "kv_heads_per_layer", config.query_heads_per_layer)
        whole = getattr(config, "num_key_value_heads", config.num_attention_heads)
        if {*counts} != {whole}:
            raise NotImplementedError(
                f"continuous batching (generate_batch): expected {whole} key/value heads in every "
                f"layer, for which its cache is made; got {counts}; choose generate"
            )
        stock: Any = super()
        return stock.init_continuous_batching(*args, **kwargs)


_HEADS: tuple[Any, ...] = (
    hf.AutoModel,
    hf.AutoModelForCausalLM,
    hf.AutoModelForMaskedLM,
    hf.AutoModelForMultipleChoice,
    hf.AutoModelForQuestionAnswering,
    hf.AutoModelForSequenceClassification,
    hf.AutoModelForTokenClassification,
)


def _stock_classes(config: Any) -> dict[Any, Any]:
    """The classes that transformers has of an architecture, by their Auto classes."""
    stock_config = config.__bases__[1]
    classes = {auto: auto._model_mapping.get(stock_config, None) for auto in _HEADS}
    if not config.layout.decoder:  # some encoders have a decoder's head as well
        classes.pop(hf.AutoModelForCausalLM)
    return {auto: stock for auto, stock in classes.items() if stock is not None}


def _pruned_class(stock: Any, config_class: Any) -> Any:
    """`StatX` for the stock class X."""
    members = {
        "__module__": __name__,
        "__doc__": f"Pruned `{stock.__name__}`.",
        "config_class": config_class,
    }
    return type(f"Stat{stock.__name__}", (_SizesPerLayer, stock), members)


# What `AutoModelForX.from_pretrained` gives for each config, here and in a saved folder.
AUTO_CLASSES: dict[Any, dict[Any, Any]] = {
    config: {auto: _pruned_class(stock, config) for auto, stock in _stock_classes(config).items()}
    for config in CONFIGS
}
globals().update(
    {model.__name__: model for heads in AUTO_CLASSES.values() for model in heads.values()}
)


def _auto_map(config: Any) -> dict[str, str]:
    """The `auto_map` of a config: every head, so that any of them loads from a saved folder."""
    heads = {auto: f"Stat{stock.__name__}" for auto, stock in _stock_classes(config).items()}
    names = {hf.AutoConfig: config.__name__, **heads}
    return {auto.__name__: f"modeling_stat.{name}" for auto, name in names.items()}


def _register() -> None:
    """Make the Auto classes know the pruned ones, and saving copy this file.

    A copy in a model folder does not take the place of classes that are there already: what else
    the process loads without remote code stays what it was.
    """
    known = hf.models.auto.configuration_auto.CONFIG_MAPPING
    for config_class, heads in AUTO_CLASSES.items():
        new = __name__.startswith("stat_repro.") or config_class.model_type not in known
        if new:
            hf.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        config_class.register_for_auto_class()
        for auto, model_class in heads.items():
            if new:
                auto.register(config_class, model_class, exist_ok=True)
            model_class.register_for_auto_class(auto.__name__)


_register()
