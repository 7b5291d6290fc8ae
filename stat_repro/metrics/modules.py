"""The task metrics as objects of the `evaluate` library, which collects and checks their inputs."""

from typing import Any

import datasets
import evaluate

from stat_repro.metrics.scores import classification_metrics, regression_metrics

# The function of each metric, and the type of its values.
METRICS = {
    "classification": (classification_metrics, "int64"),
    "regression": (regression_metrics, "float64"),
}


class TaskMetric(evaluate.Metric):
    """One of `METRICS`, by `compute(predictions=..., references=...)`; keeps them in memory.

    `evaluate` would create a folder for every metric, also for those that keep their inputs in
    memory, and fail where it must not write.

    Args:
        name: A key of `METRICS`.
    """

    def __init__(self, name: str) -> None:
        self.function, self.value_type = METRICS[name]
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return ""

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.value_type)
        return evaluate.MetricInfo(
            description=str(self.function.__doc__),
            citation="",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return self.function(predictions, references, **options)
