"""How much every transformer layer changes the stream that it reads."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from stat_repro.calibration.batches import CalibrationBatch, CalibrationError, token_rows
from stat_repro.calibration.passes import layer_hooks, run_backbone
from stat_repro.models.adapter import Adapter
from stat_repro.parallel import in_turns


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
        CalibrationError: Streams that are not finite; names the layer.
    """
    device = next(model.get_submodule(adapter.backbone).parameters()).device
    sums: list[tuple[Tensor, int]] = []  # of every batch: (layers,) cosines, tokens
    cosines: list[Tensor] = []  # of the present batch, layer by layer
    rows = torch.empty(0, dtype=torch.int64)

    def receive(before: Tensor, after: Tensor) -> None:
        first, second = (x.flatten(0, -2).index_select(0, rows).float() for x in (before, after))
        cosines.append(functional.cosine_similarity(first, second, dim=-1).sum())

    @contextmanager
    def batch(mask: Tensor) -> Iterator[None]:
        nonlocal rows
        rows = token_rows(mask).to(device)
        cosines.clear()
        yield
        sums.append((torch.stack(cosines), len(rows)))

    with layer_hooks([model.get_submodule(name) for name in adapter.layer_names], receive):
        run_backbone(model, adapter, batches, device, batch, "influence of the layers")
    sums = in_turns([(batch.cpu().double(), tokens) for batch, tokens in sums])
    tokens = sum(count for _, count in sums)
    total = torch.stack([batch for batch, _ in sums]).sum(dim=0)
    for layer, name in enumerate(adapter.layer_names):
        if not bool(torch.isfinite(total[layer])):
            raise CalibrationError(f"{name}: NaN or infinite activations on the calibration data")
    return 1.0 - total / tokens
