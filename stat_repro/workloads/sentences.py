"""Labelled sentences: classification and regression."""

from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from stat_repro.config import DatasetConfig, EvaluationConfig
from stat_repro.data import batching
from stat_repro.data.task_data import TaskData
from stat_repro.evaluation.evaluate import evaluate_task
from stat_repro.evaluation.example_values import Evaluation
from stat_repro.evaluation.predictions import predict_logits
from stat_repro.models.outputs import OutputOrder
from stat_repro.workloads.base import PaddedWorkload


class SentenceWorkload(PaddedWorkload):
    """Labelled sentences (classification, regression).

    Args:
        data: The sentences.
        config: The data set.
        tokenizer: Tokenizer of the model.
        outputs: How the model's outputs are read as the data's classes; in their order if None.
        positions: Tokens that the model was made for; None if it names no limit.

    Raises:
        DataError: Sentences that may be longer than the model can read.
    """

    def __init__(
        self,
        data: TaskData,
        config: DatasetConfig,
        tokenizer: PreTrainedTokenizerBase,
        outputs: OutputOrder | None = None,
        positions: int | None = None,
    ) -> None:
        batching.check_positions(config.max_length, positions)
        self.outputs = OutputOrder() if outputs is None else outputs
        rows = data.split(config.calibration_split)
        pool = batching.encode_sentences(tokenizer, self._texts(rows), config.max_length)
        super().__init__(data, config, tokenizer, pool, self._targets(rows))

    def _texts(self, rows: Dataset) -> Dataset:
        """What the model reads of these rows."""
        return rows

    def _targets(self, rows: Dataset) -> torch.Tensor | None:
        """What the model's loss takes of every row."""
        return self.outputs.targets(torch.tensor(list(rows["label"])))

    def _evaluated(self, config: EvaluationConfig) -> Dataset:
        rows = self.data.split(config.split)
        limit = config.max_examples
        return rows if limit is None else rows.select(range(min(limit, len(rows))))

    def _read(
        self, model: nn.Module, config: EvaluationConfig, label: str, **options: Any
    ) -> torch.Tensor:
        """What the model makes of every text, see `predict_logits`."""
        texts = self._texts(self._evaluated(config))
        batches = batching.sentence_batches(
            self.tokenizer, texts, self.config.max_length, config.batch_size
        )
        return predict_logits(model, batches, len(texts), label, **options)

    def _predict(self, model: nn.Module, config: EvaluationConfig, label: str) -> torch.Tensor:
        """Logits, (N, C), in the order of the data set's classes."""
        return self.outputs.arrange(self._read(model, config, label))

    def _compared(
        self, dense: torch.Tensor, pruned: torch.Tensor, config: EvaluationConfig
    ) -> Evaluation:
        return evaluate_task(
            dense,
            pruned,
            self._evaluated(config)["label"],
            self.config.task,
            config.split,
            self.config.max_length,
            self._conventions(),
        )

    def _conventions(self) -> dict[str, Any]:
        """What the protocol says beyond what holds for all labelled sentences."""
        conventions: dict[str, Any] = {}
        names: tuple[str, ...] = self.data.label_names or ()
        if self.config.source == "table" and len(names) == 2:
            conventions["f1"] = f"class 1, {names[1]}"
        if self.data.glue is not None:
            conventions["benchmark"] = "GLUE"
            conventions["benchmark_metrics"] = list(self.data.glue.metrics)
            sizes = [len(self.data.splits.get(part, ())) for part in ("train", "validation")]
            deviation = self.data.glue.deviation(*sizes)
            if deviation is not None:
                conventions["benchmark_deviation"] = deviation
        if self.config.held_out is not None:
            conventions["held_out"] = f"a fixed random {self.config.held_out} of the rows"
        if self.outputs.note is not None:
            conventions["outputs"] = self.outputs.note
        return conventions
