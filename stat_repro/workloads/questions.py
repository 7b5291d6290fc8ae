"""Questions about paragraphs: question answering."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.config import CalibrationConfig, ConfigError, DatasetConfig, EvaluationConfig
from stat_repro.data.batching import calibration_batches, padded_batches
from stat_repro.data.context_windows import (
    QUESTION_TOKENS,
    ContextWindows,
    check_windows,
    context_windows,
)
from stat_repro.data.squad import QuestionData
from stat_repro.data.squad_files import Question
from stat_repro.evaluation.example_values import Evaluation
from stat_repro.evaluation.question_answering import evaluate_questions, predict_spans
from stat_repro.evaluation.spans import AnswerRule, SpanLogits
from stat_repro.workloads.base import CalibrationSet, digest_of, drawn_indices


class QuestionWorkload:
    """Questions with their contexts in windows (question answering).

    Args:
        data: The questions.
        config: The data set.
        tokenizer: Fast tokenizer of the model.
        positions: Tokens that the model was made for; None if it names no limit.

    Raises:
        DataError: Windows that the model or the tokenizer cannot take.
    """

    def __init__(
        self,
        data: QuestionData,
        config: DatasetConfig,
        tokenizer: PreTrainedTokenizerBase,
        positions: int | None,
    ) -> None:
        check_windows(config.max_length, config.answers.stride, positions)
        self.data = data
        self.config = config
        self.tokenizer = tokenizer
        self.fingerprint = dict(data.fingerprint)
        self.rule = AnswerRule(
            n_best=config.answers.n_best,
            max_answer_length=config.answers.max_answer_length,
            null_threshold=config.answers.null_threshold if data.version == "2.0" else None,
        )
        self._pool = self._windows(data.split(config.calibration_split)).encoded
        self.sequence_length = float(np.mean([len(window["input_ids"]) for window in self._pool]))
        self._cut: tuple[tuple[str, int | None], ContextWindows] | None = None

    def _windows(self, questions: tuple[Question, ...]) -> ContextWindows:
        stride = self.config.answers.stride
        return context_windows(self.tokenizer, questions, self.config.max_length, stride)

    def calibration(
        self, config: CalibrationConfig, seed: int, *, labels: bool = False
    ) -> CalibrationSet:
        """Windows of the training part, batched by length.

        Raises:
            ConfigError: Labels are requested.
        """
        if labels:
            raise ConfigError("question answering: expected a method that needs no labels")
        indices = drawn_indices(len(self._pool), config, seed)
        drawn = [self._pool[i] for i in indices]
        return CalibrationSet(
            batches=calibration_batches(self.tokenizer, drawn, config.batch_size),
            digest=digest_of([window["input_ids"] for window in drawn]),
        )

    def _evaluated(self, config: EvaluationConfig) -> tuple[tuple[Question, ...], ContextWindows]:
        """The evaluated questions and their windows, which are cut once."""
        key = (config.split, config.max_examples)
        questions = self.data.split(config.split)[: config.max_examples]
        if self._cut is None or self._cut[0] != key:
            self._cut = (key, self._windows(questions))
        return questions, self._cut[1]

    def _predict(self, model: PreTrainedModel, config: EvaluationConfig, label: str) -> SpanLogits:
        _, windows = self._evaluated(config)
        batches = padded_batches(self.tokenizer, windows.encoded, config.batch_size)
        return predict_spans(model, batches, windows, label)

    def dense_outputs(self, model: PreTrainedModel, config: EvaluationConfig) -> SpanLogits:
        """Scores of the dense model."""
        return self._predict(model, config, "evaluating the dense model")

    def evaluate(
        self,
        dense: PreTrainedModel,
        pruned: PreTrainedModel,
        dense_outputs: SpanLogits | None,
        config: EvaluationConfig,
    ) -> Evaluation:
        """Exact match, F1 and fidelity on the evaluated part."""
        if dense_outputs is None:
            dense_outputs = self.dense_outputs(dense, config)
        scores = self._predict(pruned, config, "evaluating the pruned model")
        questions, windows = self._evaluated(config)
        return evaluate_questions(
            dense_outputs,
            scores,
            windows,
            [question.context for question in questions],
            [[answer.text for answer in question.answers] for question in questions],
            self.rule,
            self._protocol(config, windows),
        )

    def _protocol(self, config: EvaluationConfig, windows: ContextWindows) -> dict[str, Any]:
        """What was evaluated and how it was cut."""
        protocol: dict[str, Any] = {
            "split": config.split,
            "max_length": self.config.max_length,
            "stride": self.config.answers.stride,
            "truncation": "question first; contexts are not cut but continue in windows of "
            "max_length tokens, special tokens included, that share stride tokens of the context; "
            f"questions are cut after {QUESTION_TOKENS} tokens",
            "questions_cut": windows.questions_cut,
            "special_tokens": "as the tokenizer adds them to pairs",
            "padding": "to the longest window of the batch, masked",
        }
        if self.config.held_out is not None:
            protocol["held_out"] = (
                f"whole articles in a fixed random order until they have {self.config.held_out} "
                "of the questions; the other articles are the training part"
            )
        return protocol
