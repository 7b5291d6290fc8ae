"""One experiment from configuration to record; the only file that knows every stage."""

from __future__ import annotations

import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stat_repro.api import Compression, compress
from stat_repro.checkpoint import save_pruned
from stat_repro.config import RunConfig, run_id, to_dict
from stat_repro.measure import Stopwatch, peak_memory
from stat_repro.results.provenance import collect
from stat_repro.results.record import RunRecord
from stat_repro.session import CalibratedModel, DenseModel, Session


def run_experiment(config: RunConfig, session: Session) -> RunRecord:
    """Load, calibrate, plan, cut, evaluate: the whole of one run.

    Args:
        config: The run.
        session: Values shared with other runs of the process.

    Returns:
        The record of the run, not stored yet.
    """
    watch = Stopwatch()
    with watch.stage("total_s"):
        with watch.stage("load_s"):
            dense = session.dense(config)
        calibrated = session.calibrated(config)
        compression = compress(
            dense.loaded.model,
            calibrated.examples,
            ratio=config.ratio,
            seed=config.seed,
            statistics=config.calibration.statistics,
            sequence_length=dense.workload.sequence_length,
            calibration=calibrated.calibration,
            **asdict(config.pruning),
        )
        with watch.stage("evaluate_s"):
            metrics = dense.workload.evaluate(
                dense.loaded.model,
                compression.model,
                session.dense_outputs(config),
                config.evaluation,
            )
    record = _record(config, dense, calibrated, compression, metrics, watch)
    if config.save_to is not None:
        _save(config, dense, compression, record)
    return record


def _record(
    config: RunConfig,
    dense: DenseModel,
    calibrated: CalibratedModel,
    compression: Compression,
    metrics: dict[str, Any],
    watch: Stopwatch,
) -> RunRecord:
    report = compression.report
    # Statistics may be shared by a sweep; the time of a point counts them as if it ran alone.
    timings = {**watch.seconds, **report.timings, "calibrate_s": calibrated.seconds}
    timings["compress_s"] = report.timings["compress_s"] + calibrated.seconds
    return RunRecord(
        **_identity(config),
        status="ok",
        mac_kept_fraction=report.mac_kept_fraction,
        param_kept_fraction=report.param_kept_fraction,
        metrics=metrics,
        timings=timings,
        costs={
            "sequence_length": report.sequence_length,
            "prunable_macs_per_token": {
                "dense": report.prunable_macs[0],
                "pruned": report.prunable_macs[1],
            },
            "prunable_params": {
                "dense": report.prunable_params[0],
                "pruned": report.prunable_params[1],
            },
            "params": {"dense": report.params[0], "pruned": report.params[1]},
            "calibration_examples": report.calibration_examples,
            "calibration_tokens": report.calibration_tokens,
        },
        memory=peak_memory(dense.loaded.model.device),
        site_errors=[asdict(error) for error in report.site_errors],
        plan=compression.plan.to_dict(),
        provenance=_provenance(config, dense, calibrated),
        error=None,
    )


def _identity(config: RunConfig) -> dict[str, Any]:
    """What a record says of any run, successful or not."""
    return {
        "run_id": run_id(config),
        "model": config.model.name,
        "dataset": config.dataset.name,
        "method": config.pruning.method,
        "ratio": config.ratio,
        "seed": config.seed,
        "config": to_dict(config),
    }


def _provenance(
    config: RunConfig, dense: DenseModel, calibrated: CalibratedModel
) -> dict[str, Any]:
    return collect(
        device=str(dense.loaded.model.device),
        dtypes={"model": config.dtype, "statistics": "float64", "factorisation": "float64"},
        data_hashes={**dense.workload.fingerprint, "calibration": calibrated.examples.digest},
        model_hash=dense.model_hash,
        base_model_hash=dense.base_hash,
        finetuned=dense.finetuned,
    )


def _save(
    config: RunConfig, dense: DenseModel, compression: Compression, record: RunRecord
) -> None:
    assert config.save_to is not None
    save_pruned(
        compression.model,
        Path(config.save_to).expanduser() / record.run_id,
        plan=compression.plan,
        tokenizer=dense.loaded.tokenizer,
        run_config=to_dict(config),
        record_summary={
            "mac_kept_fraction": record.mac_kept_fraction,
            "param_kept_fraction": record.param_kept_fraction,
            "metrics": record.metrics,
        },
        base_model=config.model.path,
    )


def failed_record(config: RunConfig, error: BaseException) -> RunRecord:
    """The record of a run that raised."""
    return RunRecord(
        **_identity(config),
        status="failed",
        mac_kept_fraction=None,
        param_kept_fraction=None,
        metrics={},
        timings={},
        costs={},
        memory={},
        site_errors=[],
        plan={},
        provenance=collect(
            device=config.device, dtypes={"model": config.dtype}, data_hashes={}, model_hash=None
        ),
        error={
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        },
    )
