"""Exact match and F1 of SQuAD as a module of the `evaluate` library.

It takes what the library's own module `squad` takes, for SQuAD 2.0 as well: an empty prediction is
"no answer", and there is no `no_answer_probability`. Values are percents; the library's own modules
need a network. See the remark on imports in `classification.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

from stat_repro.metrics import answers, base

# The default configuration is SQuAD 1.1.
_VERSIONS = {"default": "1.1", "squad": "1.1", "squad_v2": "2.0"}


class Squad(base.ProjectMetric):
    """See `stat_repro.metrics.answers.squad_metrics`; values from 0 to 100 here."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _VERSIONS:
            raise ValueError(
                f"metric squad: expected {' or '.join(_VERSIONS)}; got {self.config_name!r}"
            )
        text = datasets.Value("string")
        marked = {
            "text": datasets.List(text),
            "answer_start": datasets.List(datasets.Value("int32")),
        }
        return evaluate.MetricInfo(
            description="Exact match and F1 of the official evaluation, in percents.",
            citation="Rajpurkar et al., EMNLP 2016 (arXiv 1606.05250) and ACL 2018 (1806.03822)",
            inputs_description=(
                "predictions: {id, prediction_text}; references: {id, answers}, with the lists "
                "text and answer_start in answers"
            ),
            features=datasets.Features(
                {
                    "predictions": {"id": text, "prediction_text": text},
                    "references": {"id": text, "answers": marked},
                }
            ),
        )

    def _compute(
        self,
        predictions: Sequence[Mapping[str, Any]],
        references: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        given = {row["id"]: row["prediction_text"] for row in predictions}
        ids = [row["id"] for row in references]
        if Counter(ids) != Counter(row["id"] for row in predictions) or len(given) < len(ids):
            raise ValueError(
                "metric squad: expected one prediction for the id of every reference, each once"
            )
        found = answers.squad_metrics(
            [given[name] for name in ids],
            [row["answers"]["text"] for row in references],
            _VERSIONS[self.config_name],
        )
        return {name: 100 * value for name, value in found.items()}
