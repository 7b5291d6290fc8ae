"""Shapes of models that are measured, with random weights, and inputs for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import BertForSequenceClassification, LlamaForCausalLM, PreTrainedModel

from stat_repro.models.modes import seeded

_GROWS_WITH_WIDTH = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
_DECODER_VOCABULARY = 512  # the logits are never computed


@dataclass(frozen=True)
class Shape:
    """A model to measure and how much it reads.

    Attributes:
        model_class: Class in transformers.
        config: Values of the configuration.
        layers: Depth, in `depth_key` of the configuration.
        examples: Calibration examples.
        length: Tokens of each, none of them padding.
        batch_size: Examples per forward pass.
    """

    model_class: type[PreTrainedModel]
    config: dict[str, int]
    layers: int
    examples: int
    length: int
    batch_size: int

    def scaled_to(self, width: int) -> Shape:
        """The shape with another hidden size; heads keep their size, FFNs their factor.

        Raises:
            ValueError: A width that is not made of whole heads.
        """
        old = self.config["hidden_size"]
        parts = {k: self.config[k] for k in _GROWS_WITH_WIDTH if k in self.config}
        if any(size * width % old for size in parts.values()):
            valid = old // math.gcd(old, *parts.values())
            raise ValueError(f"width {width}: expected a multiple of {valid}")
        grown = {key: size * width // old for key, size in parts.items()}
        return replace(self, config={**self.config, "hidden_size": width, **grown})

    def build(
        self, layers: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> PreTrainedModel:
        """The model with seeded random weights, in evaluation mode."""
        values: dict[str, Any] = {**self.config, "num_hidden_layers": layers}
        values["max_position_embeddings"] = max(512, length)
        config = self.model_class.config_class(**values)
        # Made where it runs: seven billion random numbers take minutes on a CPU.
        with seeded(0, device), device:
            model: PreTrainedModel = self.model_class._from_config(config, dtype=dtype)
        return model.eval()


def random_batches(
    model: PreTrainedModel, examples: int, length: int, batch_size: int
) -> list[dict[str, torch.Tensor]]:
    """Batches of random tokens."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.vocab_size)
    tokens = torch.randint(1, vocabulary, (examples, length), generator=generator)
    return [{"input_ids": part.to(model.device)} for part in tokens.split(batch_size)]


def sizes_of(width: int, heads: int, neurons: int, words: int, **others: int) -> dict[str, int]:
    """Values of a configuration.

    Args:
        width: Hidden size.
        heads: Attention heads.
        neurons: Neurons of an FFN.
        words: Words of the vocabulary.
        **others: Further values.
    """
    values = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": neurons}
    return {**values, "vocab_size": words, **others}


def _bert(width: int, heads: int, neurons: int, **sizes: int) -> Shape:
    return Shape(BertForSequenceClassification, sizes_of(width, heads, neurons, 30522), **sizes)


def _llama(width: int, heads: int, groups: int, neurons: int, **sizes: int) -> Shape:
    config = sizes_of(width, heads, neurons, _DECODER_VOCABULARY, num_key_value_heads=groups)
    return Shape(LlamaForCausalLM, config, **sizes)


SHAPES: dict[str, Shape] = {
    "tiny": _bert(24, 4, 20, layers=2, examples=6, length=9, batch_size=4),
    "minilm": _bert(384, 12, 1536, layers=6, examples=512, length=128, batch_size=32),
    "bert_base": _bert(768, 12, 3072, layers=12, examples=512, length=128, batch_size=32),
    "smollm2": _llama(576, 9, 3, 1536, layers=30, examples=128, length=512, batch_size=8),
    "llama2_7b": _llama(4096, 32, 32, 11008, layers=32, examples=128, length=2048, batch_size=4),
    "llama2_7b_layer": _llama(4096, 32, 32, 11008, layers=1, examples=32, length=512, batch_size=4),
}
