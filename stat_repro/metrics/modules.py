"""The task metrics as classes of the `evaluate` library, which collects and checks their inputs."""

from __future__ import annotations

from collections.abc import Callable
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
    function: Callable[..., dict[str, float]]

    def __init__(self, **options: Any) -> None:
        super().__init__(cache_dir=str(paths.cache_dir() / "metrics"), **options)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.value_type)
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return self.function(predictions, references, **options)


class Classification(_ProjectMetric):
    """See `stat_repro.metrics.scores.classification_metrics`; `num_classes` is optional."""

    description = "Accuracy, F1 (class 1 of two classes, else macro), Matthews correlation."
    value_type = "int64"
    function = staticmethod(classification_metrics)


class Regression(_ProjectMetric):
    """See `stat_repro.metrics.scores.regression_metrics`."""

    description = "Pearson and Spearman correlation."
    value_type = "float64"
    function = staticmethod(regression_metrics)


METRICS: dict[str, type[_ProjectMetric]] = {
    "classification": Classification,
    "regression": Regression,
}
