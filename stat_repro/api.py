"""The Python interface: `stat_repro.compress`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stat_repro.allocation.latency import LatencyTable
from stat_repro.calibration.batches import (
    CalibrationBatch,
    CalibrationError,
    model_digest,
    read_batches,
)
from stat_repro.calibration.capture import (
    Calibration,
    collect_statistics,
    count_tokens,
    statistics_kind,
)
from stat_repro.calibration.gradients import check_loss
from stat_repro.calibration.sketch import Sketch
from stat_repro.config import METHODS, ConfigError, PruningConfig
from stat_repro.config.checks import MAX_SEED, in_range, integer, one_of
from stat_repro.config.pruning import ENGINES, check_target
from stat_repro.cost.compare import timed_length
from stat_repro.cost.latency_table import latency_table
from stat_repro.measure import Stopwatch, memory_told
from stat_repro.methods.base import MethodInput
from stat_repro.methods.registry import PRUNE
from stat_repro.methods.stat_layers import prune_by_layers
from stat_repro.models.adapter import Adapter
from stat_repro.models.modes import own_types
from stat_repro.parallel import exchange, world
from stat_repro.plan import PruningPlan
from stat_repro.report import CompressionReport, report_of
from stat_repro.surgery.edit import prune_model
from stat_repro.surgery.rebuilding import checked_adapter


@dataclass(frozen=True)
class Compression:
    """The pruned model, how it was cut, and what that cost.

    Attributes:
        model: A new, physically smaller model; `save_pretrained` stores its per-layer sizes.
        plan: Kept units per layer.
        report: Costs, errors per site, timings.
    """

    model: PreTrainedModel
    plan: PruningPlan
    report: CompressionReport


@memory_told()
@own_types()
def compress(
    model: PreTrainedModel,
    batches: Iterable[CalibrationBatch],
    *,
    ratio: float = 0.5,
    round_to: int = 1,
    method: str = "stat",
    statistics: str = "gram",
    sketch: Sketch | None = None,
    sequence_length: float | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    engine: str = "model",
    spill: str | Path | None = None,
    latency: LatencyTable | None = None,
    **options: Any,
) -> Compression:
    """Prune a trained transformer to a share of its MACs, without training it.

    The model runs in its own type, also inside torch.autocast; torch.inference_mode is left.

    Args:
        model: One of the architectures in docs/architectures.md with any task head that it has; it
            is not changed.
        batches: Calibration batches as the model's tokenizer makes them: mappings with `input_ids`
            (B, S) and `attention_mask`, for `method="fisher"` on classifiers also `labels`: (B,),
            (B, C) where `config.problem_type` says so. Any iterable; it is read once.
        ratio: Share of the prunable MACs that is removed, 0 <= ratio < 1.
        round_to: Neurons kept per layer are a multiple of this where the layer loses any; the total
            stays within the budget. Heads are not rounded: `head_dim` is a round number already.
        method: Name of the method. Options that are not given are those of its paper
            (`stat_repro.config.METHOD_DEFAULTS`), not those of STAT.
        statistics: `gram` (streamed), `exact` (stored activations; small sets only) or `sketch`
            (streamed random combinations of the activations; `stat` only).
        sketch: For `statistics="sketch"`: kind, size and seed (`stat_repro.Sketch`).
        sequence_length: Mean tokens per example at which MACs are counted; by default that of the
            batches.
        calibration: Dense statistics of these batches if they exist already (`calibrate`). A loader
            that shuffles gives other batches each time: pass `list(loader)` to both. Those of other
            batches or of another model are refused; of the weights a sample is compared
            (`calibration.batches.model_digest`).
        seed: Seed of `method="random"` and `curvature="fisher"`, 0 to 2^32 - 1.
        engine: `model` takes the statistics of all sites in one pass. `layers` takes all batches
            through one layer after the other, so that one layer's statistics are in memory at a
            time (`method="stat"`, `statistics="gram"`); the result is the same. The Gram matrices
            of the FFNs, 4 F^2 bytes each and somewhat more, wait in temporary files.
        spill: For `engine="layers"`: folder for those files and for the hidden states between two
            layers. By default the system's folder for temporary files, and hidden states in memory.
        latency: For `budget="latency"`: a table of one's own, up to the largest layer. By default
            one is measured, once for a model shape, device and inputs, and kept in the cache.
        **options: Fields of `stat_repro.config.PruningConfig`, such as `allocation="uniform"`.

    Returns:
        The pruned model, its plan and a report.

    Raises:
        ConfigError: Unknown or inconsistent options.
        UnsupportedModelError: No adapter for the model, or one with modules or settings that its
            config does not describe.
        CalibrationError: Unusable batches.
        BudgetError: A ratio that cannot be met.
    """
    config = pruning_config(method, options)
    round_to, seed = integer("round_to", round_to), integer("seed", seed)
    check_target(config, ratio=ratio, round_to=round_to, statistics_kind=statistics, engine=engine)
    adapter = _checked(model, config, seed, engine, spill, latency, sequence_length)
    watch = Stopwatch(next(model.parameters()).device)
    with watch.stage("compress_s"):
        batches, digest = read_batches(model, batches)
        if METHODS[config.method].reads_labels:
            check_loss(model, batches)
        if calibration is None:
            wanted = config.needs_statistics(engine)
            with watch.stage("calibrate_s"):
                calibration = _calibrated(model, adapter, batches, statistics, sketch, wanted)
        else:
            kind = statistics_kind(statistics, sketch)
            _check_calibration(calibration, digest, model_digest(model), kind, engine, config)
        sequence_length = calibration.mean_length if sequence_length is None else sequence_length
        if latency is None and config.budget == "latency":
            with watch.stage("latency_table_s"):
                latency = _latency_of(model, config, sequence_length, round_to)
        request = MethodInput(
            model=model,
            adapter=adapter,
            batches=batches,
            ratio=ratio,
            sequence_length=sequence_length,
            config=config,
            statistics_kind=statistics,
            sketch=sketch,
            calibration=calibration,
            round_to=round_to,
            seed=seed,
            latency=latency,
            watch=watch,
        )
        if engine == "layers":
            output = prune_by_layers(request, spill)
        else:
            output = PRUNE[config.method](request)
        with watch.stage("surgery_s"):
            pruned = prune_model(model, output.plan, output.edits, output.norms)
    report = report_of(request, pruned, output.plan, output.errors)
    return Compression(model=pruned, plan=output.plan, report=report)


@memory_told()
@own_types()
def calibrate(
    model: PreTrainedModel,
    batches: Iterable[CalibrationBatch],
    *,
    statistics: str = "gram",
    sketch: Sketch | None = None,
    config: PruningConfig | None = None,
    engine: str = "model",
) -> Calibration:
    """Dense statistics of all sites, which several ratios of one calibration set can share.

    Args:
        model: The model.
        batches: As `compress` takes them.
        statistics: `gram`, `exact` or `sketch`.
        sketch: For `statistics="sketch"`.
        config: Where given and nothing in it reads statistics, only the tokens are counted.
        engine: As `compress` takes it; with `config` and `layers` only the tokens are counted.
    """
    one_of("engine", engine, ENGINES)
    adapter = checked_adapter(model)
    read, digest = read_batches(model, batches)
    wanted = config is None or config.needs_statistics(engine)
    calibration = _calibrated(model, adapter, read, statistics, sketch, wanted)
    return replace(calibration, digest=digest, model=model_digest(model))


def _calibrated(
    model: PreTrainedModel,
    adapter: Adapter,
    batches: Sequence[CalibrationBatch],
    statistics: str,
    sketch: Sketch | None,
    wanted: bool,
) -> Calibration:
    """Statistics of all sites, or the number of tokens alone."""
    if not wanted:
        return count_tokens(batches)
    return collect_statistics(model, adapter, batches, statistics=statistics, sketch=sketch)


def _latency_of(
    model: PreTrainedModel, config: PruningConfig, mean_length: float, round_to: int
) -> LatencyTable | None:
    """The table that the first process measures, for all."""
    length = timed_length(config.latency_length, model, mean_length, "pruning.latency_length")
    first = world().rank == 0
    table = latency_table(model, config.latency_batch, length, round_to) if first else None
    return exchange(table)[0]


def _checked(
    model: PreTrainedModel,
    config: PruningConfig,
    seed: int,
    engine: str,
    spill: str | Path | None,
    latency: LatencyTable | None,
    sequence_length: float | None,
) -> Adapter:
    in_range("sequence_length", sequence_length, above=0)
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed: expected 0 to {MAX_SEED}; got {seed}")
    if spill is not None and engine != "layers":
        raise ConfigError(f"spill={spill}: expected engine=layers; got engine={engine}")
    if latency is not None and config.budget != "latency":
        raise ConfigError(f"latency: expected budget=latency beside a table; got {config.budget}")
    adapter = checked_adapter(model)
    if latency is not None:
        latency.check(adapter)
    return adapter


def _check_calibration(
    calibration: Calibration, digest: str, model: str, kind: str, engine: str, config: PruningConfig
) -> None:
    """Refuse one of other batches, model or statistics, without what will be read, or too much."""
    if calibration.digest not in (None, digest):
        raise CalibrationError(
            "calibration: expected the statistics of these batches; got those of others (sha256 "
            f"{calibration.digest[:10]} instead of {digest[:10]}). A loader that shuffles gives "
            "other batches each time it is read: choose list(loader) for calibrate and compress"
        )
    if calibration.model not in (None, model):
        raise CalibrationError(
            "calibration: expected the statistics of this model; got those of another, or of this "
            f"one with other weights or settings (sha256 {calibration.model[:10]} instead of "
            f"{model[:10]}); choose calibrate(model, ...) after the last change of the model"
        )
    if calibration.statistics and calibration.kind not in (None, kind):
        raise CalibrationError(
            f"calibration: expected statistics={kind}, which compress was asked for; got "
            f"{calibration.kind}; choose the same statistics and sketch for both"
        )
    if config.needs_statistics(engine) and not calibration.statistics:
        raise CalibrationError(
            f"calibration: method={config.method}, allocation={config.allocation}, "
            f"correction={config.correction} need statistics of the sites; got none"
        )
    if engine == "layers" and calibration.statistics:
        raise CalibrationError(
            "calibration: engine=layers takes its statistics layer by layer; expected none, got "
            f"those of {len(calibration.statistics)} sites (choose engine=model)"
        )


def pruning_config(method: str, options: dict[str, Any]) -> PruningConfig:
    """The options of a method, those that are not given as in its paper.

    Raises:
        ConfigError: Unknown or inconsistent options.
    """
    valid = set(PruningConfig.__dataclass_fields__)
    unknown = sorted(set(options) - valid)
    if unknown:
        raise ConfigError(
            f"unknown options {', '.join(unknown)}; valid: {', '.join(sorted(valid - {'method'}))}"
        )
    if options.get("authors_compat") and "min_units" not in options:
        options = {**options, "min_units": 0}
    defaults = METHODS[method].defaults if method in METHODS else {}
    return PruningConfig(method=method, **{**defaults, **options})
