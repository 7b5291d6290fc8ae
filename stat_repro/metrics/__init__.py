"""Task metrics: plain functions (`scores`) and `evaluate.Metric` modules around them.

May use: data, paths.
"""

from __future__ import annotations

from pathlib import Path

import evaluate

from stat_repro.metrics.classification.classification import Classification
from stat_repro.metrics.glue.glue import Glue
from stat_repro.metrics.regression.regression import Regression
from stat_repro.metrics.squad.squad import Squad

METRICS: dict[str, type[evaluate.Metric]] = {
    "classification": Classification,
    "glue": Glue,
    "regression": Regression,
    "squad": Squad,
}


def _check_name(name: str) -> None:
    if name not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}; got {name!r}")


def metric_path(name: str) -> str:
    """Folder to hand to `evaluate.load`.

    Args:
        name: One of `METRICS`.

    Raises:
        ValueError: An unknown name.
    """
    _check_name(name)
    return str(Path(__file__).parent / name)


def load_metric(name: str, config_name: str | None = None) -> evaluate.Metric:
    """A metric that keeps its inputs in memory.

    Args:
        name: One of `METRICS`.
        config_name: `glue`: one of `stat_repro.data.glue.GLUE_TASKS`; `squad`: null for SQuAD 1.1,
            or `squad_v2`.

    Returns:
        An object with `compute(predictions=..., references=...)`.

    Raises:
        ValueError: An unknown name or configuration.
    """
    _check_name(name)
    return METRICS[name](config_name=config_name, keep_in_memory=True)
