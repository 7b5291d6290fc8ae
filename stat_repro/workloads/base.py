"""What the pipeline asks of a data set that was prepared for one tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.config import CalibrationConfig, EvaluationConfig
from stat_repro.evaluation.example_values import Evaluation

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class CalibrationSet:
    """Calibration batches that can be read repeatedly, and what identifies them.

    Attributes:
        batches: Padded batches, made when they are read; with `labels` (B,) where asked for.
        digest: sha256 over the token ids of the drawn examples.
    """

    batches: Sequence[Batch]
    digest: str

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Workload(Protocol):
    """What the pipeline asks of a data set."""

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

        With `labels` the batches hold what the model should put out, as its own loss takes it. The
        labels of running text are its tokens, so nothing is added there.
        """
        ...

    def dense_outputs(self, model: PreTrainedModel, config: EvaluationConfig) -> Any:
        """What `evaluate` can share between runs: outputs of the dense model, or None."""
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
