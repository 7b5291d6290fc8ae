"""The task metrics as classes of the `evaluate` library, which collects and checks their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from stat_repro import paths
from stat_repro.metrics.scores import classification_metrics, regression_metrics


class _ProjectMetric(evaluate.Metric):
    """A metric whose working files stay in the project's cache.

    `evaluate` creates a folder under the user's home for every metric, also for those that keep
    their inputs in memory; here it lies in the cache folder.
    """

    description: str
    value_type: str

    def __init__(self, **options: Any) -> None:
        super().__init__(cache_dir=str(paths.cache_dir() / "metrics"), **options)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.value_type)
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            features=datasets.Features({"predictions": value, "references": value}),
        )


class Classification(_ProjectMetric):
    """See `stat_repro.metrics.scores.classification_metrics`; `num_classes` is optional."""

    description = "Accuracy, F1 (class 1 of two classes, else macro), Matthews correlation."
    value_type = "int64"

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        num_classes: int | None = None,
    ) -> dict[str, float]:
        return classification_metrics(predictions, references, num_classes)


class Regression(_ProjectMetric):
    """See `stat_repro.metrics.scores.regression_metrics`."""

    description = "Pearson and Spearman correlation."
    value_type = "float64"

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> dict[str, float]:
        return regression_metrics(predictions, references)


METRICS: dict[str, type[_ProjectMetric]] = {
    "classification": Classification,
    "regression": Regression,
}
