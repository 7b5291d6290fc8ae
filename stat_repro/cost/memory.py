"""How much memory a forward pass holds at once."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stat_repro.measure import synchronize


class _LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside and are alive.

    Attributes:
        peak: The most that was alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        known = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in {s._cdata: s for s in _storages(results)}.values():
            if storage._cdata not in known:  # views share the storage of an input
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return results

    def _freed(self, size: int) -> None:
        self.live -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def forward_bytes(forward: Callable[[], object], device: torch.device) -> int:
    """The most that a forward pass holds at once beyond what was there before it.

    That is activations and outputs, without weights and inputs. On CUDA it is what torch's
    allocator hands out, temporaries inside an operation included; elsewhere the bytes of the
    tensors that are alive, without such temporaries.

    Args:
        forward: Runs the pass; its result is dropped.
        device: Device it runs on. On CUDA the peak of the allocator is started anew.
    """
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        forward()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveTensors() as tensors:
        forward()
    return tensors.peak
