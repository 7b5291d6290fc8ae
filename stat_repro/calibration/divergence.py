"""The predictions of a model on calibration batches, and how far those of an edited model are off.

No labels are needed: the output of the dense model is the reference. `DenseRun` keeps it, and the
hidden states in front of every layer, so that the layers before an edited one are not run again.
"""

import inspect
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from stat_repro.calibration.batches import (
    CalibrationBatch,
    CalibrationError,
    layer_output,
    model_inputs,
    token_mask,
)
from stat_repro.calibration.passes import layer_hooks
from stat_repro.models.adapter import Adapter
from stat_repro.models.modes import evaluating, forwards_replaced
from stat_repro.progress import track

# Positions of an example that are compared, spread evenly, if a model predicts at every position.
# A vocabulary of 49,152 would take 100 MB for one window of 512 tokens.
POSITIONS = 64
CLASSIFIER = "ForSequenceClassification"
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


def problem_of(model: nn.Module) -> str | None:
    """How the outputs of a sequence classifier are read: `config.problem_type`.

    Returns:
        `regression` (also where nothing is said and there is a single output),
        `single_label_classification` (also where nothing is said and there are more) or
        `multi_label_classification`; None for models that are no sequence classifiers.

    Raises:
        CalibrationError: Another value.
    """
    if not type(model).__name__.endswith(CLASSIFIER):
        return None
    config: Any = model.config
    kind = config.problem_type
    if kind not in (None, *PROBLEMS):
        raise CalibrationError(
            f"config.problem_type: expected one of {', '.join(PROBLEMS)}; got {kind!r}"
        )
    if kind in (None, PROBLEMS[1]):
        return PROBLEMS[0] if config.num_labels == 1 else PROBLEMS[1]
    return kind


def compared_inputs(
    model: nn.Module, batch: CalibrationBatch, device: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of the model with its head, and which positions of its output are tokens.

    A language model computes the logits of the compared positions alone where it can: for a small
    model with a large vocabulary the others take a third of a pass. The positions have to be the
    same for all examples of a batch, so none may have padding.

    Args:
        model: The model with its head.
        batch: As it comes; (B, choices, S) for multiple choice.
        device: Where the inputs go.
    """
    inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
    mask = token_mask(model_inputs(batch))
    if "logits_to_keep" not in inspect.signature(model.forward).parameters or not mask.all():
        return inputs, mask
    positions = compared_positions(mask[0])
    return {**inputs, "logits_to_keep": positions.to(device)}, mask[:, positions]


def predictions(output: Any, mask: Tensor, problem: str | None = None) -> tuple[list[Tensor], bool]:
    """The rows of a model's output that are compared, one list entry per head.

    Args:
        output: The output of a transformers model for one batch.
        mask: Which positions are tokens, bool (B, S).
        problem: `problem_of` the model.

    Returns:
        float32 tensors of shape (rows, C): log-probabilities; of several labels that may all hold
        (B * labels, 2); for regression, for a single output (C = 1) and for a model without a head
        the values themselves. And whether they are log-probabilities.
    """
    if getattr(output, "start_logits", None) is not None:
        rows = mask.to(output.start_logits.device)
        # With -inf, positions that both models exclude would give 0 * inf.
        floor = torch.finfo(torch.float32).min / 4
        return [
            logits.float().masked_fill(~rows, floor).log_softmax(dim=1)
            for logits in (output.start_logits, output.end_logits)
        ], True
    logits = getattr(output, "logits", None)
    if logits is None:
        return [_spread_rows(output.last_hidden_state, mask).float()], False
    if logits.ndim == 3:
        logits = _spread_rows(logits, mask)
    logits = logits.float()
    if problem == "multi_label_classification":
        both = torch.stack([logits, -logits], dim=-1)  # each label holds or does not
        return [logsigmoid(both).flatten(0, 1)], True
    probabilities = problem != "regression" and (problem is not None or logits.shape[-1] > 1)
    return [logits.log_softmax(dim=-1) if probabilities else logits], probabilities


def compared_positions(tokens: Tensor) -> Tensor:
    """Positions of one example that are compared: at most `POSITIONS`, evenly spread.

    Args:
        tokens: Which positions are tokens, bool (S,).
    """
    places = tokens.nonzero().view(-1)
    step = max(1, -(-len(places) // POSITIONS))
    return places[step - 1 :: step]


def _spread_rows(values: Tensor, mask: Tensor) -> Tensor:
    """The compared rows of (B, S, C), one example after the other."""
    places = [compared_positions(tokens).to(values.device) for tokens in mask]
    pairs = zip(values, places, strict=True)
    return torch.cat([example.index_select(0, chosen) for example, chosen in pairs])


def divergence(reference: list[Tensor], other: list[Tensor], *, probabilities: bool) -> float:
    """Sum over rows and heads of KL(reference || other), or of squared differences.

    Args:
        reference: Predictions of the dense model.
        other: Predictions on the same rows.
        probabilities: Whether the rows are log-probabilities; squared differences otherwise.
    """
    total = 0.0
    for p, q in zip(reference, other, strict=True):
        terms = p.exp() * (p - q) if probabilities else (p - q).square()
        total += float(terms.sum(dtype=torch.float64))
    return total


class DenseRun:
    """The dense model on some examples, with the input of every layer.

    Args:
        model: The dense model, with its task head; not changed.
        adapter: Its adapter.
        batches: Calibration batches; their first examples are used.
        tokens: How many tokens they must have at least, padding excluded.

    Attributes:
        rows: Number of predictions that are compared.
    """

    def __init__(
        self, model: nn.Module, adapter: Adapter, batches: Iterable[CalibrationBatch], tokens: int
    ) -> None:
        self._model, self._adapter, self._problem = model, adapter, problem_of(model)
        self._layers = [model.get_submodule(name) for name in adapter.layer_names]
        # Of every batch: inputs, mask, the input of every layer, predictions.
        self._runs: list[tuple[dict[str, Tensor], Tensor, list[Tensor], list[Tensor]]] = []
        device = next(model.parameters()).device
        with evaluating(model), torch.inference_mode():
            for batch in track(_first_rows(batches, tokens), "dense model, layer by layer"):
                inputs, mask = compared_inputs(model, batch, device)
                hidden: list[Tensor] = []
                with layer_hooks(self._layers, partial(_keep_input, hidden)):
                    output = model(**inputs)
                heads, self._probabilities = predictions(output, mask, self._problem)
                self._runs.append((inputs, mask, hidden, heads))
        self.rows = sum(len(rows) for *_, heads in self._runs for rows in heads)

    def divergence(self, layer: int) -> float:
        """Mean divergence of the model, with its present edits, from the dense one.

        Args:
            layer: The first layer that may differ from the dense model.
        """
        total = 0.0
        with evaluating(self._model), torch.inference_mode():
            for inputs, mask, hidden, reference in self._runs:
                before = layer_output(self._adapter, hidden[layer])
                skipped = [lambda *_, before=before, **__: before] * layer
                with forwards_replaced(self._layers[:layer], skipped):
                    output = self._model(**inputs)
                now, _ = predictions(output, mask, self._problem)
                total += divergence(reference, now, probabilities=self._probabilities)
        return total / self.rows


def _keep_input(kept: list[Tensor], before: Tensor, after: Tensor) -> None:
    kept.append(before)


def _first_rows(batches: Iterable[CalibrationBatch], tokens: int) -> Iterator[CalibrationBatch]:
    """The first examples that have this many tokens together, batch by batch."""
    left = tokens
    for batch in batches:
        sizes = token_mask(batch).flatten(1).sum(dim=1)
        # The example that reaches the number is taken too.
        rows = int((sizes.cumsum(dim=0) - sizes < left).sum())
        yield {key: value[:rows] for key, value in batch.items()}
        left -= int(sizes.sum())
        if left <= 0:
            return
