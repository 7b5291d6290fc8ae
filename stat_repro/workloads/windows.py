"""Running text in windows: language modelling."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.config import CalibrationConfig, DatasetConfig, EvaluationConfig
from stat_repro.data.batching import window_batches
from stat_repro.data.sampling import draw_indices
from stat_repro.data.text_data import TextData, token_windows
from stat_repro.evaluation.evaluate import evaluate_language
from stat_repro.workloads.base import CalibrationSet, digest_of


class WindowWorkload:
    """Running text in windows of equal length (language modelling)."""

    def __init__(
        self, data: TextData, config: DatasetConfig, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.data = data
        self.config = config
        self.tokenizer = tokenizer
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
            digest=digest_of(windows.tolist()),
        )

    def dense_outputs(self, model: PreTrainedModel, config: EvaluationConfig) -> None:
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
