"""How much every transformer layer changes the stream that it reads."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from stat_repro.calibration.batches import (
    NO_TOKENS,
    CalibrationBatch,
    CalibrationError,
    model_inputs,
    token_mask,
    token_rows,
)
from stat_repro.calibration.capture import layer_hooks
from stat_repro.models.adapter import Adapter
from stat_repro.models.modes import evaluating
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

    layers = [model.get_submodule(name) for name in adapter.layer_names]
    with evaluating(model), torch.inference_mode(), layer_hooks(layers, receive):
        for batch in track(own_share(batches), "influence of the layers"):
            rows = token_rows(token_mask(model_inputs(batch))).to(device)
            cosines.clear()
            backbone(**model_inputs(batch, device), use_cache=False)
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
