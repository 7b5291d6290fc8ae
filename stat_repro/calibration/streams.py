"""The residual stream behind the sites of one layer, while batches pass through it.

A consumer's output is added to the stream in front of its site; the sum is what later layers read.
Post-norm models (BERT) normalise the sum at once, pre-norm models (Llama) hand it on. Where a norm
stands between the consumer and the sum (Gemma, OLMo-2), the sum is no linear function of the
consumer any more, and the norm takes the scale of every token away: there the consumer's own output
stands for the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from stat_repro.calibration.batches import layer_input, token_rows
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.projections import linear

# Gets the site, what its consumer reads (n, columns), and the stream behind it (n, D), or what
# stands for it; n tokens.
Receiver = Callable[[Site, torch.Tensor, torch.Tensor], None]


class _SiteSeen(Exception):
    """Ends a layer's forward pass at a site; nothing went wrong."""


class StreamRecorder:
    """Watches one layer; for `LayerPasses.advance`.

    Args:
        adapter: Of the model.
        layer: The layer.
        sites: Sites of it that are wanted, attention first.
        receive: Called for every wanted site in every batch.
        stop: The site where the forward pass ends, so that batches stay in front of the layer;
            None lets them pass.
    """

    def __init__(
        self,
        adapter: Adapter,
        layer: int,
        sites: list[Site],
        receive: Receiver,
        stop: Site | None = None,
    ) -> None:
        self._name = adapter.layer_names[layer]
        self._pre_norm, self._norm_behind = adapter.pre_norm, adapter.norm_behind
        self._attention = adapter.site(layer, "attention")
        self._ffn = adapter.site(layer, "ffn")
        self._sites, self._receive, self._stop = sites, receive, stop
        self._rows = self._before = self._between = torch.empty(0)

    @contextmanager
    def hooks(self, model: nn.Module) -> Iterator[None]:
        """Hooks on the layer, inside the `with`."""
        with ExitStack() as hooks:
            layer = model.get_submodule(self._name)
            hooks.enter_context(layer.register_forward_pre_hook(self._enter, with_kwargs=True))
            if self._pre_norm:
                attention = model.get_submodule(self._attention.consumer.rpartition(".")[0])
                hooks.enter_context(attention.register_forward_hook(self._attended))
            else:
                producer = linear(model, self._ffn.producers[0].module)
                hooks.enter_context(producer.module.register_forward_pre_hook(self._normalised))
            for site in self._sites:
                consumer = linear(model, site.consumer).module
                hooks.enter_context(consumer.register_forward_hook(partial(self._consumed, site)))
            yield

    @contextmanager
    def batch(self, mask: torch.Tensor, *, ends: bool) -> Iterator[None]:
        """The layer's forward pass of one batch, inside the `with`; `mask` is bool (B, S)."""
        self._rows = token_rows(mask)
        with suppress(_SiteSeen):
            yield

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._before = layer_input(args, kwargs)

    def _attended(self, module: nn.Module, args: Any, output: Any) -> None:
        added = output[0] if isinstance(output, tuple) else output
        self._between = self._before + added

    def _normalised(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._between = args[0]

    def _consumed(self, site: Site, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        stream = output.reshape(-1, output.shape[-1])
        if not self._norm_behind:
            start = self._before if site.kind == "attention" else self._between
            stream = start.reshape(-1, start.shape[-1]) + stream
        rows = self._rows.to(stream.device)
        inputs = args[0].reshape(len(stream), -1)
        self._receive(site, inputs.index_select(0, rows), stream.index_select(0, rows))
        if site is self._stop:
            raise _SiteSeen
