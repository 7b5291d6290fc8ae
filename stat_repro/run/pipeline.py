"""One experiment from configuration to record."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stat_repro import measure
from stat_repro.api import Compression, compress
from stat_repro.config import CalibrationConfig, ConfigError, RunConfig
from stat_repro.cost.compare import counted_costs, measured_costs, timed_length
from stat_repro.evaluation.example_values import Evaluation
from stat_repro.finetune.recovery import check_recovery, forget, recover
from stat_repro.models.loading import load_tokenizer
from stat_repro.models.tensor_files import has_weights
from stat_repro.parallel import world
from stat_repro.paths import without_paths
from stat_repro.progress import quiet_transformers
from stat_repro.results.example_files import describe_examples, encode_examples
from stat_repro.results.provenance import collect
from stat_repro.results.record import BEFORE_RECOVERY, RunRecord, describe_error, labels
from stat_repro.run.identity import identify, recorded
from stat_repro.run.sweep_cache import CalibratedModel, DenseModel, SweepCache, sketch_of
from stat_repro.surgery.checkpoint import PLAN_FILE, save_pruned


@dataclass(frozen=True)
class Experiment:
    """The results of a run: its record, not stored yet, and the pruned model.

    Attributes:
        record: The record.
        compression: Pruned model, plan and report.
        given: Folder of the checkpoint that was given, whose tokenizer is saved as it is there: the
            one that read the data keeps the last length to which it cut.
        examples: The values per example that are stored beside the record; None if they are not.
    """

    record: RunRecord
    compression: Compression
    given: Path
    examples: bytes | None


@measure.memory_told()
def run_experiment(
    config: RunConfig, cache: SweepCache, name: str | None = None
) -> Experiment | None:
    """Load, calibrate, plan, cut, evaluate: the whole of one run.

    If several processes work on it, the first one evaluates and the others return None.

    Args:
        config: The run.
        cache: Values shared with other runs of the process.
        name: Its `run_id`, if `identify` was called already.
    """
    name = identify(config) if name is None else name
    check_recovery(config.recovery)  # before a head is trained
    watch = measure.Stopwatch()
    measure.reset_cuda_peak_memory(measure.resolve_device(config.device))
    with watch.stage("total_s"):
        with watch.stage("load_s"):
            dense = cache.dense(config)
        # From here on files may be changed: what was read of them is used, and described.
        described = recorded(config, dense.base_hash, name)
        calibrated, compression = _compressed(config, cache, dense, watch)
        if world().rank > 0:
            return None

        def evaluated() -> Evaluation:
            with watch.stage("evaluate_s"):
                outputs, model = cache.dense_outputs(config, dense), dense.loaded.model
                return dense.workload.evaluate(model, compression.model, outputs, config.evaluation)

        before = {} if config.recovery.method == "none" else evaluated().metrics
        recovery = _finished(config, dense, compression)
        state = recovery.pop("state", None)
        evaluation = evaluated()
        if recovery:
            watch.seconds |= {f"recover_{key}": recovery.pop(key) for key in ("cpu_s", "s")}
            evaluation.metrics[BEFORE_RECOVERY] = before["pruned"] | before["fidelity"]
        # Of the run, without the cost stage.
        memory = measure.peak_memory(dense.loaded.model.device)
        with watch.stage("cost_s"):
            costs = _costs(config, dense, compression)
            if recovery:
                costs["recovery"] = recovery
    forget(state)  # a process that is killed before this need not train again
    kept = encode_examples(evaluation.examples) if config.evaluation.keep_examples else None
    report = compression.report
    record = RunRecord(
        run_id=name,
        **labels(config),
        status="ok",
        mac_kept_fraction=report.mac_kept_fraction,
        param_kept_fraction=report.param_kept_fraction,
        metrics=without_paths(evaluation.metrics),
        timings=_timings(watch.seconds, report.timings, calibrated.seconds),
        costs=costs,
        memory=memory,
        site_errors=[asdict(error) for error in report.site_errors],
        plan=compression.plan.to_masks(),
        config=described,
        provenance=_provenance(config, dense, calibrated, kept),
    )
    return Experiment(record, compression, dense.given, kept)


def _compressed(
    config: RunConfig, cache: SweepCache, dense: DenseModel, watch: measure.Stopwatch
) -> tuple[CalibratedModel, Compression]:
    """The part of a run that ends with the pruned model."""
    if config.cost.enabled:  # refuses a wrong length before the work
        mean = dense.workload.sequence_length
        timed_length(config.cost.sequence_length, dense.loaded.model, mean)
    calibrated = cache.calibrated(config, dense)
    compression = compress(
        dense.loaded.model,
        calibrated.examples.batches,
        ratio=config.ratio,
        round_to=config.round_to,
        statistics=config.calibration.statistics,
        sketch=sketch_of(config),
        sequence_length=dense.workload.sequence_length,
        calibration=calibrated.calibration,
        seed=config.seed,
        engine=config.calibration.engine,
        **asdict(config.pruning),
    )
    return calibrated, compression


def _finished(config: RunConfig, dense: DenseModel, compression: Compression) -> dict[str, Any]:
    """Train the pruned model if that is asked for, and round its weights.

    Returns:
        What `recover` says of it; nothing without a recovery.
    """
    recovery, done = config.recovery, {}
    if recovery.method != "none":
        # The whole part that calibrates, in an order of its own.
        drawn = CalibrationConfig(examples=dense.workload.rows, batch_size=recovery.batch_size)
        labelled = recovery.method != "distill"
        training = dense.workload.calibration(drawn, recovery.seed, labels=labelled)
        done = recover(
            dense.loaded.model, compression.model, training.batches, training.digest, recovery
        )
    for tensor in compression.model.state_dict().values():
        if config.save_dtype is not None and tensor.is_floating_point():
            tensor.copy_(tensor.to(_saved_dtype(config)))
    return done


@measure.memory_told()
def save_stored(config: RunConfig, cache: SweepCache, record: RunRecord, folder: Path) -> None:
    """Make the pruned model of a stored run once more, to save it; nothing is measured.

    If several processes work on it, the first one saves.

    Args:
        config: The run.
        cache: Values shared with other runs of the process.
        record: Its stored record.
        folder: See `output_folder`.

    Raises:
        ConfigError: The plan is not that of the record.
    """
    check_recovery(config.recovery)
    dense = cache.dense(config)
    _, compression = _compressed(config, cache, dense, measure.Stopwatch())
    if compression.plan.layers != record.layers:
        raise ConfigError(
            f"save_to: expected the plan of the stored record {record.run_id}; got another one, as "
            "other packages or another device may give; choose if_stored=repeat, which measures "
            "the model that is saved"
        )
    if world().rank == 0:
        recovery = _finished(config, dense, compression)
        experiment = Experiment(record, compression, dense.given, None)
        save_model(config, experiment, folder)
        forget(recovery.get("state"))


def _costs(config: RunConfig, dense: DenseModel, compression: Compression) -> dict[str, Any]:
    """Costs of both models; latencies only if they were asked for."""
    model, pruned, report = dense.loaded.model, compression.model, compression.report
    costs = {
        "sequence_length": report.sequence_length,
        "round_to": report.round_to,
        **counted_costs(model, pruned, report.sequence_length, _saved_dtype(config)),
        "calibration_examples": report.calibration_examples,
        "calibration_tokens": report.calibration_tokens,
    }
    if config.cost.enabled:
        costs["measured"] = measured_costs(model, pruned, config.cost, report.sequence_length)
    return costs


def _saved_dtype(config: RunConfig) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, config.save_dtype or config.dtype)
    return dtype


def _timings(
    run: dict[str, float], compression: dict[str, float], calibration: float
) -> dict[str, float]:
    """Seconds of all stages.

    Points of a sweep share statistics and their analysis; each counts their time as if it had run
    alone.
    """
    timings = {**run, **compression}
    timings["calibrate_s"] = calibration + compression.get("calibrate_s", 0.0)
    timings["compress_s"] += calibration + timings.pop("shared_s", 0.0)
    return timings


def _provenance(
    config: RunConfig, dense: DenseModel, calibrated: CalibratedModel, examples: bytes | None
) -> dict[str, Any]:
    device, processes = dense.loaded.model.device, world().size
    return collect(
        device=str(device) if processes == 1 else f"{device.type}, {processes} processes",
        dtypes={"model": config.dtype, "statistics": "float64", "factorisation": "float64"},
        data_hashes={**dense.workload.fingerprint, "calibration": calibrated.examples.digest},
        model_hash=dense.model_hash,
        base_model_hash=dense.base_hash,
        finetuned=dense.finetuned,
        examples=None if examples is None else describe_examples(examples),
        hardware=measure.describe_hardware(device),
    )


def output_folder(config: RunConfig, name: str) -> Path | None:
    """The folder for the pruned model of this run; None if it is not saved.

    Raises:
        ConfigError: Something else has this name, or what is left of a model.
    """
    if config.save_to is None:
        return None
    folder = Path(config.save_to).expanduser() / name
    if folder.exists() and not (has_weights(folder) and (folder / PLAN_FILE).is_file()):
        raise ConfigError(
            f"save_to: {folder} exists and is no whole saved model (plan and weights); choose "
            "another folder, or remove this one to have it made again"
        )
    return folder


@quiet_transformers()
def save_model(config: RunConfig, experiment: Experiment, folder: Path) -> None:
    """Write the pruned model with tokenizer, plan, configuration, record and card."""
    record, report = experiment.record, experiment.compression.report
    code = config.model.trust_remote_code
    save_pruned(
        experiment.compression.model.to(_saved_dtype(config)),
        folder,
        plan=experiment.compression.plan,
        tokenizer=load_tokenizer(experiment.given, trust_remote_code=code),
        run_config=record.config,
        record_summary={
            **report.summary,
            "macs_per_token": record.costs["macs_per_token"],
            "size_bytes": record.costs["size_bytes"],
            "metrics": record.metrics,
            "recovery": {"method": config.recovery.method, **record.costs.get("recovery", {})},
            "calibration": {
                "data": record.dataset,
                **report.summary["calibration"],
                "seed": record.seed,
                "sha256 of the tokens": record.provenance["data_hashes"]["calibration"],
            },
            "run": record.run_id,
        },
        record=record.to_json(),
        base_model=config.model.path,
    )


def failed_record(config: RunConfig, name: str, error: BaseException) -> RunRecord:
    """The record of a run that raised."""
    return RunRecord(
        run_id=name,
        **labels(config),
        status="failed",
        config=without_paths(asdict(config)),
        provenance=collect(
            device=config.device, dtypes={"model": config.dtype}, data_hashes={}, model_hash=None
        ),
        error=describe_error(error),
    )
