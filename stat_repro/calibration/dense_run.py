"""Forward passes that start at an edited layer.

The layers in front of it have not changed, so their hidden states are kept from a run of the dense
model instead of being computed again for every edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from stat_repro.calibration.batches import (
    CalibrationBatch,
    forward_options,
    layer_output,
    token_mask,
)
from stat_repro.calibration.capture import layer_hooks
from stat_repro.calibration.divergence import (
    are_probabilities,
    compared_inputs,
    divergence,
    predictions,
    problem_of,
)
from stat_repro.models.adapter import Adapter
from stat_repro.models.modes import evaluating, forwards_replaced
from stat_repro.progress import track


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
        self._options = forward_options(adapter)
        self._inputs: list[dict[str, torch.Tensor]] = []
        self._masks: list[torch.Tensor] = []
        self._hidden: list[list[torch.Tensor]] = []  # of every batch: the input of every layer
        self._reference: list[list[torch.Tensor]] = []
        device = next(model.parameters()).device
        with evaluating(model), torch.inference_mode():
            for batch in track(_first_rows(batches, tokens), "dense model, layer by layer"):
                inputs, mask = compared_inputs(model, batch, device)
                self._hidden.append([])
                with layer_hooks(self._layers, self._remember):
                    output = model(**inputs, **self._options)
                self._inputs.append(inputs)
                self._masks.append(mask)
                self._reference.append(predictions(output, mask, self._problem))
        self._probabilities = are_probabilities(output, self._problem) if self._inputs else True
        self.rows = sum(len(rows) for heads in self._reference for rows in heads)

    def _remember(self, layer: int, before: torch.Tensor, after: torch.Tensor) -> None:
        self._hidden[-1].append(before)

    def divergence(self, layer: int) -> float:
        """Mean divergence of the model, with its present edits, from the dense one.

        Args:
            layer: The first layer that may differ from the dense model.
        """
        total = 0.0
        with evaluating(self._model), torch.inference_mode():
            for inputs, mask, hidden, reference in zip(
                self._inputs, self._masks, self._hidden, self._reference, strict=True
            ):
                skipped = [_returning(layer_output(self._adapter, hidden[layer]))] * layer
                with forwards_replaced(self._layers[:layer], skipped):
                    output = self._model(**inputs, **self._options)
                now = predictions(output, mask, self._problem)
                total += divergence(reference, now, probabilities=self._probabilities)
        return total / self.rows


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


def _returning(output: Any) -> Callable[..., Any]:
    """A forward pass that returns this."""
    return lambda *args, **kwargs: output
