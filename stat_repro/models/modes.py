"""Temporary changes: a model's mode, forward passes and weights in memory, torch's random state."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


@contextmanager
def own_types() -> Iterator[None]:
    """Inside the `with`, or in a function that it decorates, modes of the caller are off.

    torch.autocast would round the sums of the activations, float64 ones excepted, to half
    precision. torch.inference_mode would leave no gradients and a model that cannot be trained.
    With another default device, tensors would be made there that belong on the CPU.
    """
    with ExitStack() as off:
        if torch.get_default_device().type != "cpu":
            off.enter_context(torch.device("cpu"))
        off.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda", "mps"):
            off.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the `with`, outputs by name, no cache or weights of attention.

    Afterwards as before. A cache would grow with every pass that is given the recorded arguments of
    an earlier one, and MPNet's encoder asks a layer that is skipped for the weights. Modules that
    were compiled in place run uncompiled: compiled code does not call new hooks.
    """
    flags = {module: module.training for module in model.modules()}
    compiled = {m: m._compiled_call_impl for m in flags if m._compiled_call_impl is not None}
    config: Any = getattr(model, "config", None)
    wanted = {"return_dict": True, "use_cache": False, "output_attentions": False}
    before = {key: getattr(config, key) for key in wanted if hasattr(config, key)}
    model.eval()
    for module in compiled:
        module._compiled_call_impl = None
    try:
        for key in before:
            setattr(config, key, wanted[key])
        yield
    finally:
        for key, value in before.items():
            setattr(config, key, value)
        for module, training in flags.items():
            module.training = training
        for module, call in compiled.items():
            module._compiled_call_impl = call


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


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random state from `seed` inside the `with`, and afterwards what it was before.

    Args:
        seed: Seed of the CPU's generator and of the one of `device`.
        device: Device that is used; the state of other accelerators stays as it is.
    """
    cuda = [device.index or 0] if device.type == "cuda" else []
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        if mps is not None:
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)
