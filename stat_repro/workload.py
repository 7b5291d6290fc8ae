"""A data set prepared for one tokenizer: calibration batches, mean length, evaluation.

Two forms share one interface: labelled sentences and windows of running text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.config import CalibrationConfig, DatasetConfig, EvaluationConfig
from stat_repro.data.batching import (
    SentenceInputs,
    encode_sentences,
    length_bucketed,
    sentence_batches,
    window_batches,
)
from stat_repro.data.sampling import draw_indices
from stat_repro.data.task_data import TaskData
from stat_repro.data.text_data import TextData, token_windows
from stat_repro.evaluation.evaluate import evaluate_language, evaluate_task
from stat_repro.evaluation.predictions import predict_logits

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class CalibrationSet:
    """Calibration batches that can be read repeatedly, and what identifies them.

    Attributes:
        batches: Padded batches, made when they are read.
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
    def fingerprint(self) -> dict[str, str]:
        """sha256 per part of the data."""
        ...

    def calibration(self, config: CalibrationConfig, seed: int) -> CalibrationSet:
        """Draw calibration examples from the training part."""
        ...

    def dense_outputs(self, model: nn.Module, config: EvaluationConfig) -> torch.Tensor | None:
        """Outputs of the dense model worth keeping between runs; None where they are too large."""
        ...

    def evaluate(
        self,
        dense: PreTrainedModel,
        pruned: PreTrainedModel,
        dense_outputs: torch.Tensor | None,
        config: EvaluationConfig,
    ) -> dict[str, Any]:
        """`dense`, `pruned`, `fidelity` and `protocol`."""
        ...


def _digest(rows: list[list[int]]) -> str:
    sha = hashlib.sha256()
    for row in rows:
        sha.update(np.asarray(row, dtype=np.int64).tobytes())
        sha.update(b"|")
    return sha.hexdigest()


class SentenceWorkload:
    """Labelled sentences (classification, regression)."""

    def __init__(
        self, data: TaskData, config: DatasetConfig, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.data = data
        self.config = config
        self.tokenizer = tokenizer
        self.fingerprint = dict(data.fingerprint)
        self._train = encode_sentences(tokenizer, data.split("train"), config.max_length)
        self.sequence_length = float(np.mean([len(row["input_ids"]) for row in self._train]))

    def calibration(self, config: CalibrationConfig, seed: int) -> CalibrationSet:
        """Sentences of the training part, batched by length."""
        indices = draw_indices(len(self._train), config.examples, seed, config.replacement)
        drawn = [self._train[i] for i in indices]
        groups = length_bucketed([len(row["input_ids"]) for row in drawn], config.batch_size)
        return CalibrationSet(
            batches=SentenceInputs(self.tokenizer, drawn, groups),
            digest=_digest([row["input_ids"] for row in drawn]),
        )

    def _evaluated(self, config: EvaluationConfig) -> Dataset:
        rows = self.data.split(config.split)
        limit = config.max_examples
        return rows if limit is None else rows.select(range(min(limit, len(rows))))

    def _logits(self, model: nn.Module, config: EvaluationConfig, label: str) -> torch.Tensor:
        rows = self._evaluated(config)
        batches = sentence_batches(self.tokenizer, rows, self.config.max_length, config.batch_size)
        return predict_logits(model, batches, len(rows), label)

    def dense_outputs(self, model: nn.Module, config: EvaluationConfig) -> torch.Tensor:
        """Logits of the dense model, (N, C)."""
        return self._logits(model, config, "evaluating the dense model")

    def evaluate(
        self,
        dense: PreTrainedModel,
        pruned: PreTrainedModel,
        dense_outputs: torch.Tensor | None,
        config: EvaluationConfig,
    ) -> dict[str, Any]:
        """Task metrics and fidelity on the evaluated part."""
        if dense_outputs is None:
            dense_outputs = self.dense_outputs(dense, config)
        logits = self._logits(pruned, config, "evaluating the pruned model")
        return evaluate_task(
            dense_outputs,
            logits,
            self._evaluated(config)["label"],
            self.config.task,
            config.split,
            self.config.max_length,
        )


class WindowWorkload:
    """Running text in windows of equal length (language modelling)."""

    def __init__(
        self, data: TextData, config: DatasetConfig, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.data = data
        self.config = config
        self.fingerprint = dict(data.fingerprint)
        self.sequence_length = float(config.window)
        self._pool = token_windows(tokenizer, data.calibration, data.join, config.window)
        self._evaluation = token_windows(tokenizer, data.evaluation, data.join, config.window)

    def calibration(self, config: CalibrationConfig, seed: int) -> CalibrationSet:
        """Windows of the calibration part."""
        indices = draw_indices(len(self._pool), config.examples, seed, config.replacement)
        windows = self._pool[torch.tensor(indices)]
        return CalibrationSet(
            batches=window_batches(windows, config.batch_size),
            digest=_digest(windows.tolist()),
        )

    def dense_outputs(self, model: nn.Module, config: EvaluationConfig) -> None:
        """Nothing: logits of a language model are too large to keep."""
        return

    def evaluate(
        self,
        dense: PreTrainedModel,
        pruned: PreTrainedModel,
        dense_outputs: torch.Tensor | None,
        config: EvaluationConfig,
    ) -> dict[str, Any]:
        """Perplexity and fidelity on the evaluated windows, both models side by side."""
        windows = self._evaluation[: config.max_examples]
        return evaluate_language(
            dense, pruned, windows, config.split, self.config.join, config.batch_size
        )
