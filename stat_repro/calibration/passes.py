"""Forward passes over the calibration set, and hooks that see what happens in them.

Hooks exist inside context managers only. Afterwards the model has the state, mode and hooks that it
had before, whatever happened inside.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from stat_repro.calibration.batches import (
    CalibrationBatch,
    layer_input,
    model_inputs,
    token_mask,
    token_rows,
)
from stat_repro.models.adapter import Adapter
from stat_repro.models.modes import evaluating
from stat_repro.parallel import own_share
from stat_repro.progress import track


class PassEnded(Exception):
    """Ends a forward pass of which the rest is not needed; nothing went wrong."""


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are removed at the end of the `with`."""
    with ExitStack() as hooks:
        for handle in handles:
            hooks.enter_context(handle)
        yield


def layer_hooks(
    layers: Sequence[nn.Module], receive: Callable[[torch.Tensor, torch.Tensor], None]
) -> AbstractContextManager[None]:
    """Call `receive(input, output)` for every layer, in every forward pass inside."""

    def hook(module: nn.Module, args: Any, options: Any, output: Any) -> None:
        after = output[0] if isinstance(output, tuple) else output
        receive(layer_input(args, options), after)

    return hooked(module.register_forward_hook(hook, with_kwargs=True) for module in layers)


class Watcher:
    """Sees forward passes of a model or of one layer, batch by batch.

    Attributes:
        tokens: Tokens of the batches so far, padding excluded.
        examples: Rows of the batches so far.
    """

    def __init__(self) -> None:
        self.tokens = self.examples = 0
        self._mask = self._rows = torch.empty(0)
        self._ends = True

    def _handles(self, model: nn.Module) -> Iterator[RemovableHandle]:
        """Put the hooks into a model."""
        raise NotImplementedError

    def hooks(self, model: nn.Module) -> AbstractContextManager[None]:
        """The hooks, inside the `with`."""
        return hooked(self._handles(model))

    @contextmanager
    def batch(self, mask: torch.Tensor, *, ends: bool) -> Iterator[None]:
        """The forward pass of one batch, inside the `with`.

        Args:
            mask: Which positions are tokens, bool (B, S); on the CPU, so that counting them does
                not wait for an accelerator.
            ends: Whether the output is not needed, so that the pass may stop.
        """
        self._mask, self._rows, self._ends = mask, token_rows(mask), ends
        self.tokens += len(self._rows)
        self.examples += mask.shape[0]
        with suppress(PassEnded):
            yield


def run_backbone(
    model: nn.Module,
    adapter: Adapter,
    batches: Iterable[CalibrationBatch],
    device: torch.device,
    around: Callable[[torch.Tensor], AbstractContextManager[None]],
    label: str,
) -> None:
    """Run a model without its task head over the batches; each process takes its share.

    Args:
        model: The model; left as it was, bit for bit.
        adapter: Its adapter.
        batches: Mappings with `input_ids` (B, S) and, where there is padding, `attention_mask`.
        device: Where the inputs go.
        around: Gets the mask of a batch, bool (B, S), and is entered for its forward pass.
        label: Text of the progress line.
    """
    backbone = model.get_submodule(adapter.backbone)
    with evaluating(model), torch.inference_mode():
        for batch in track(own_share(batches), label):
            # The mask before the batch goes to the model, so that nothing waits for an accelerator.
            with around(token_mask(model_inputs(batch))):
                backbone(**model_inputs(batch, device))
