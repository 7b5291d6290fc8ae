"""Pairs of sentences that an encoder without a head compares: the cosine of their vectors."""

from typing import Any

from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional

from stat_repro.config import EvaluationConfig
from stat_repro.evaluation.predictions import mean_of_tokens
from stat_repro.workloads.sentences import SentenceWorkload


class SimilarityWorkload(SentenceWorkload):
    """Pairs of sentences with a score; each sentence is read alone, in calibration too."""

    no_labels = (
        "dataset.task: expected a method that reads no labels where task=similarity, whose "
        "scores belong to pairs; choose another pruning"
    )

    def _texts(self, rows: Dataset) -> Dataset:
        """All first sentences, then all second ones."""
        return Dataset.from_dict({"text": [*rows["text"], *rows["text_pair"]]})

    def _targets(self, rows: Dataset) -> Tensor | None:
        return None

    def _predict(self, model: nn.Module, config: EvaluationConfig, label: str) -> Tensor:
        """Cosine of every pair, (N, 1)."""
        vectors = self._read(model, config, label, read=mean_of_tokens)
        first, second = vectors.double().chunk(2)
        return functional.cosine_similarity(first, second, dim=1)[:, None].float()

    def _conventions(self) -> dict[str, Any]:
        score = "cosine of the means of the last hidden states over the tokens of each sentence"
        return {**super()._conventions(), "score": f"{score}, special tokens included; no head"}
