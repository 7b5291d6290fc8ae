"""Outputs of a model on labelled sentences, in the order of the examples."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stat_repro.data.batching import Batch
from stat_repro.data.errors import DataError
from stat_repro.metrics.scores import NO_CLASS
from stat_repro.models.modes import evaluating
from stat_repro.models.positions import unknown_tokens
from stat_repro.progress import Progress


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter."""
    return next(model.parameters()).device


def to_device(batch: Batch, model: nn.Module) -> Batch:
    """The batch on the model's device, without labels (a head would compute its loss from them).

    Raises:
        DataError: Tokens that the model does not have.
    """
    if isinstance(model, PreTrainedModel) and (
        problem := unknown_tokens(model, batch["input_ids"])
    ):
        raise DataError(problem)
    device = device_of(model)
    return {key: value.to(device) for key, value in batch.items() if key != "labels"}


def predicted_classes(logits: Tensor) -> Tensor:
    """Class with the largest logit, (N); `NO_CLASS` where a logit is not finite.

    Args:
        logits: (N, C).
    """
    broken = ~torch.isfinite(logits).all(dim=1)
    return logits.argmax(dim=1).masked_fill(broken, NO_CLASS)


def _logits(output: Any, batch: Batch) -> Tensor:
    logits: Tensor = output.logits
    return logits


def mean_of_tokens(output: Any, batch: Batch) -> Tensor:
    """Vectors (B, D) of sentences: the mean of the last hidden states over their tokens."""
    mask = batch["attention_mask"][..., None].float()  # sums of float16 may be beyond its range
    vectors: Tensor = (output.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
    return vectors


def predict_logits(
    model: nn.Module,
    batches: Iterable[tuple[Sequence[int] | Tensor, Batch]],
    total: int,
    label: str = "evaluating",
    read: Callable[[Any, Batch], Tensor] = _logits,
) -> Tensor:
    """Logits of every example.

    Args:
        model: Model with a head of C outputs.
        batches: Pairs of example indices (B) and a batch of B padded examples; the indices
            0 to N - 1 come once each, in any order.
        total: Number of examples N.
        label: What the progress line says.
        read: What is taken from the model's output for a batch, (B, C); its logits by default.

    Returns:
        float32 logits on the CPU, (N, C), row i for example i.

    Raises:
        ValueError: No examples, or the indices are not 0 to N - 1 once each.
    """
    if total < 1:
        raise ValueError(f"{label}: expected at least one example; got {total}")
    logits: Tensor | None = None
    seen = torch.zeros(total, dtype=torch.long)
    with evaluating(model), torch.inference_mode(), Progress(label, total, "sentences") as progress:
        for indices, batch in batches:
            rows = torch.as_tensor(indices, dtype=torch.long)
            if len(rows) > 0 and (int(rows.min()) < 0 or int(rows.max()) >= total):
                raise ValueError(
                    f"{label}: expected example indices from 0 to {total - 1}; "
                    f"got {int(rows.min())} to {int(rows.max())}"
                )
            inputs = to_device(batch, model)
            outputs = read(model(**inputs), inputs).float().cpu()
            if logits is None:
                logits = outputs.new_empty(total, outputs.shape[-1])
            logits[rows] = outputs
            seen.index_add_(0, rows, torch.ones_like(rows))
            progress.advance(len(rows))
    if logits is None or not bool((seen == 1).all()):
        raise ValueError(
            f"{label}: expected every one of {total} examples once; "
            f"{int((seen == 0).sum())} are missing, {int((seen > 1).sum())} came more than once"
        )
    # A tensor made in inference mode cannot take part in autograd later; the copy can.
    return logits.clone()
