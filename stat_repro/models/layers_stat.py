"""Modules of pruned models: projections of any size, and attention with the heads that are left.

Like `modeling_stat.py`, this file is copied into saved model folders.
"""

import copy
import functools
import re
from typing import Any, ClassVar

import torch
import transformers as hf
from torch import nn
from transformers.pytorch_utils import Conv1D

from .configuration_stat import Layout


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
        new.__dict__ |= vars(nn.Module())  # without the hooks of the old one
        new.__dict__.pop("forward", None)
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
        if position_bias is not None:  # no index, which would be copied to the device every time
            position_bias = torch.stack([position_bias[:, n] for n in numbers], dim=1)
        return stock.forward(hidden_states, attention_mask, position_bias, **kwargs)


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
            number: Any = self.layer_idx
            slots = getattr(past_key_values, "layers", [])[number : number + 1]  # made when used
            if slots and isinstance(slots[0], hf.cache_utils.QuantizedLayer):
                config: Any = self.config
                heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
                size: Any = self.head_dim
                marks = marks.expand(-1, heads or 1, -1, size)
            marks, _ = past_key_values.update(marks, marks, self.layer_idx)
        output = hidden_states[..., :0]
        # A norm over single heads is left: it gets a gradient of zeros, as any other parameter.
        for parameter in self.parameters():
            if parameter.device == output.device:  # not on disk (device_map)
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
    if "_old_forward" in vars(attention):  # which accelerate calls between its hooks (device_map)
        attention._old_forward = type(attention).forward.__get__(attention)
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


def resize_layers(model: hf.PreTrainedModel) -> None:
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
