"""Config of an exported model, for vLLM's DeciLMForCausalLM; copied into its folder."""

from typing import Any

from transformers import LlamaConfig


class _Sizes(dict):
    """A part of a layer's sizes, read as attributes, as vLLM does, and still JSON."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class DeciLMConfig(LlamaConfig):
    """`LlamaConfig` with `block_configs`: sizes of the attention and of the FFN of every layer."""

    model_type = "nemotron-nas"

    def __post_init__(self, block_configs: Any = (), **kwargs: Any) -> None:
        layers = [{k: _Sizes(part) for k, part in layer.items()} for layer in block_configs]
        self.block_configs = [_Sizes(layer) for layer in layers]
        super().__post_init__(**kwargs)
