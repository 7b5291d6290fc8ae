"""What workloads share: the form of a calibration set, drawing it, and two models on one part."""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.config import CalibrationConfig, ConfigError, DatasetConfig, EvaluationConfig
from stat_repro.data.batching import Batch, Encoded, LazySequence, calibration_batches
from stat_repro.data.sampling import draw_indices
from stat_repro.evaluation.example_values import Evaluation

log = logging.getLogger("stat_repro")


@dataclass(frozen=True)
class CalibrationSet:
    """Calibration batches that can be read repeatedly, and what identifies them.

    Attributes:
        batches: Padded batches, made when they are read; with `labels` (B,) on request.
        digest: sha256 over the token ids of the drawn examples.
    """

    batches: LazySequence[Batch]
    digest: str


class PaddedWorkload:
    """Examples of different lengths, which are padded in batches: sentences, windows of contexts.

    Args:
        data: The data set, with its `fingerprint`.
        config: Its configuration.
        tokenizer: Tokenizer of the model.
        pool: Encoded examples of the training part.
        labels: What a model's loss takes of each of them; None: there is nothing of the kind.
    """

    # Why labels are refused where there are none.
    no_labels: str

    def __init__(
        self,
        data: Any,
        config: DatasetConfig,
        tokenizer: PreTrainedTokenizerBase,
        pool: list[Encoded],
        labels: torch.Tensor | None = None,
    ) -> None:
        self.data, self.config, self.tokenizer = data, config, tokenizer
        self.fingerprint: dict[str, str] = dict(data.fingerprint)
        self.sequence_length = float(np.mean([len(row["input_ids"]) for row in pool]))
        self._pool, self._labels, self.rows = pool, labels, len(pool)

    def calibration(
        self, config: CalibrationConfig, seed: int, *, labels: bool = False
    ) -> CalibrationSet:
        """Examples of the training part, batched by length.

        Raises:
            ConfigError: Labels are requested where there are none.
        """
        if labels and self._labels is None:
            raise ConfigError(self.no_labels)
        indices = drawn_indices(len(self._pool), config, seed)
        drawn = [self._pool[i] for i in indices]
        expected = None if self._labels is None or not labels else self._labels[list(indices)]
        return CalibrationSet(
            batches=calibration_batches(self.tokenizer, drawn, config.batch_size, expected),
            digest=digest_of([row["input_ids"] for row in drawn]),
        )

    def dense_outputs(self, model: PreTrainedModel, config: EvaluationConfig) -> Any:
        """Outputs of the dense model on the evaluated part."""
        return self._predict(model, config, "evaluating the dense model")

    def evaluate(
        self,
        dense: PreTrainedModel,
        pruned: PreTrainedModel,
        dense_outputs: Any,
        config: EvaluationConfig,
    ) -> Evaluation:
        """Metrics of both models and fidelity on the evaluated part."""
        if dense_outputs is None:
            dense_outputs = self.dense_outputs(dense, config)
        outputs = self._predict(pruned, config, "evaluating the pruned model")
        return self._compared(dense_outputs, outputs, config)

    def _predict(self, model: PreTrainedModel, config: EvaluationConfig, label: str) -> Any:
        raise NotImplementedError

    def _compared(self, dense: Any, pruned: Any, config: EvaluationConfig) -> Evaluation:
        raise NotImplementedError


def drawn_indices(pool: int, config: CalibrationConfig, seed: int) -> tuple[int, ...]:
    """`draw_indices` of as many examples as the configuration asks for, or as there are.

    Raises:
        DataError: Fewer than were asked for.
    """
    examples = config.examples
    if config.at_most and not config.replacement and 0 < pool < examples:
        log.warning(
            "calibration.examples: %d, all there are, instead of the default %d", pool, examples
        )
        examples = pool
    return draw_indices(pool, examples, seed, config.replacement)


def digest_of(rows: list[list[int]]) -> str:
    """sha256 over token ids, example by example."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(np.asarray(row, dtype=np.int64).tobytes())
        sha.update(b"|")
    return sha.hexdigest()
