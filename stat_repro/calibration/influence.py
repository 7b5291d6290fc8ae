"""How much every transformer layer changes the stream that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stat_repro.calibration.batches import (
    NO_TOKENS,
    CalibrationBatch,
    CalibrationError,
    layer_input,
    token_mask,
    token_rows,
)
from stat_repro.models.adapter import Adapter
from stat_repro.models.modes import evaluating, hooks
from stat_repro.parallel import in_turns, own_share
from stat_repro.progress import track


def layer_influence(
    model: nn.Module, adapter: Adapter, batches: Iterable[CalibrationBatch]
) -> Tensor:
    """1 - mean over tokens of cos(x_in, x_out) of every layer.

    The Block Influence of ShortGPT (Men et al. 2024, formula 1). If several processes work on one
    run, each takes its share of the batches.

    Args:
        model: The model; not changed.
        adapter: Its adapter.
        batches: `input_ids` (B, S) and, where there is padding, `attention_mask`.

    Returns:
        Shape (layers,), float64 on the CPU, 0 for a layer that changes no direction.

    Raises:
        CalibrationError: No tokens, or streams that are not finite; names the layer.
    """
    backbone = model.get_submodule(adapter.backbone)
    device = next(backbone.parameters()).device
    sums: list[tuple[Tensor, int]] = []  # of every batch: (layers,) cosines, tokens
    cosines: list[Tensor] = []  # of the present batch, layer by layer
    rows = torch.empty(0, dtype=torch.int64)

    def receive(layer: int, before: Tensor, after: Tensor) -> None:
        first, second = (x.flatten(0, -2).index_select(0, rows).float() for x in (before, after))
        cosines.append(functional.cosine_similarity(first, second, dim=-1).sum())

    with evaluating(model), torch.inference_mode(), _block_hooks(model, adapter, receive):
        for batch in track(own_share(batches), "influence of the layers"):
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            rows = token_rows(token_mask(inputs)).to(device)
            cosines.clear()
            backbone(**{key: value.to(device) for key, value in inputs.items()}, use_cache=False)
            sums.append((torch.stack(cosines), len(rows)))
    sums = in_turns([(batch.cpu().double(), tokens) for batch, tokens in sums])
    tokens = sum(count for _, count in sums)
    if not tokens:
        raise CalibrationError(NO_TOKENS)
    total = torch.stack([batch for batch, _ in sums]).sum(dim=0)
    for layer, name in enumerate(adapter.layer_names):
        if not bool(torch.isfinite(total[layer])):
            raise CalibrationError(f"{name}: NaN or infinite activations on the calibration data")
    return 1.0 - total / tokens


@contextmanager
def _block_hooks(model: nn.Module, adapter: Adapter, receive: Any) -> Iterator[None]:
    """Call `receive(layer, input, output)` for every block in every forward pass inside."""
    with hooks() as handles:
        for layer, name in enumerate(adapter.layer_names):

            def hook(
                module: nn.Module,
                args: tuple[Any, ...],
                options: dict[str, Any],
                output: Any,
                layer: int = layer,
            ) -> None:
                before = layer_input(args, options)
                receive(layer, before, output[0] if isinstance(output, tuple) else output)

            block = model.get_submodule(name)
            handles.append(block.register_forward_hook(hook, with_kwargs=True))
        yield
