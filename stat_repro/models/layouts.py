"""Where the supported architectures keep their projections, as data.

Names were read off transformers 5.23. A new architecture with the same parts (separate query,
key and value projections; an FFN whose last Linear reads the neurons) is one more entry.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Module names of one architecture, relative to the backbone or to a layer.

    Attributes:
        layers: The list of layers, relative to the backbone.
        attention: The module that holds the head dimension.
        head_dim: Name of that attribute.
        query: Query projection.
        key_value: Key and value projections.
        attention_output: Consumer of the heads.
        ffn_inputs: Producers of the neurons (two for a gated FFN).
        ffn_output: Consumer of the neurons.
        decoder: Whether the model is a causal decoder.
    """

    layers: str
    attention: str
    head_dim: str
    query: str
    key_value: tuple[str, str]
    attention_output: str
    ffn_inputs: tuple[str, ...]
    ffn_output: str
    decoder: bool


BERT = Layout(
    layers="encoder.layer",
    attention="attention.self",
    head_dim="attention_head_size",
    query="attention.self.query",
    key_value=("attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    ffn_inputs=("intermediate.dense",),
    ffn_output="output.dense",
    decoder=False,
)

DISTILBERT = Layout(
    layers="transformer.layer",
    attention="attention",
    head_dim="attention_head_size",
    query="attention.q_lin",
    key_value=("attention.k_lin", "attention.v_lin"),
    attention_output="attention.out_lin",
    ffn_inputs=("ffn.lin1",),
    ffn_output="ffn.lin2",
    decoder=False,
)

# Llama and the decoders that are built like it.
LLAMA = Layout(
    layers="layers",
    attention="self_attn",
    head_dim="head_dim",
    query="self_attn.q_proj",
    key_value=("self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    ffn_inputs=("mlp.gate_proj", "mlp.up_proj"),
    ffn_output="mlp.down_proj",
    decoder=True,
)

OPT = Layout(
    layers="decoder.layers",
    attention="self_attn",
    head_dim="head_dim",
    query="self_attn.q_proj",
    key_value=("self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.out_proj",
    ffn_inputs=("fc1",),
    ffn_output="fc2",
    decoder=True,
)

# Dispatch is on `config.model_type`; `stat_*` are the pruned forms saved by this package.
LAYOUTS: dict[str, Layout] = {
    "bert": BERT,
    "stat_bert": BERT,
    "distilbert": DISTILBERT,
    "stat_distilbert": DISTILBERT,
    "llama": LLAMA,
    "stat_llama": LLAMA,
    "mistral": LLAMA,
    "stat_mistral": LLAMA,
    "qwen2": LLAMA,
    "stat_qwen2": LLAMA,
    "opt": OPT,
    "stat_opt": OPT,
}
