"""Accuracy, F1 and Matthews correlation as a module of the `evaluate` library.

`evaluate.load` takes the first metric class it finds in this file and reads the imports line by
line, so the base class is used through its module, one import per line.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from stat_repro.metrics import base, scores


class Classification(base.ProjectMetric):
    """See `stat_repro.metrics.scores.classification_metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, F1 (class 1 of two classes, else macro), Matthews correlation.",
            citation="",
            inputs_description=(
                "predictions, references: class indices; num_classes: number of classes, optional"
            ),
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        num_classes: int | None = None,
    ) -> dict[str, float]:
        return scores.classification_metrics(predictions, references, num_classes)
