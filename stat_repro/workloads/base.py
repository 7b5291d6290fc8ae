"""What a data set that was prepared for one tokenizer can do: calibration and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.config import CalibrationConfig, EvaluationConfig
from stat_repro.data.batching import Batch
from stat_repro.evaluation.example_values import Evaluation


@dataclass(frozen=True)
class CalibrationSet:
    """Calibration batches that can be read repeatedly, and what identifies them.

    Attributes:
        batches: Padded batches, made when they are read; with `labels` (B,) on request.
        digest: sha256 over the token ids of the drawn examples.
    """

    batches: Sequence[Batch]
    digest: str

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Workload(Protocol):
    """A data set that was prepared for one tokenizer, as the pipeline uses it."""

    @property
    def sequence_length(self) -> float:
        """Mean tokens per example, at which MACs are counted."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer that the data was encoded with."""
        ...

    @property
    def fingerprint(self) -> dict[str, str]:
        """sha256 per part of the data."""
        ...

    def calibration(
        self, config: CalibrationConfig, seed: int, *, labels: bool = False
    ) -> CalibrationSet:
        """Draw calibration examples from the training part.

        With `labels` the batches also hold the expected outputs, in the form that the model's
        loss takes. The labels of running text are its tokens, so nothing is added there.
        """
        ...

    def dense_outputs(self, model: PreTrainedModel, config: EvaluationConfig) -> Any:
        """Outputs of the dense model that several runs can share in `evaluate`, or None."""
        ...

    def evaluate(
        self,
        dense: PreTrainedModel,
        pruned: PreTrainedModel,
        dense_outputs: Any,
        config: EvaluationConfig,
    ) -> Evaluation:
        """Metrics and protocol of the evaluated part, and the values of its examples."""
        ...


def digest_of(rows: list[list[int]]) -> str:
    """sha256 over token ids, example by example."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(np.asarray(row, dtype=np.int64).tobytes())
        sha.update(b"|")
    return sha.hexdigest()
