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


def _logits(output: Any, batch: Batch) -> Any:
    return output.logits


def mean_of_tokens(output: Any, batch: Batch) -> Tensor:
    """Vectors (B, D) of sentences: the mean of the last hidden states over their tokens."""
    mask = batch["attention_mask"][..., None].float()  # sums of float16 may be beyond its range
    vectors: Tensor = (output.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
    return vectors


def predict_logits(
    model: nn.Module,
    batches: Iterable[tuple[Sequence[int], Batch]],
    total: int,
    label: str = "evaluating",
    read: Callable[[Any, Batch], Any] = _logits,
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
    """
    order: list[int] = []
    logits: list[Tensor] = []
    with evaluating(model), torch.inference_mode(), Progress(label, total, "sentences") as progress:
        for indices, batch in batches:
            inputs = to_device(batch, model)
            logits.append(read(model(**inputs), inputs).float().cpu())
            order += indices
            progress.advance(len(indices))
    # Outside of inference mode, in which tensors are made that autograd cannot take later.
    return torch.cat(logits)[torch.tensor(order).argsort()]
