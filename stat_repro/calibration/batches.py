"""Calibration batches as tokenizers make them, and the inputs that a model takes from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stat_repro.models.adapter import Adapter

CalibrationBatch = Mapping[str, torch.Tensor]


NO_TOKENS = "the calibration set holds no tokens: expected at least one batch"


class CalibrationError(ValueError):
    """Calibration input or activations that cannot be used; names the batch or the site."""


def forward_options(adapter: Adapter) -> dict[str, bool]:
    """Options of the backbone's forward pass."""
    return {"use_cache": False} if adapter.decoder else {}


def model_inputs(
    batch: CalibrationBatch, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    """The inputs of the backbone in a batch, moved to a device if one is given.

    Raises:
        CalibrationError: A value that is no tensor.
    """
    inputs = {k: _rows(k, v) for k, v in batch.items() if k != "labels"}
    return inputs if device is None else {k: v.to(device) for k, v in inputs.items()}


def layer_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states that a transformer layer is called with, by position or by name."""
    return args[0] if args else kwargs["hidden_states"]


def _rows(key: str, value: torch.Tensor) -> torch.Tensor:
    """(B, choices, S) of multiple choice as (B * choices, S), which is what the backbone gets."""
    if not isinstance(value, torch.Tensor):
        raise CalibrationError(
            f"calibration batch, key {key}: expected a tensor; got {type(value).__name__}"
        )
    return value.flatten(0, 1) if value.ndim == 3 else value


def token_mask(batch: CalibrationBatch) -> torch.Tensor:
    """Which positions are tokens and not padding: bool (B, S).

    Raises:
        CalibrationError: No `input_ids`, or an `attention_mask` of another shape.
    """
    if "input_ids" not in batch:
        raise CalibrationError(
            f"a calibration batch needs the key input_ids; got {', '.join(sorted(batch)) or 'none'}"
        )
    ids = batch["input_ids"]
    if "attention_mask" not in batch:
        return torch.ones(ids.shape, dtype=torch.bool, device=ids.device)
    mask = batch["attention_mask"]
    if mask.shape != ids.shape:
        raise CalibrationError(
            f"attention_mask: expected the shape of input_ids {tuple(ids.shape)}; got "
            f"{tuple(mask.shape)}"
        )
    return mask.bool()


def token_rows(mask: torch.Tensor) -> torch.Tensor:
    """Indices of the tokens among the rows of a batch, shape (tokens,), on the mask's device.

    On an accelerator the host waits here for the number of tokens; using the indices does not wait.
    """
    return mask.view(-1).nonzero().view(-1)
