"""What the metric modules share: where `evaluate` may put its files."""

from __future__ import annotations

from typing import Any

import evaluate

from stat_repro import paths


class ProjectMetric(evaluate.Metric):
    """A metric whose working files stay in the project's cache.

    `evaluate` creates a folder under the user's home for every metric, also for those that keep
    their inputs in memory; here it lies in the cache folder unless the caller names another.
    """

    def __init__(
        self, config_name: str | None = None, cache_dir: str | None = None, **options: Any
    ) -> None:
        where = str(paths.cache_dir() / "metrics") if cache_dir is None else cache_dir
        super().__init__(config_name=config_name, cache_dir=where, **options)
