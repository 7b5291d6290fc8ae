"""The calibration set on its way through a model, one transformer layer at a time.

All batches pass through a layer before the next layer begins, so that the weights and statistics of
one layer are needed at a time. The arguments of a layer (masks, rotary embeddings, positions) are
those of the usual forward pass of transformers, recorded once with layers that do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from stat_repro.calibration.batches import (
    CalibrationBatch,
    forward_options,
    layer_output,
    model_inputs,
    token_mask,
)
from stat_repro.calibration.spill import TensorStore
from stat_repro.models.adapter import Adapter
from stat_repro.models.modes import evaluating, forwards_replaced
from stat_repro.models.residency import LayerWeights
from stat_repro.parallel import own_share
from stat_repro.progress import track


class _LastLayerReached(Exception):
    """Ends a forward pass at the last layer; nothing went wrong."""


@dataclass(frozen=True)
class _Slot:
    """The place of a stored tensor in recorded arguments."""

    index: int


class Watcher(Protocol):
    """Sees the forward passes of a layer, such as `capture.Reduction`."""

    def hooks(self, model: nn.Module) -> AbstractContextManager[None]:
        """Hooks on the layer, inside the `with`."""
        ...

    def batch(self, mask: torch.Tensor, *, ends: bool) -> AbstractContextManager[None]:
        """The forward pass of one batch, inside the `with`.

        Args:
            mask: Which positions are tokens, bool (B, S).
            ends: Whether the output of the layer is not needed.
        """
        ...


class LayerPasses:
    """Hidden states of all batches in front of one layer.

    Args:
        model: The model; what is not resident may be on the meta device.
        adapter: Its adapter.
        weights: Brings weights into memory. `start` loads those outside the layers; `advance`
            expects the layer to be loaded already.
        batches: Calibration batches; where several processes work on one run, each takes its share.
        store: Where hidden states and arguments wait.
        device: Where layers run.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        weights: LayerWeights,
        batches: Iterable[CalibrationBatch],
        store: TensorStore,
        device: torch.device,
    ) -> None:
        self._model, self._adapter, self._weights = model, adapter, weights
        self._batches, self._store, self._device = batches, store, device
        self._masks: list[torch.Tensor] = []
        self._calls: list[list[Any]] = []  # of every batch: the arguments of every layer

    def start(self) -> None:
        """Put all batches in front of the first layer."""
        self._masks, self._calls = [], []
        backbone = self._model.get_submodule(self._adapter.backbone)
        layers = [self._model.get_submodule(name) for name in self._adapter.layer_names]
        options = forward_options(self._adapter)
        with self._weights.outside(), evaluating(self._model), torch.inference_mode():
            for index, batch in enumerate(
                track(own_share(self._batches), "embedding the calibration set")
            ):
                self._masks.append(token_mask(model_inputs(batch)).cpu())
                inputs = model_inputs(batch, self._device)
                calls: list[Any] = []
                with _recorded(layers, calls, self._adapter), suppress(_LastLayerReached):
                    backbone(**inputs, **options)
                tensors: list[torch.Tensor] = []
                self._calls.append([_mapped(call[1:], partial(_slot, tensors)) for call in calls])
                self._store.put(f"hidden-{index}", [calls[0][0]])
                self._store.put(f"arguments-{index}", tensors)

    def advance(self, layer: int, watcher: Watcher, label: str) -> None:
        """Take all batches through a layer; after the last one they are not kept.

        Args:
            layer: The layer that the batches have reached.
            watcher: Sees what happens in the layer. Where it ends a forward pass early, the batch
                stays in front of the layer.
            label: Of the progress line.
        """
        module = self._model.get_submodule(self._adapter.layer_names[layer])
        last = layer == self._adapter.num_layers - 1
        with evaluating(module), torch.inference_mode(), watcher.hooks(self._model):
            for index in track(range(len(self._masks)), label):
                tensors = [t.to(self._device) for t in self._store.get(f"arguments-{index}")]
                call = self._calls[index][layer]
                arguments, options = _mapped(call, partial(_tensor, tensors))
                hidden = self._store.get(f"hidden-{index}")[0].to(self._device)
                with watcher.batch(self._masks[index], ends=last):
                    hidden = module(hidden, *arguments, **options)
                    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
                    if not last:
                        self._store.put(f"hidden-{index}", [hidden])


@contextmanager
def _recorded(layers: list[nn.Module], calls: list[Any], adapter: Adapter) -> Iterator[None]:
    """Make the layers hand their input on and write down how they were called.

    A call is (hidden states, further positional arguments, keyword arguments).
    """

    def record(layer: int, hidden_states: torch.Tensor, *rest: Any, **options: Any) -> Any:
        calls.append((hidden_states, rest, options))
        if layer == len(layers) - 1:
            raise _LastLayerReached
        return layer_output(adapter, hidden_states)

    with forwards_replaced(layers, [partial(record, layer) for layer in range(len(layers))]):
        yield


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested arguments with everything that is no container changed."""
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_mapped(item, change) for item in value)
    return change(value)


def _slot(tensors: list[torch.Tensor], value: Any) -> Any:
    """A slot in place of a tensor, which goes to the list if it is not there yet."""
    if not isinstance(value, torch.Tensor):
        return value
    known = [i for i, tensor in enumerate(tensors) if tensor is value]
    if not known:
        tensors.append(value)
    return _Slot(known[0] if known else len(tensors) - 1)


def _tensor(tensors: list[torch.Tensor], value: Any) -> Any:
    """The tensor of a slot."""
    return tensors[value.index] if isinstance(value, _Slot) else value
