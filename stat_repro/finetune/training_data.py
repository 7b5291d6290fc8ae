"""What an encoder is trained on: encoded examples, the loss of its head on them, its validation.

One class per kind of data, so that recipe and loop treat sentences and questions alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from stat_repro.data.batching import Batch, Encoded, encode_sentences, sentence_batches
from stat_repro.data.context_windows import context_windows
from stat_repro.data.squad import QuestionData
from stat_repro.data.task_data import TaskData
from stat_repro.evaluation.evaluate import task_metrics
from stat_repro.evaluation.predictions import predict_logits

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Examples:
    """Training examples for one tokenizer.

    Attributes:
        encoded: Tokens of every example, unpadded.
        loss: Mean loss of a batch from the model's outputs, its inputs and the numbers of its
            examples.
        unit: Plural name of the examples.
    """

    encoded: list[Encoded]
    loss: Callable[[ModelOutput, Batch, list[int]], Tensor]
    unit: str


@dataclass(frozen=True)
class TrainingSentences:
    """Sentences with a class or a number.

    Attributes:
        data: The sentences, with a `train` part.
        max_length: Tokens after which a sentence is cut.
    """

    data: TaskData
    max_length: int

    @property
    def head(self) -> dict[str, Any]:
        """Settings of the model's head: one output per class, with its name, or one number."""
        if self.data.task == "regression":
            return {"num_labels": 1, "problem_type": "regression"}
        names = self.data.label_names or ()
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }

    @property
    def recipe(self) -> dict[str, Any]:
        """What the weights also depend on: the names of the classes."""
        return {"labels": list(self.data.label_names or ())}

    def encode(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[int]) -> Examples:
        """Cross-entropy for classes, mean squared error for numbers."""
        chosen = self.data.splits["train"].select(rows)
        labels = torch.tensor(list(chosen["label"]))

        def loss(outputs: ModelOutput, inputs: Batch, batch: list[int]) -> Tensor:
            expected = labels[batch].to(outputs.logits.device)
            if self.data.task == "regression":
                return functional.mse_loss(outputs.logits[:, 0].float(), expected.float())
            return functional.cross_entropy(outputs.logits.float(), expected)

        return Examples(encode_sentences(tokenizer, chosen, self.max_length), loss, "sentences")

    def validate(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, float] | None:
        """Task metrics on all of the validation part."""
        rows = self.data.splits.get("validation")
        if rows is None or len(rows) == 0:
            return None
        batches = sentence_batches(tokenizer, rows, self.max_length, EVALUATION_BATCH)
        logits = predict_logits(model, batches, len(rows), "validating the task checkpoint")
        return task_metrics(logits, list(rows["label"]), self.data.task)


@dataclass(frozen=True)
class TrainingQuestions:
    """Questions with the piece of their context that answers them.

    The target is the first answer of a question; for a window without it, or a question without an
    answer, the window's first token. Questions whose answer is not where the data says are left
    out.

    Attributes:
        data: The questions, with a `train` part.
        max_length: Tokens per window.
        stride: Tokens that neighbouring windows share.
    """

    data: QuestionData
    max_length: int
    stride: int

    @property
    def head(self) -> dict[str, Any]:
        """Settings of the model's head: two outputs per token, start and end."""
        return {"num_labels": 2}

    @property
    def recipe(self) -> dict[str, Any]:
        """What the weights also depend on: windows, questions left out, how targets are found."""
        misplaced = sum(question.misplaced for question in self.data.splits["train"])
        return {"stride": self.stride, "left_out": misplaced, "targets": 2}

    def encode(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[int]) -> Examples:
        """All windows of the questions; mean of the cross-entropies of start and end."""
        chosen = [self.data.splits["train"][row] for row in rows]
        usable = [question for question in chosen if not question.misplaced]
        windows = context_windows(tokenizer, usable, self.max_length, self.stride)
        spans = [usable[row].span for row in windows.question]
        targets = torch.tensor(
            [windows.answer_tokens(window, span) for window, span in enumerate(spans)]
        )

        def loss(outputs: ModelOutput, inputs: Batch, batch: list[int]) -> Tensor:
            mask = inputs["attention_mask"]
            expected = targets[batch].to(mask.device)
            # Without the mask the loss would depend on the longest window of the batch.
            losses = [
                functional.cross_entropy(
                    logits.float().masked_fill(mask == 0, -torch.inf), expected[:, end]
                )
                for end, logits in enumerate((outputs.start_logits, outputs.end_logits))
            ]
            return (losses[0] + losses[1]) / 2

        return Examples(windows.encoded, loss, "windows")

    def validate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Nothing: every run answers all questions of its evaluated part with the dense model."""


# Recipe and loop use only what both classes have.
TrainingData = TrainingSentences | TrainingQuestions
