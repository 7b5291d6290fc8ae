"""Pruned encoders and decoders: the stock models with sizes of their own in every layer.

BERT, DistilBERT, Llama, Mistral, Qwen2 and OPT.

This file is self-contained: it is part of `stat_repro`, which registers the classes when it is
imported, and it is copied into every saved model folder, where `trust_remote_code=True` finds it.
The dense head and neuron counts stay in the config (head sizes and rotary frequencies derive from
them); the `*_per_layer` lists say what each layer really has.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers as hf
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.distilbert.modeling_distilbert import DistilBertSelfAttention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.opt.modeling_opt import OPTAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention


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
        query_heads_per_layer: Attention (query) heads of each layer.
        ffn_size_per_layer: FFN neurons of each layer.
        attention_output_bias_per_layer: Whether the attention output projection has a bias.
        ffn_output_bias_per_layer: Whether the last Linear of the FFN has a bias.
    """

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


@strict
class StatDistilBertConfig(SizesPerLayerConfig, hf.DistilBertConfig):
    """`DistilBertConfig` with sizes per layer."""

    model_type = "stat_distilbert"
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

    def _output_biases(self) -> tuple[bool, bool]:
        return self.attention_bias, self.mlp_bias


@strict
class StatMistralConfig(GroupsPerLayerConfig, hf.MistralConfig):
    """`MistralConfig` with sizes per layer."""

    model_type = "stat_mistral"


@strict
class StatQwen2Config(GroupsPerLayerConfig, hf.Qwen2Config):
    """`Qwen2Config` with sizes per layer."""

    model_type = "stat_qwen2"


@strict
class StatOPTConfig(SizesPerLayerConfig, hf.OPTConfig):
    """`OPTConfig` with sizes per layer."""

    model_type = "stat_opt"
    attribute_map: ClassVar[dict[str, str]] = {
        **hf.OPTConfig.attribute_map,
        "intermediate_size": "ffn_dim",
    }

    def _output_biases(self) -> tuple[bool, bool]:
        return self.enable_bias, self.enable_bias


@dataclass(frozen=True)
class _Names:
    """Module names relative to the base model (`layers`) and to a layer (the rest)."""

    layers: str
    heads: tuple[str, str, str]  # query, key, value
    attention_output: str
    ffn_inputs: tuple[str, ...]
    ffn_output: str


# Llama and the decoders that are built like it.
_GATED = _Names(
    layers="layers",
    heads=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    ffn_inputs=("mlp.gate_proj", "mlp.up_proj"),
    ffn_output="mlp.down_proj",
)

_NAMES: dict[type, _Names] = {
    StatBertConfig: _Names(
        layers="encoder.layer",
        heads=("attention.self.query", "attention.self.key", "attention.self.value"),
        attention_output="attention.output.dense",
        ffn_inputs=("intermediate.dense",),
        ffn_output="output.dense",
    ),
    StatDistilBertConfig: _Names(
        layers="transformer.layer",
        heads=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_output="attention.out_lin",
        ffn_inputs=("ffn.lin1",),
        ffn_output="ffn.lin2",
    ),
    StatLlamaConfig: _GATED,
    StatMistralConfig: _GATED,
    StatQwen2Config: _GATED,
    StatOPTConfig: _Names(
        layers="decoder.layers",
        heads=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        attention_output="self_attn.out_proj",
        ffn_inputs=("fc1",),
        ffn_output="fc2",
    ),
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

    # Names of the key projection and of the output projection, where the module has that.
    key_name: ClassVar[str] = "k_proj"
    output_name: ClassVar[str | None] = "o_proj"

    def forward(
        self, hidden_states: torch.Tensor, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output (B, S, D or 0) and empty attention weights (B, 0, S, tokens seen)."""
        batch, length, _ = hidden_states.shape
        marks = hidden_states.new_zeros(batch, 1, length, 1)
        if past_key_values is not None:
            marks, _ = past_key_values.update(marks, marks, self.layer_idx)
        output = hidden_states[..., :0]
        if self.output_name is not None:
            output = self.get_submodule(self.output_name)(output)
        return output, hidden_states.new_empty(batch, 0, length, marks.shape[-2])


class _BertWithoutHeads(_WithoutHeads, BertSelfAttention):
    key_name, output_name = "key", None


class _DistilBertWithoutHeads(_WithoutHeads, DistilBertSelfAttention):
    key_name, output_name = "k_lin", "out_lin"


class _LlamaWithoutHeads(_WithoutHeads, LlamaAttention):
    pass


class _MistralWithoutHeads(_WithoutHeads, MistralAttention):
    pass


class _Qwen2WithoutHeads(_WithoutHeads, Qwen2Attention):
    pass


class _OPTWithoutHeads(_WithoutHeads, OPTAttention):
    output_name = "out_proj"


_WITHOUT_HEADS: dict[Any, Any] = {
    BertSelfAttention: _BertWithoutHeads,
    DistilBertSelfAttention: _DistilBertWithoutHeads,
    LlamaAttention: _LlamaWithoutHeads,
    MistralAttention: _MistralWithoutHeads,
    Qwen2Attention: _Qwen2WithoutHeads,
    OPTAttention: _OPTWithoutHeads,
}


def count_heads(attention: Any) -> None:
    """Make an attention module work with as many heads as its projections have.

    Other modules stay as they are.
    """
    for stock, without_heads in _WITHOUT_HEADS.items():
        if not isinstance(attention, stock):
            continue
        empty = attention.get_submodule(without_heads.key_name).out_features == 0
        if empty != isinstance(attention, _WithoutHeads):
            # The same module with another forward pass: names, hooks and weights stay.
            attention.__class__ = without_heads if empty else stock
        if stock is OPTAttention:
            attention.num_heads = attention.q_proj.out_features // attention.head_dim
        elif hasattr(attention, "num_key_value_groups") and not empty:
            queries, groups = attention.q_proj.out_features, attention.k_proj.out_features
            attention.num_key_value_groups = queries // groups


def _resize_layers(model: hf.PreTrainedModel) -> None:
    """Give every layer the sizes of `model.config`; doing it twice changes nothing."""
    config = model.config
    names = _NAMES[type(config)]
    head_size = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)

    def resize(layer: nn.Module, name: str, rows: int, columns: int, bias: bool) -> None:
        old: Any = layer.get_submodule(name)
        now = (old.out_features, old.in_features, old.bias is not None)
        if now != (rows, columns, bias):
            new = empty_linear(columns, rows, bias, old)
            model._init_weights(new)
            layer.set_submodule(name, new)

    for i, layer in enumerate(model.base_model.get_submodule(names.layers)):
        queries, ffn_size = config.query_heads_per_layer[i], config.ffn_size_per_layer[i]
        groups = getattr(config, "kv_heads_per_layer", config.query_heads_per_layer)[i]
        for name, heads in zip(names.heads, (queries, groups, groups), strict=True):
            old = layer.get_submodule(name)
            resize(layer, name, heads * head_size, old.in_features, old.bias is not None)
        bias = config.attention_output_bias_per_layer[i]
        resize(layer, names.attention_output, config.hidden_size, queries * head_size, bias)
        for name in names.ffn_inputs:
            old = layer.get_submodule(name)
            resize(layer, name, ffn_size, old.in_features, old.bias is not None)
        bias = config.ffn_output_bias_per_layer[i]
        resize(layer, names.ffn_output, config.hidden_size, ffn_size, bias)
        count_heads(layer.get_submodule(names.heads[0].rpartition(".")[0]))


class _SizesPerLayer(nn.Module):
    """Builds the stock model, then gives its layers the sizes of the config."""

    def __init__(self, config: SizesPerLayerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        _resize_layers(self)


class _PrunedBert(_SizesPerLayer):
    config_class = StatBertConfig


class _PrunedDistilBert(_SizesPerLayer):
    config_class = StatDistilBertConfig


class _PrunedLlama(_SizesPerLayer):
    config_class = StatLlamaConfig


class _PrunedMistral(_SizesPerLayer):
    config_class = StatMistralConfig


class _PrunedQwen2(_SizesPerLayer):
    config_class = StatQwen2Config


class _PrunedOPT(_SizesPerLayer):
    config_class = StatOPTConfig


class StatBertModel(_PrunedBert, hf.BertModel):
    """Pruned `BertModel`."""


class StatBertForSequenceClassification(_PrunedBert, hf.BertForSequenceClassification):
    """Pruned `BertForSequenceClassification`."""


class StatBertForTokenClassification(_PrunedBert, hf.BertForTokenClassification):
    """Pruned `BertForTokenClassification`."""


class StatBertForQuestionAnswering(_PrunedBert, hf.BertForQuestionAnswering):
    """Pruned `BertForQuestionAnswering`."""


class StatBertForMultipleChoice(_PrunedBert, hf.BertForMultipleChoice):
    """Pruned `BertForMultipleChoice`."""


class StatBertForMaskedLM(_PrunedBert, hf.BertForMaskedLM):
    """Pruned `BertForMaskedLM`."""


class StatDistilBertModel(_PrunedDistilBert, hf.DistilBertModel):
    """Pruned `DistilBertModel`."""


class StatDistilBertForSequenceClassification(
    _PrunedDistilBert, hf.DistilBertForSequenceClassification
):
    """Pruned `DistilBertForSequenceClassification`."""


class StatDistilBertForTokenClassification(_PrunedDistilBert, hf.DistilBertForTokenClassification):
    """Pruned `DistilBertForTokenClassification`."""


class StatDistilBertForQuestionAnswering(_PrunedDistilBert, hf.DistilBertForQuestionAnswering):
    """Pruned `DistilBertForQuestionAnswering`."""


class StatDistilBertForMultipleChoice(_PrunedDistilBert, hf.DistilBertForMultipleChoice):
    """Pruned `DistilBertForMultipleChoice`."""


class StatDistilBertForMaskedLM(_PrunedDistilBert, hf.DistilBertForMaskedLM):
    """Pruned `DistilBertForMaskedLM`."""


class StatLlamaModel(_PrunedLlama, hf.LlamaModel):
    """Pruned `LlamaModel`."""


class StatLlamaForCausalLM(_PrunedLlama, hf.LlamaForCausalLM):
    """Pruned `LlamaForCausalLM`."""


class StatLlamaForSequenceClassification(_PrunedLlama, hf.LlamaForSequenceClassification):
    """Pruned `LlamaForSequenceClassification`."""


class StatLlamaForTokenClassification(_PrunedLlama, hf.LlamaForTokenClassification):
    """Pruned `LlamaForTokenClassification`."""


class StatLlamaForQuestionAnswering(_PrunedLlama, hf.LlamaForQuestionAnswering):
    """Pruned `LlamaForQuestionAnswering`."""


class StatMistralModel(_PrunedMistral, hf.MistralModel):
    """Pruned `MistralModel`."""


class StatMistralForCausalLM(_PrunedMistral, hf.MistralForCausalLM):
    """Pruned `MistralForCausalLM`."""


class StatMistralForSequenceClassification(_PrunedMistral, hf.MistralForSequenceClassification):
    """Pruned `MistralForSequenceClassification`."""


class StatMistralForTokenClassification(_PrunedMistral, hf.MistralForTokenClassification):
    """Pruned `MistralForTokenClassification`."""


class StatMistralForQuestionAnswering(_PrunedMistral, hf.MistralForQuestionAnswering):
    """Pruned `MistralForQuestionAnswering`."""


class StatQwen2Model(_PrunedQwen2, hf.Qwen2Model):
    """Pruned `Qwen2Model`."""


class StatQwen2ForCausalLM(_PrunedQwen2, hf.Qwen2ForCausalLM):
    """Pruned `Qwen2ForCausalLM`."""


class StatQwen2ForSequenceClassification(_PrunedQwen2, hf.Qwen2ForSequenceClassification):
    """Pruned `Qwen2ForSequenceClassification`."""


class StatQwen2ForTokenClassification(_PrunedQwen2, hf.Qwen2ForTokenClassification):
    """Pruned `Qwen2ForTokenClassification`."""


class StatQwen2ForQuestionAnswering(_PrunedQwen2, hf.Qwen2ForQuestionAnswering):
    """Pruned `Qwen2ForQuestionAnswering`."""


class StatOPTModel(_PrunedOPT, hf.OPTModel):
    """Pruned `OPTModel`."""


class StatOPTForCausalLM(_PrunedOPT, hf.OPTForCausalLM):
    """Pruned `OPTForCausalLM`."""


class StatOPTForSequenceClassification(_PrunedOPT, hf.OPTForSequenceClassification):
    """Pruned `OPTForSequenceClassification`."""


class StatOPTForQuestionAnswering(_PrunedOPT, hf.OPTForQuestionAnswering):
    """Pruned `OPTForQuestionAnswering`."""


# What `AutoModelForX.from_pretrained` gives for each config, here and in a saved folder.
AUTO_CLASSES: dict[Any, dict[Any, Any]] = {
    StatBertConfig: {
        hf.AutoModel: StatBertModel,
        hf.AutoModelForSequenceClassification: StatBertForSequenceClassification,
        hf.AutoModelForTokenClassification: StatBertForTokenClassification,
        hf.AutoModelForQuestionAnswering: StatBertForQuestionAnswering,
        hf.AutoModelForMultipleChoice: StatBertForMultipleChoice,
        hf.AutoModelForMaskedLM: StatBertForMaskedLM,
    },
    StatDistilBertConfig: {
        hf.AutoModel: StatDistilBertModel,
        hf.AutoModelForSequenceClassification: StatDistilBertForSequenceClassification,
        hf.AutoModelForTokenClassification: StatDistilBertForTokenClassification,
        hf.AutoModelForQuestionAnswering: StatDistilBertForQuestionAnswering,
        hf.AutoModelForMultipleChoice: StatDistilBertForMultipleChoice,
        hf.AutoModelForMaskedLM: StatDistilBertForMaskedLM,
    },
    StatLlamaConfig: {
        hf.AutoModel: StatLlamaModel,
        hf.AutoModelForCausalLM: StatLlamaForCausalLM,
        hf.AutoModelForSequenceClassification: StatLlamaForSequenceClassification,
        hf.AutoModelForTokenClassification: StatLlamaForTokenClassification,
        hf.AutoModelForQuestionAnswering: StatLlamaForQuestionAnswering,
    },
    StatMistralConfig: {
        hf.AutoModel: StatMistralModel,
        hf.AutoModelForCausalLM: StatMistralForCausalLM,
        hf.AutoModelForSequenceClassification: StatMistralForSequenceClassification,
        hf.AutoModelForTokenClassification: StatMistralForTokenClassification,
        hf.AutoModelForQuestionAnswering: StatMistralForQuestionAnswering,
    },
    StatQwen2Config: {
        hf.AutoModel: StatQwen2Model,
        hf.AutoModelForCausalLM: StatQwen2ForCausalLM,
        hf.AutoModelForSequenceClassification: StatQwen2ForSequenceClassification,
        hf.AutoModelForTokenClassification: StatQwen2ForTokenClassification,
        hf.AutoModelForQuestionAnswering: StatQwen2ForQuestionAnswering,
    },
    StatOPTConfig: {
        hf.AutoModel: StatOPTModel,
        hf.AutoModelForCausalLM: StatOPTForCausalLM,
        hf.AutoModelForSequenceClassification: StatOPTForSequenceClassification,
        hf.AutoModelForQuestionAnswering: StatOPTForQuestionAnswering,
    },
}


def _auto_map(config_name: str) -> dict[str, str]:
    """The `auto_map` of a config: every head, so that any of them loads from a saved folder."""
    (config_class,) = (c for c in AUTO_CLASSES if c.__name__ == config_name)
    heads = {
        auto.__name__: f"modeling_stat.{model.__name__}"
        for auto, model in AUTO_CLASSES[config_class].items()
    }
    return {"AutoConfig": f"modeling_stat.{config_name}", **heads}


def _register() -> None:
    """Make the Auto classes know the pruned ones, and saving copy this file."""
    for config_class, heads in AUTO_CLASSES.items():
        hf.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        config_class.register_for_auto_class()
        for auto, model_class in heads.items():
            auto.register(config_class, model_class, exist_ok=True)
            model_class.register_for_auto_class(auto.__name__)


_register()
