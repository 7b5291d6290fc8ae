"""Task metrics: plain functions (`scores`, `answers`) and `evaluate.Metric` classes (`modules`).

May use: paths.
"""

import evaluate

from stat_repro.metrics.modules import METRICS, TaskMetric


def load_metric(name: str) -> evaluate.Metric:
    """A metric that keeps its inputs in memory.

    Args:
        name: `classification` or `regression`.

    Returns:
        An object with `compute(predictions=..., references=...)`.

    Raises:
        ValueError: An unknown name.
    """
    if name not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}; got {name!r}")
    return TaskMetric(name)
