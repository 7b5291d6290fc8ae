"""Pruned encoders and decoders: the stock models with different sizes in every layer.

An architecture is one entry in `ARCHITECTURES`; config and model classes follow from it.

This file is part of `stat_repro`, which registers the classes when it is imported, and it is copied
into every saved model folder with the two that it imports. There `trust_remote_code=True` loads it,
so the three use nothing else of the package.
"""

from dataclasses import replace
from typing import Any

import transformers as hf
from huggingface_hub.dataclasses import strict
from torch import nn

from .configuration_stat import (
    GroupsPerLayerConfig,
    Layout,
    NumberedHeadsConfig,
    SizesPerLayerConfig,
)
from .layers_stat import resize_layers

# BERT and the encoders that are built like it.
BERT = Layout(
    layers="encoder.layer",
    query="attention.self.query",
    key_value=("attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    ffn_inputs=("intermediate.dense",),
    ffn_output="output.dense",
    head_dim="attention_head_size",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
)
ROBERTA = replace(BERT, positions_behind_padding=True)
MPNET = replace(
    ROBERTA,
    query="attention.attn.q",
    key_value=("attention.attn.k", "attention.attn.v"),
    attention_output="attention.attn.o",
    norms=("attention.LayerNorm", "output.LayerNorm"),
    numbered_heads=True,
    layer_tuples=True,
)
MODERN_BERT = Layout(
    layers="layers",
    query="attn.Wqkv",
    key_value=("attn.Wqkv", "attn.Wqkv"),
    attention_output="attn.Wo",
    ffn_inputs=("mlp.Wi", "mlp.Wi"),
    ffn_output="mlp.Wo",
    pre_norm=True,
    output_biases=("attention_bias", "mlp_bias"),
)
DISTILBERT = replace(
    BERT,
    layers="transformer.layer",
    query="attention.q_lin",
    key_value=("attention.k_lin", "attention.v_lin"),
    attention_output="attention.out_lin",
    ffn_inputs=("ffn.lin1",),
    ffn_output="ffn.lin2",
    ffn_size="hidden_dim",
    norms=("sa_layer_norm", "output_layer_norm"),
)

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
    output_biases=(False, False),
)
GATED_BIASES = replace(GATED, output_biases=("attention_bias", "mlp_bias"))
GATED_ATTENTION_BIAS = replace(GATED, output_biases=("attention_bias", False))
GATED_NORM_BEHIND = replace(GATED_ATTENTION_BIAS, norm_behind=True)
# Queries and keys are normalised over all heads of a layer together. Where heads are gone, the mean
# square is that of the kept heads: it, and with it the attention of the kept heads, is that of the
# unpruned model only as far as the kept heads' mean square is.
OLMO2 = replace(GATED_NORM_BEHIND, head_norms=("self_attn.q_norm", "self_attn.k_norm"))
PHI3 = replace(
    GATED,
    query="self_attn.qkv_proj",
    key_value=("self_attn.qkv_proj", "self_attn.qkv_proj"),
    ffn_inputs=("mlp.gate_up_proj", "mlp.gate_up_proj"),
)
GPT2 = Layout(
    layers="h",
    query="attn.c_attn",
    key_value=("attn.c_attn", "attn.c_attn"),
    attention_output="attn.c_proj",
    ffn_inputs=("mlp.c_fc",),
    ffn_output="mlp.c_proj",
    decoder=True,
    pre_norm=True,
    ffn_size="n_inner",
)
OPT = Layout(
    layers="decoder.layers",
    query="self_attn.q_proj",
    key_value=("self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.out_proj",
    ffn_inputs=("fc1",),
    ffn_output="fc2",
    decoder=True,
    pre_norm=True,
    norms=("self_attn_layer_norm", "final_layer_norm"),  # of OPT-350m
    ffn_size="ffn_dim",
    output_biases=("enable_bias", "enable_bias"),
)

# By the config class of the stock models.
ARCHITECTURES: dict[Any, Layout] = {
    hf.BertConfig: BERT,
    hf.RobertaConfig: ROBERTA,
    hf.XLMRobertaConfig: ROBERTA,
    hf.CamembertConfig: ROBERTA,
    hf.ElectraConfig: BERT,
    hf.MPNetConfig: MPNET,
    hf.ModernBertConfig: MODERN_BERT,
    hf.DistilBertConfig: DISTILBERT,
    hf.LlamaConfig: GATED_BIASES,
    hf.MistralConfig: GATED,
    hf.Qwen2Config: GATED,
    hf.Qwen3Config: GATED_ATTENTION_BIAS,
    hf.SmolLM3Config: GATED_BIASES,
    hf.Olmo2Config: OLMO2,
    hf.Gemma2Config: GATED_NORM_BEHIND,
    hf.Gemma3TextConfig: GATED_NORM_BEHIND,
    hf.Phi3Config: PHI3,
    hf.GPT2Config: GPT2,
    hf.OPTConfig: OPT,
}

# The task heads, and what the Hugging Face hub calls the tasks.
HEADS: dict[Any, str] = {
    hf.AutoModel: "feature-extraction",
    hf.AutoModelForCausalLM: "text-generation",
    hf.AutoModelForMaskedLM: "fill-mask",
    hf.AutoModelForMultipleChoice: "multiple-choice",
    hf.AutoModelForQuestionAnswering: "question-answering",
    hf.AutoModelForSequenceClassification: "text-classification",
    hf.AutoModelForTokenClassification: "token-classification",
}


class _SizesPerLayer(nn.Module):
    """Builds the stock model, then gives its layers the sizes of the config."""

    def __init__(self, config: SizesPerLayerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        resize_layers(self)

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


def _stock_classes(stock_config: Any, layout: Layout) -> dict[Any, Any]:
    """The classes that transformers has of an architecture, by their Auto classes."""
    classes = {auto: auto._model_mapping.get(stock_config, None) for auto in HEADS}
    if not layout.decoder:  # some encoders have a decoder's head as well
        classes.pop(hf.AutoModelForCausalLM)
    return {auto: stock for auto, stock in classes.items() if stock is not None}


def _made(stock: Any, base: Any, what: str, **members: Any) -> Any:
    """`StatX`, a class of this module, for the stock class X."""
    documents = {"__module__": __name__, "__doc__": f"{what} `{stock.__name__}`."}
    made = type(f"Stat{stock.__name__}", (base, stock), {**documents, **members})
    globals()[made.__name__] = made
    return made


def _config_class(stock: Any, layout: Layout, heads: dict[Any, Any]) -> Any:
    """The config class of the pruned models; every head can be loaded from a saved folder."""
    base: Any = SizesPerLayerConfig
    if hasattr(stock, "num_key_value_heads"):
        base = GroupsPerLayerConfig
    elif layout.numbered_heads:
        base = NumberedHeadsConfig
    classes = {hf.AutoConfig: stock, **heads}
    renamed = {} if layout.ffn_size is None else {"intermediate_size": layout.ffn_size}
    made = _made(
        stock,
        base,
        "Sizes per layer, else as",
        model_type=f"stat_{stock.model_type}",
        layout=layout,
        attribute_map={**stock.attribute_map, **renamed},
        classes={a.__name__: f"modeling_stat.Stat{c.__name__}" for a, c in classes.items()},
    )
    return strict(made)


# What `AutoModelForX.from_pretrained` gives for each config, here and in a saved folder.
AUTO_CLASSES: dict[Any, dict[Any, Any]] = {}
# The Auto class of each pruned class, by name: with trust_remote_code the class is a copy.
AUTO_OF: dict[str, Any] = {}
# By `config.model_type`, of the stock model and of its pruned form.
LAYOUTS: dict[str, Layout] = {}


def _make_classes() -> None:
    """Make the classes of all architectures, known to the Auto classes; saving copies this file.

    A copy in a model folder does not take the place of classes that are there already: what else
    the process loads without remote code stays what it was.
    """
    known = hf.models.auto.configuration_auto.CONFIG_MAPPING
    for stock_config, layout in ARCHITECTURES.items():
        heads = _stock_classes(stock_config, layout)
        config = _config_class(stock_config, layout, heads)
        new = __name__.startswith("stat_repro.") or config.model_type not in known
        if new:
            hf.AutoConfig.register(config.model_type, config, exist_ok=True)
        config.register_for_auto_class()
        AUTO_CLASSES[config] = {}
        for auto, stock in heads.items():
            model = _made(stock, _SizesPerLayer, "Pruned", config_class=config)
            if new:
                auto.register(config, model, exist_ok=True)
            model.register_for_auto_class(auto.__name__)
            AUTO_CLASSES[config][auto] = model
            AUTO_OF[model.__name__] = auto
        LAYOUTS.update(dict.fromkeys((stock_config.model_type, config.model_type), layout))


_make_classes()
