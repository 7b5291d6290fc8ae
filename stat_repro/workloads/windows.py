"""Running text in windows: language modelling."""

import logging
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.config import CalibrationConfig, DatasetConfig, EvaluationConfig
from stat_repro.data.batching import check_positions, window_batches
from stat_repro.data.text_data import TextData
from stat_repro.data.windows import TokenWindows, token_windows
from stat_repro.evaluation.example_values import Evaluation
from stat_repro.evaluation.perplexity import evaluate_language
from stat_repro.evaluation.zero_shot import ZeroShotScores, evaluate_zero_shot
from stat_repro.evaluation.zero_shot_tasks import LoadedTasks, load_tasks
from stat_repro.workloads.base import CalibrationSet, digest_of, drawn_indices

log = logging.getLogger("stat_repro")


def tasks_of(config: EvaluationConfig) -> LoadedTasks | None:
    """The zero-shot tasks that a configuration asks for; None if there are none."""
    tasks = config.zero_shot
    return load_tasks(tuple(tasks.tasks), tasks.include, tasks.shots) if tasks.tasks else None


class WindowWorkload:
    """Running text in windows of equal length (language modelling).

    Args:
        data: Text of both parts.
        config: The data set.
        tokenizer: Tokenizer of the model.
        positions: Tokens that the model was made for; None if it names no limit.

    Raises:
        DataError: A window that is too long for the model, or text that fills none.
    """

    def __init__(
        self,
        data: TextData,
        config: DatasetConfig,
        tokenizer: PreTrainedTokenizerBase,
        positions: int | None,
    ) -> None:
        check_positions(config.window, positions, "dataset.window")
        if "Gemma" in type(tokenizer).__name__ and config.bos != "window":
            log.warning(
                "dataset.bos: Gemma was trained with its BOS token in front of every text and "
                "predicts badly without it; got %s; choose dataset.bos=window",
                config.bos,
            )
        self.data = data
        self.config = config
        self.tokenizer = tokenizer
        self.fingerprint = dict(data.fingerprint)

        def cut(window: int) -> list[TokenWindows]:
            parts = (data.evaluation, data.calibration)
            return [
                token_windows(tokenizer, part, window, config.bos, config.at_most) for part in parts
            ]

        windows = cut(config.window)
        window = min(part.ids.shape[1] for part in windows)
        if window < config.window:  # both parts are cut as the shorter one needs it
            log.warning(
                "dataset.window: %d, the tokens of the shorter of calibration and evaluation, "
                "instead of %d",
                *(window, config.window),
            )
            windows = cut(window)
        self.sequence_length = float(window)
        self._evaluation, self._pool = windows[0], windows[1].ids
        self.rows = len(self._pool)

    def calibration(
        self, config: CalibrationConfig, seed: int, *, labels: bool = False
    ) -> CalibrationSet:
        """Windows of the calibration part; the labels of a window are its own tokens."""
        indices = drawn_indices(len(self._pool), config, seed)
        windows = self._pool[torch.tensor(indices)]
        return CalibrationSet(
            batches=window_batches(windows, config.batch_size),
            digest=digest_of(windows.tolist()),
        )

    def dense_outputs(
        self, model: PreTrainedModel, config: EvaluationConfig
    ) -> ZeroShotScores | None:
        """Zero-shot scores of the dense model; its logits on the text are too large to keep."""
        return self._zero_shot(model, config)

    def evaluate(
        self,
        dense: PreTrainedModel,
        pruned: PreTrainedModel,
        dense_outputs: ZeroShotScores | None,
        config: EvaluationConfig,
    ) -> Evaluation:
        """Perplexity and fidelity on the evaluated windows, and scores on zero-shot tasks.

        Of the tasks the means are kept, not the values of their examples.
        """
        windows = self._evaluation.ids[: config.max_examples]
        protocol = self._protocol(config)
        evaluation = evaluate_language(dense, pruned, windows, protocol, config.batch_size)
        scores = self._zero_shot(pruned, config)
        if scores is not None:
            dense_scores = dense_outputs or self._zero_shot(dense, config)
            assert dense_scores is not None
            evaluation.metrics["dense"] |= dense_scores.metrics
            evaluation.metrics["pruned"] |= scores.metrics
            evaluation.metrics["protocol"]["zero_shot"] = scores.protocol
        return evaluation

    def _zero_shot(self, model: PreTrainedModel, config: EvaluationConfig) -> ZeroShotScores | None:
        if (loaded := tasks_of(config)) is None:
            return None
        examples, batch = config.zero_shot.examples, config.batch_size
        return evaluate_zero_shot(
            model, self.tokenizer, loaded, examples=examples, batch_size=batch
        )

    def _protocol(self, config: EvaluationConfig) -> dict[str, Any]:
        """How the text was cut, and for a corpus what it is."""
        protocol: dict[str, Any] = {
            "split": config.split,
            "join": self.config.join,
            "special_tokens": self._evaluation.special,
        }
        if self.config.held_out is not None:
            protocol["held_out"] = f"the last {self.config.held_out} of the text"
        if self.data.protocol:
            protocol |= self.data.protocol
            protocol["bos"] = self.config.bos
            protocol["windows_in_text"] = len(self._evaluation.ids)
            protocol["dropped_tokens"] = self._evaluation.dropped
        return protocol
