"""Pearson and Spearman correlation as a module of the `evaluate` library.

See the remark on imports in `classification.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from stat_repro.metrics import base, scores


class Regression(base.ProjectMetric):
    """See `stat_repro.metrics.scores.regression_metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Pearson and Spearman correlation.",
            citation="",
            inputs_description="predictions, references: numbers",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> dict[str, float]:
        return scores.regression_metrics(predictions, references)
