"""How much every transformer block changes the stream that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stat_repro.calibration.capture import Batch, CalibrationError, token_mask
from stat_repro.models.adapter import Adapter
from stat_repro.models.modes import evaluating
from stat_repro.progress import track


def block_influence(model: nn.Module, adapter: Adapter, batches: Iterable[Batch]) -> Tensor:
    """1 - mean over tokens of cos(x_in, x_out) of every block (Men et al. 2024, formula 1).

    Args:
        model: The model; left as it was.
        adapter: Its adapter.
        batches: `input_ids` (B, S) and, where there is padding, `attention_mask`.

    Returns:
        Shape (layers,), float64 on the CPU, 0 for a block that changes no direction.

    Raises:
        CalibrationError: No tokens, or streams that are not finite; names the block.
    """
    backbone = model.get_submodule(adapter.backbone)
    device = next(backbone.parameters()).device
    cosines = torch.zeros(adapter.num_layers, dtype=torch.float64)
    tokens = 0
    mask = torch.empty(0)

    def receive(layer: int, before: Tensor, after: Tensor) -> None:
        cosine = functional.cosine_similarity(before[mask].float(), after[mask].float(), dim=-1)
        cosines[layer] += cosine.sum().cpu().double()

    with evaluating(model), torch.inference_mode(), _block_hooks(model, adapter, receive):
        for batch in track(batches, "influence of the blocks"):
            inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
            mask = token_mask(inputs)
            tokens += int(mask.sum())
            backbone(**inputs, use_cache=False)
    if not tokens:
        raise CalibrationError("the calibration set holds no tokens: expected at least one batch")
    for layer, name in enumerate(adapter.blocks):
        if not bool(torch.isfinite(cosines[layer])):
            raise CalibrationError(f"{name}: NaN or infinite activations on the calibration data")
    return 1.0 - cosines / tokens


@contextmanager
def _block_hooks(model: nn.Module, adapter: Adapter, receive: Any) -> Iterator[None]:
    """Call `receive(layer, input, output)` for every block in every forward pass inside."""
    handles = []
    try:
        for layer, name in enumerate(adapter.blocks):

            def hook(
                module: nn.Module,
                args: tuple[Any, ...],
                options: dict[str, Any],
                output: Any,
                layer: int = layer,
            ) -> None:
                before = args[0] if args else options["hidden_states"]
                receive(layer, before, output[0] if isinstance(output, tuple) else output)

            block = model.get_submodule(name)
            handles.append(block.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
