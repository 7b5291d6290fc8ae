"""Questions about paragraphs: question answering."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.config import DatasetConfig, EvaluationConfig
from stat_repro.data.batching import check_positions, padded_batches
from stat_repro.data.context_windows import QUESTION_TOKENS, ContextWindows, context_windows
from stat_repro.data.squad import QuestionData
from stat_repro.data.squad_files import Question
from stat_repro.evaluation.example_values import Evaluation
from stat_repro.evaluation.question_answering import evaluate_questions, predict_spans
from stat_repro.evaluation.spans import AnswerRule, SpanLogits
from stat_repro.workloads.base import PaddedWorkload


class QuestionWorkload(PaddedWorkload):
    """Questions with their contexts in windows (question answering).

    Args:
        data: The questions.
        config: The data set.
        tokenizer: Fast tokenizer of the model.
        positions: Tokens that the model was made for; None if it names no limit.

    Raises:
        DataError: Windows that the model or the tokenizer cannot take.
    """

    no_labels = "question answering: expected a method that needs no labels"

    def __init__(
        self,
        data: QuestionData,
        config: DatasetConfig,
        tokenizer: PreTrainedTokenizerBase,
        positions: int | None,
    ) -> None:
        check_positions(config.max_length, positions)
        self.config, self.tokenizer = config, tokenizer
        self.rule = AnswerRule(
            n_best=config.answers.n_best,
            max_answer_length=config.answers.max_answer_length,
            null_threshold=config.answers.null_threshold if data.version == "2.0" else None,
        )
        pool = self._windows(data.split(config.calibration_split)).encoded
        super().__init__(data, config, tokenizer, pool)
        self._cut: tuple[tuple[str, int | None], ContextWindows] | None = None

    def _windows(self, questions: tuple[Question, ...]) -> ContextWindows:
        stride = self.config.answers.stride
        return context_windows(self.tokenizer, questions, self.config.max_length, stride)

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

    def _compared(
        self, dense: SpanLogits, pruned: SpanLogits, config: EvaluationConfig
    ) -> Evaluation:
        questions, windows = self._evaluated(config)
        return evaluate_questions(
            dense,
            pruned,
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
