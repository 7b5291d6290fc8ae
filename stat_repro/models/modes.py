"""Temporary changes of a model: its mode, its forward passes, and which weights are in memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the `with`; afterwards every module has its previous mode."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


@contextmanager
def forwards_replaced(
    modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]
) -> Iterator[None]:
    """Inside the `with`, every module calls its replacement instead of `forward`."""
    previous = [module.__dict__.get("forward") for module in modules]
    try:
        for module, forward in zip(modules, forwards, strict=True):
            module.forward = forward
        yield
    finally:
        for module, before in zip(modules, previous, strict=True):
            module.__dict__.pop("forward", None)
            if before is not None:
                module.forward = before


class LayerWeights:
    """Puts the weights of a part of a model into memory for a `with`; here all are there already.

    A subclass reads them from disk.
    """

    def outside(self) -> AbstractContextManager[None]:
        """The weights of the backbone outside its transformer layers."""
        return nullcontext()

    def layer(self, layer: int) -> AbstractContextManager[None]:
        """The weights of one transformer layer."""
        return nullcontext()
