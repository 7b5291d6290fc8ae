"""What GLUE reports for each of its tasks, as a module of the `evaluate` library.

It takes the names of our tasks (`mnli` is matched) and gives the keys of the library's own module
`glue`, which needs a network. See the remark on imports in `classification.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from stat_repro.data.glue import GLUE_TASKS
from stat_repro.metrics import base, scores

# Names of the library's module where they are not those of the records.
_KEYS = {"matthews": "matthews_correlation", "spearman": "spearmanr"}


class Glue(base.ProjectMetric):
    """The benchmark's metrics of the task that `config_name` names, and no others.

    Accuracy; also F1 of class 1 for MRPC and QQP; Matthews correlation for CoLA; Pearson and
    Spearman correlation for STS-B.
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in GLUE_TASKS:
            raise ValueError(
                f"metric glue: expected a task, one of {', '.join(GLUE_TASKS)}; got "
                f"{self.config_name!r}"
            )
        kind = "float64" if GLUE_TASKS[self.config_name].classes is None else "int64"
        return evaluate.MetricInfo(
            description="Metrics of the GLUE benchmark.",
            citation="Wang et al., GLUE, ICLR 2019 (arXiv 1804.07461)",
            inputs_description="predictions, references: class indices, or scores for stsb",
            features=datasets.Features(
                {"predictions": datasets.Value(kind), "references": datasets.Value(kind)}
            ),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> dict[str, float]:
        task = GLUE_TASKS[self.config_name]
        if task.classes is None:
            found = scores.regression_metrics(predictions, references)
        else:
            found = scores.classification_metrics(predictions, references, len(task.classes))
        return {_KEYS.get(name, name): found[name] for name in task.metrics}
