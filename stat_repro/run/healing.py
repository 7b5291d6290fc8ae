"""The recovery of a run: its pruned model is trained on the training part of the data set."""

from __future__ import annotations

from typing import Any

from stat_repro.api import Compression
from stat_repro.config import CalibrationConfig, RunConfig
from stat_repro.finetune.recovery import recover
from stat_repro.run.sweep_cache import DenseModel


def recovered(config: RunConfig, dense: DenseModel, compression: Compression) -> dict[str, Any]:
    """Train the pruned model as the configuration says.

    Returns:
        What `recover` says of it; nothing without a recovery.
    """
    recovery = config.recovery
    if recovery.method == "none":
        return {}
    # The whole training part, in an order of its own.
    drawn = CalibrationConfig(examples=dense.workload.rows, batch_size=recovery.batch_size)
    labels = recovery.method != "distill"
    training = dense.workload.calibration(drawn, recovery.seed, labels=labels)
    return recover(
        dense.loaded.model, compression.model, training.batches, training.digest, recovery
    )
