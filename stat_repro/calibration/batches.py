"""Calibration batches as tokenizers make them, and the inputs that a model takes from them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from stat_repro.models.adapter import Adapter
from stat_repro.models.positions import positions_of, unknown_tokens
from stat_repro.models.settings import settings_of
from stat_repro.parallel import same_everywhere

CalibrationBatch = Mapping[str, torch.Tensor]

_SAMPLED_ENTRIES = 4096  # of every tensor, by `model_digest`


class CalibrationError(ValueError):
    """Calibration input or activations that cannot be used; names the batch or the site."""


def read_batches(
    model: PreTrainedModel, batches: Iterable[CalibrationBatch]
) -> tuple[list[dict[str, torch.Tensor]], str]:
    """Read the calibration batches once, so that every pass sees the same ones in the same order.

    A loader that shuffles, masks at random or streams gives others every time it is read, while
    methods compare passes position by position.

    Args:
        model: The model that will read them; its weights are not needed.
        batches: As `stat_repro.compress` takes them; also an iterator.

    Returns:
        Copies on the CPU, and a sha256 of what statistics depend on: everything but `labels`.

    Raises:
        CalibrationError: No tokens, or a batch that the model cannot read; names it.
        RankError: Other batches in another process of the run.
    """
    if isinstance(batches, Mapping) or not isinstance(batches, Iterable):
        raise CalibrationError(
            "batches: expected an iterable of mappings, such as a list or a DataLoader; got one "
            f"{type(batches).__name__}"
        )
    sha, kept = hashlib.sha256(), []
    for number, batch in enumerate(batches):
        try:
            _check_batch(model, batch)
        except CalibrationError as error:
            raise CalibrationError(f"batches, number {number}: {error}") from None
        kept.append({key: value.detach().cpu().clone() for key, value in batch.items()})
        for key, value in sorted(kept[-1].items()):
            if key != "labels":
                numbers = value.double() if value.is_floating_point() else value.long()
                sha.update(f"{key} {tuple(value.shape)} ".encode() + numbers.numpy().tobytes())
    if not any(bool(token_mask(batch).any()) for batch in kept):
        raise CalibrationError(
            "the calibration set holds no tokens: expected at least one batch (an iterator is "
            "empty after its first pass)"
        )
    same_everywhere("calibration batches (sha256)", sha.hexdigest())
    return kept, sha.hexdigest()


def model_digest(model: PreTrainedModel) -> str:
    """sha256 of a model's settings and of a sample of its weights, the same on every device.

    At most about 4,096 evenly spaced entries of every tensor are read, which takes no time beside a
    calibration. So another model, another number type and any training are noticed, but not
    always a change of a few entries in a large tensor.
    """
    settings = json.dumps(settings_of(model.config), sort_keys=True, default=str)
    sha = hashlib.sha256(settings.encode())
    for name, tensor in model.state_dict().items():
        # Odd, so that a matrix of even width is not read along one column.
        step = tensor.numel() // _SAMPLED_ENTRIES | 1
        sample = tensor.detach().reshape(-1)[::step].cpu().contiguous().view(torch.uint8)
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(sample.numpy().tobytes())
    return sha.hexdigest()


def _check_batch(model: PreTrainedModel, batch: Any) -> None:
    """Refuse a batch that the model cannot read."""
    if not isinstance(batch, Mapping):
        raise CalibrationError(
            "expected a mapping with input_ids (B, S) and attention_mask, as the tokenizer makes "
            f"it; got {type(batch).__name__}"
        )
    mask, ids = token_mask(model_inputs(batch)), batch["input_ids"]
    if ids.ndim not in (2, 3) or 0 in ids.shape or ids.dtype not in (torch.int64, torch.int32):
        raise CalibrationError(
            "input_ids: expected integers of shape (B, S) with at least one row and one token "
            f"(multiple choice: (B, choices, S)); got {tuple(ids.shape)} {ids.dtype}"
        )
    given = batch.get("attention_mask")
    if given is not None and not torch.equal(given, given.bool().to(given.dtype)):
        raise CalibrationError(
            "attention_mask: expected 1 for tokens and 0 for padding; got values from "
            f"{float(given.min())} to {float(given.max())}"
        )
    if problem := unknown_tokens(model, ids):
        raise CalibrationError(problem)
    positions = positions_of(model.config)
    if positions is not None and mask.shape[1] > positions:
        raise CalibrationError(
            f"input_ids: expected at most {positions} tokens per row, the model's positions; got "
            f"{mask.shape[1]}"
        )


def model_inputs(
    batch: CalibrationBatch, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    """The inputs of the backbone in a batch, moved to a device if one is given.

    Raises:
        CalibrationError: A value that is no tensor.
    """
    inputs = {key: _rows(key, value) for key, value in batch.items()}
    inputs.pop("labels", None)
    return inputs if device is None else {k: v.to(device) for k, v in inputs.items()}


def layer_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states that a transformer layer is called with, by position or by name."""
    return args[0] if args else kwargs["hidden_states"]


def layer_output(adapter: Adapter, hidden_states: torch.Tensor) -> Any:
    """What a transformer layer returns that hands these hidden states on."""
    return (hidden_states,) if adapter.layout.layer_tuples else hidden_states


def _rows(key: str, value: torch.Tensor) -> torch.Tensor:
    """(B, choices, S) of multiple choice as (B * choices, S), which is what the backbone gets."""
    if not isinstance(value, torch.Tensor):
        raise CalibrationError(f"key {key}: expected a tensor; got {type(value).__name__}")
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
    return mask.reshape(-1).nonzero().view(-1)
