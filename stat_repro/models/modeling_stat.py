"""Pruned encoders and decoders: the stock models with different sizes in every layer.

BERT, DistilBERT, Llama, Mistral, Qwen2 and OPT. An architecture is one config class with its
layout; the model classes follow from it.

This file is self-contained: it is part of `stat_repro`, which registers the classes when it is
imported, and it is copied into every saved model folder, where `trust_remote_code=True` loads it.
The dense head and neuron counts stay in the config (head sizes and rotary frequencies derive from
them); the `*_per_layer` lists say what each layer really has.
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers as hf
from huggingface_hub.dataclasses import strict
from torch import nn


@dataclass(frozen=True)
class Layout:
    """Module names of one architecture, relative to the base model (`layers`) or to a layer.

    Names were read off transformers 5.23. Query, key and value are separate projections; the last
    Linear of the FFN reads the neurons.

    Attributes:
        layers: The list of layers.
        query: Query projection.
        key_value: Key and value projections.
        attention_output: Consumer of the heads.
        ffn_inputs: Producers of the neurons (two for a gated FFN).
        ffn_output: Consumer of the neurons.
        decoder: Whether the model is a causal decoder.
        head_dim: Attribute of the attention module that holds the size of a head.
    """

    layers: str
    query: str
    key_value: tuple[str, str]
    attention_output: str
    ffn_inputs: tuple[str, ...]
    ffn_output: str
    decoder: bool
    head_dim: str = "head_dim"

    @property
    def attention(self) -> str:
        """The module that holds the projections and the head size."""
        return self.query.rpartition(".")[0]


# Llama and the decoders that are built like it.
GATED = Layout(
    layers="layers",
    query="self_attn.q_proj",
    key_value=("self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    ffn_inputs=("mlp.gate_proj", "mlp.up_proj"),
    ffn_output="mlp.down_proj",
    decoder=True,
)


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


@strict
class SizesPerLayerConfig(hf.PreTrainedConfig):
    """What the configs of all pruned models have in common. None: as in the unpruned model.

    Attributes:
        layout: Where the architecture has its projections.
        query_heads_per_layer: Attention (query) heads of each layer.
        ffn_size_per_layer: FFN neurons of each layer.
        attention_output_bias_per_layer: Whether the attention output projection has a bias.
        ffn_output_bias_per_layer: Whether the last Linear of the FFN has a bias.
    """

    layout: ClassVar[Layout]

    query_heads_per_layer: list[int] | None = None
    ffn_size_per_layer: list[int] | None = None
    attention_output_bias_per_layer: list[bool] | None = None
    ffn_output_bias_per_layer: list[bool] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        attention_bias, ffn_bias = self._output_biases()
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
            self.auto_map = _auto_map(type(self).__name__)

    def _output_biases(self) -> tuple[bool, bool]:
        """Whether the unpruned attention output and FFN output have a bias."""
        return True, True

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
    layout = Layout(
        layers="encoder.layer",
        query="attention.self.query",
        key_value=("attention.self.key", "attention.self.value"),
        attention_output="attention.output.dense",
        ffn_inputs=("intermediate.dense",),
        ffn_output="output.dense",
        decoder=False,
        head_dim="attention_head_size",
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

    kv_heads_per_layer: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.kv_heads_per_layer is None:
            self.kv_heads_per_layer = [self.num_key_value_heads] * self.num_hidden_layers

    def _output_biases(self) -> tuple[bool, bool]:
        return False, False

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

    def _output_biases(self) -> tuple[bool, bool]:
        return self.attention_bias, self.mlp_bias


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
class StatOPTConfig(SizesPerLayerConfig, hf.OPTConfig):
    """`OPTConfig` with sizes per layer."""

    model_type = "stat_opt"
    layout = Layout(
        layers="decoder.layers",
        query="self_attn.q_proj",
        key_value=("self_attn.k_proj", "self_attn.v_proj"),
        attention_output="self_attn.out_proj",
        ffn_inputs=("fc1",),
        ffn_output="fc2",
        decoder=True,
    )
    attribute_map: ClassVar[dict[str, str]] = {
        **hf.OPTConfig.attribute_map,
        "intermediate_size": "ffn_dim",
    }

    def _output_biases(self) -> tuple[bool, bool]:
        return self.enable_bias, self.enable_bias


CONFIGS: tuple[Any, ...] = (
    StatBertConfig,
    StatDistilBertConfig,
    StatLlamaConfig,
    StatMistralConfig,
    StatQwen2Config,
    StatOPTConfig,
)

# By `config.model_type`, of the stock model and of its pruned form.
LAYOUTS: dict[str, Layout] = {
    model_type: config.layout
    for config in CONFIGS
    for model_type in (config.model_type.removeprefix("stat_"), config.model_type)
}


def empty_linear(in_features: int, out_features: int, bias: bool, like: nn.Linear) -> nn.Linear:
    """An uninitialised Linear, zero sizes included, on the device and in the dtype of another.

    `nn.Linear(0, n)` would warn that there is nothing to initialise.
    """
    linear = nn.Linear(1, 1, bias=False, device="meta")
    linear.in_features, linear.out_features = in_features, out_features
    device, dtype = like.weight.device, like.weight.dtype
    linear.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
    if bias:
        linear.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
    return linear


class _WithoutHeads(nn.Module):
    """The attention of a layer that lost all its heads: only the output bias is left.

    The stock forward pass must not run: torch 2.11 ends the process when its fused attention gets
    no heads. In a decoder the layer still counts the tokens in its slot of the cache, with one
    number each: a model asks one slot of a kind for the tokens seen, whichever layer it belongs to.
    """

    # The stock class, and the name of the output projection if it is inside this module.
    stock: ClassVar[type]
    output: ClassVar[str | None]

    def forward(
        self, hidden_states: torch.Tensor, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output (B, S, D or 0) and empty attention weights (B, 0, S, tokens seen)."""
        batch, length, _ = hidden_states.shape
        marks = hidden_states.new_zeros(batch, 1, length, 1)
        if past_key_values is not None:
            marks, _ = past_key_values.update(marks, marks, self.layer_idx)
        output = hidden_states[..., :0]
        if self.output is not None:
            output = self.get_submodule(self.output)(output)
        return output, hidden_states.new_empty(batch, 0, length, marks.shape[-2])

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from its stock class: its own class is in no module to be looked up in."""
        return _revived, (self.stock, self.output), self.__dict__


def _revived(stock: Any, output: str | None) -> Any:
    """An attention module without heads, before its state is set."""
    made = _without_heads(stock, output)
    return made.__new__(made)


@functools.cache
def _without_heads(stock: Any, output: str | None) -> Any:
    """The class of an attention module of this stock class once it has no heads."""
    name = f"{stock.__name__.removesuffix('Attention')}WithoutHeads"
    return type(name, (_WithoutHeads, stock), {"stock": stock, "output": output})


def count_heads(attention: Any, layout: Layout) -> None:
    """Make an attention module work with as many heads as its projections have."""
    inside = f"{layout.attention}."
    queries, groups = (
        attention.get_submodule(name.removeprefix(inside)).out_features
        for name in (layout.query, layout.key_value[0])
    )
    # The same module with another forward pass: names, hooks and weights stay.
    if isinstance(attention, _WithoutHeads):
        attention.__class__ = attention.stock
    stock: Any = type(attention)
    if groups == 0:
        output = layout.attention_output
        name = output.removeprefix(inside) if output.startswith(inside) else None
        attention.__class__ = _without_heads(stock, name)
    if hasattr(attention, "num_key_value_groups") and groups:
        attention.num_key_value_groups = queries // groups
    if hasattr(attention, "num_heads"):
        attention.num_heads = queries // attention.head_dim


def _resize_layers(model: hf.PreTrainedModel) -> None:
    """Give every layer the sizes of `model.config`; doing it twice changes nothing."""
    config: Any = model.config
    layout: Layout = config.layout
    head_size = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)

    def resize(layer: nn.Module, name: str, rows: int, columns: int, bias: bool) -> None:
        old: Any = layer.get_submodule(name)
        now = (old.out_features, old.in_features, old.bias is not None)
        if now != (rows, columns, bias):
            new = empty_linear(columns, rows, bias, old)
            model._init_weights(new)
            layer.set_submodule(name, new)

    def resize_rows(layer: nn.Module, name: str, rows: int) -> None:
        old: Any = layer.get_submodule(name)
        resize(layer, name, rows, old.in_features, old.bias is not None)

    for i, layer in enumerate(model.base_model.get_submodule(layout.layers)):
        queries, ffn_size = config.query_heads_per_layer[i], config.ffn_size_per_layer[i]
        groups = getattr(config, "kv_heads_per_layer", config.query_heads_per_layer)[i]
        resize_rows(layer, layout.query, queries * head_size)
        for name in layout.key_value:
            resize_rows(layer, name, groups * head_size)
        bias = config.attention_output_bias_per_layer[i]
        resize(layer, layout.attention_output, config.hidden_size, queries * head_size, bias)
        for name in layout.ffn_inputs:
            resize_rows(layer, name, ffn_size)
        bias = config.ffn_output_bias_per_layer[i]
        resize(layer, layout.ffn_output, config.hidden_size, ffn_size, bias)
        count_heads(layer.get_submodule(layout.attention), layout)


class _SizesPerLayer(nn.Module):
    """Builds the stock model, then gives its layers the sizes of the config."""

    def __init__(self, config: SizesPerLayerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        _resize_layers(self)


# The Auto class of every head: `Bert` + "ForMaskedLM" is what `AutoModelForMaskedLM` gives.
_HEADS: dict[str, Any] = {
    "Model": hf.AutoModel,
    "ForCausalLM": hf.AutoModelForCausalLM,
    "ForMaskedLM": hf.AutoModelForMaskedLM,
    "ForMultipleChoice": hf.AutoModelForMultipleChoice,
    "ForQuestionAnswering": hf.AutoModelForQuestionAnswering,
    "ForSequenceClassification": hf.AutoModelForSequenceClassification,
    "ForTokenClassification": hf.AutoModelForTokenClassification,
}


def _stock_classes(config_name: str) -> dict[Any, Any]:
    """The classes that transformers has of an architecture, by their Auto classes."""
    architecture = config_name.removeprefix("Stat").removesuffix("Config")
    classes = {auto: getattr(hf, f"{architecture}{head}", None) for head, auto in _HEADS.items()}
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
    config: {
        auto: _pruned_class(stock, config)
        for auto, stock in _stock_classes(config.__name__).items()
    }
    for config in CONFIGS
}
globals().update(
    {model.__name__: model for heads in AUTO_CLASSES.values() for model in heads.values()}
)


def _auto_map(config_name: str) -> dict[str, str]:
    """The `auto_map` of a config: every head, so that any of them loads from a saved folder."""
    heads = {auto: f"Stat{stock.__name__}" for auto, stock in _stock_classes(config_name).items()}
    names = {hf.AutoConfig: config_name, **heads}
    return {auto.__name__: f"modeling_stat.{name}" for auto, name in names.items()}


def _register() -> None:
    """Make the Auto classes know the pruned ones, and saving copy this file."""
    for config_class, heads in AUTO_CLASSES.items():
        hf.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        config_class.register_for_auto_class()
        for auto, model_class in heads.items():
            auto.register(config_class, model_class, exist_ok=True)
            model_class.register_for_auto_class(auto.__name__)


_register()
