"""Pruning a checkpoint that is larger than memory: `stat_repro.compress_checkpoint`.

The layers come from the safetensors files of the folder one at a time and leave as shards of the
pruned model; see `methods.stat_layers` for what is in memory meanwhile.
"""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.api import pruning_config
from stat_repro.calibration.batches import CalibrationBatch, read_batches
from stat_repro.calibration.capture import count_tokens
from stat_repro.config.checks import ConfigError, in_range, integer, one_of
from stat_repro.config.pruning import check_target, counts_macs
from stat_repro.config.run import DTYPES
from stat_repro.measure import Stopwatch, memory_told, resolve_device
from stat_repro.methods.base import MethodInput
from stat_repro.methods.common import Key
from stat_repro.methods.stat_layers import LayerwiseStat, working_folder
from stat_repro.models.loading import ModelLoadError, load_tokenizer
from stat_repro.models.modes import own_types
from stat_repro.parallel import world
from stat_repro.plan import PruningPlan
from stat_repro.report import CompressionReport, report_of
from stat_repro.sharded.skeleton import CheckpointWeights, Skeleton, open_checkpoint
from stat_repro.sharded.writer import ShardWriter
from stat_repro.surgery.checkpoint import complete_folder, describe, plan_note
from stat_repro.surgery.pruned_form import empty_pruned_model
from stat_repro.surgery.saved_tokenizer import VOCABULARIES, has_tokenizer, save_tokenizer

log = logging.getLogger("stat_repro")

# What a tokenizer and the generation need; weights, code, cards and other formats stay behind.
_COMPANIONS = (
    *VOCABULARIES,
    *("merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template*", "generation_config.json"),
)
# Half types are computed on the CPU by few processors at full speed, and their rounding would add
# to the statistics; the weights are the same numbers in float32.
_CPU_DTYPES = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


@dataclass(frozen=True)
class CheckpointCompression:
    """A pruned checkpoint on disk, how it was cut, and what that cost.

    Attributes:
        folder: Where it is.
        plan: Kept units per layer.
        report: Costs, errors per site, timings.
    """

    folder: Path
    plan: PruningPlan
    report: CompressionReport


@memory_told()
@own_types()
def compress_checkpoint(
    folder: str | Path,
    output: str | Path,
    batches: Iterable[CalibrationBatch],
    *,
    ratio: float = 0.5,
    round_to: int = 1,
    method: str = "stat",
    sequence_length: float | None = None,
    device: str = "auto",
    dtype: str | None = None,
    spill: str | Path | None = None,
    **options: Any,
) -> CheckpointCompression:
    """Prune a checkpoint that need not fit into memory; the result is that of `compress`.

    In memory are at any time one transformer layer, its statistics with the workspace of one
    factorisation, and one batch of activations; hidden states of all batches as well, unless
    `spill` is given. Embeddings are there while batches are embedded. Tensors keep the types that
    they have in the checkpoint, and factorisations are float64.

    Args:
        folder: A Hugging Face folder with safetensors weights, in one file or in several.
        output: Where the pruned checkpoint goes; must not exist, or be empty. It appears complete
            or not at all, loads like one of `save_pruned`, and has one shard per layer.
        batches: As `compress` takes them.
        ratio: As in `compress`.
        round_to: As in `compress`.
        method: `stat`.
        sequence_length: As in `compress`.
        device: `auto`, `cpu`, `cuda`, `cuda:<i>` or `mps`; one layer at a time is there.
        dtype: Floating point type that the calibration computes in. By default the checkpoint's, on
            the CPU float32 for half types: few processors compute those at full speed, and float32
            adds no rounding. It takes twice the memory per layer.
        spill: Folder for the Gram matrices of the FFNs (somewhat over 4 F^2 bytes per layer) and
            the hidden states of all batches. By default hidden states are in memory, and the Gram
            matrices in the host's memory (GPU, where it has room for twice as much) or in the
            system's folder for temporary files.
        **options: Fields of `stat_repro.config.PruningConfig`.

    Returns:
        The folder, its plan and a report.

    Raises:
        ConfigError: Unknown or inconsistent options, or several processes.
        CheckpointError: `output` is in use.
        ModelLoadError: No usable configuration.
        UnsupportedModelError: No pruned form of the architecture.
        TensorFileError: Missing or damaged weights.
        CalibrationError: Unusable batches, or no room for what waits in files.
        BudgetError: A ratio that cannot be met.
    """
    config = pruning_config(method, options)
    round_to = integer("round_to", round_to)
    check_target(config, ratio=ratio, round_to=round_to, statistics_kind="gram", engine="layers")
    in_range("sequence_length", sequence_length, above=0)
    counts_macs(config, "a checkpoint larger than memory cannot be timed")
    in_one_process(world().size)
    source, output = Path(folder).expanduser(), Path(output).expanduser()
    where = resolve_device(device)
    watch = Stopwatch(where)
    with watch.stage("compress_s"), complete_folder(output) as partial:
        skeleton = open_checkpoint(source, where)
        adapter = skeleton.adapter
        batches, _ = read_batches(skeleton.model, batches)
        counts = count_tokens(batches)
        request = MethodInput(
            model=skeleton.model,
            adapter=adapter,
            batches=batches,
            ratio=ratio,
            sequence_length=counts.mean_length if sequence_length is None else sequence_length,
            config=config,
            statistics_kind="gram",
            calibration=counts,
            round_to=round_to,
            watch=watch,
        )
        weights = CheckpointWeights(skeleton, where, compute_dtype(skeleton.dtype, where, dtype))
        with working_folder(adapter, spill, where) as work:
            layers = LayerwiseStat(request, weights, work, where, in_files=spill is not None)
            pruned, plan, errors = _written(layers, skeleton, partial)
        report = report_of(request, pruned, plan, errors)
        _companions(source, partial, pruned)
        run_config = {"ratio": ratio, "round_to": round_to, "pruning": asdict(config)}
        base_model = str(source.resolve())
        describe(partial, pruned, plan, run_config, report.summary, base_model)
    return CheckpointCompression(output.absolute(), plan, report)


def in_one_process(processes: int) -> None:
    """Refuse several processes: each would prune the whole checkpoint into the same folder.

    Raises:
        ConfigError: There are more than one.
    """
    if processes > 1:
        raise ConfigError(
            f"a checkpoint larger than memory: expected one process; got {processes}, as torchrun "
            "starts them; choose the same command without it, or compress(engine='layers')"
        )


def compute_dtype(
    stored: torch.dtype, device: torch.device, wanted: str | None = None
) -> torch.dtype:
    """Floating point type that the calibration computes in.

    Args:
        stored: Type of the checkpoint.
        device: Where layers run.
        wanted: Name of a type; None chooses.
    """
    if wanted is not None:
        one_of("dtype", wanted, DTYPES)
        return getattr(torch, wanted)
    return _CPU_DTYPES.get(stored, stored) if device.type == "cpu" else stored


def _written(
    layers: LayerwiseStat, skeleton: Skeleton, folder: Path
) -> tuple[PreTrainedModel, PruningPlan, dict[Key, float | None]]:
    """Write weights and configuration; the pruned model without weights, plan and errors."""
    sizes, adapter = layers.sizes(), skeleton.adapter
    writer = ShardWriter(folder, skeleton)
    kept: dict[Key, tuple[int, ...]] = {}
    errors: dict[Key, float | None] = {}
    for layer, edits in enumerate(layers.fold(sizes)):
        with layers.request.watch.stage("write_s"):
            writer.layer(layer, edits)
        kept |= {edit.site.key: edit.kept for edit in edits}
        errors |= {edit.site.key: edit.relative_error for edit in edits}
    plan = adapter.plan_keeping(kept, layers.request.config.method, sizes.details)
    with layers.request.watch.stage("write_s"):
        writer.finish(**plan_note(plan))
    consumers = [site.consumer for site in adapter.sites]
    biased = [name for name in consumers if f"{name}.bias" in writer.places]
    pruned = empty_pruned_model(skeleton.model, adapter, plan, biased)
    # As save_pretrained does it.
    pruned.config.dtype = str(skeleton.dtype).removeprefix("torch.")
    pruned.config.architectures = [type(pruned).__name__]
    pruned.config.save_pretrained(folder)
    return pruned, plan, errors


def _tokenizer(source: Path) -> PreTrainedTokenizerBase | None:
    """The checkpoint's tokenizer; None if it has none, or one that cannot be loaded here."""
    if not has_tokenizer(source):
        return None
    try:
        return load_tokenizer(source)
    except ModelLoadError as error:
        log.warning(
            "%s. Its files are copied; in the pruned folder transformers may choose another class "
            "for them, as they do not name one that can be loaded here",
            error,
        )
        return None


def _companions(source: Path, folder: Path, pruned: PreTrainedModel) -> None:
    """Copy what lies beside the weights; generation defaults are made where there are none."""
    for pattern in _COMPANIONS:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    if (tokenizer := _tokenizer(source)) is not None:
        save_tokenizer(tokenizer, folder)
    if pruned.can_generate() and not (folder / "generation_config.json").is_file():
        GenerationConfig.from_model_config(pruned.config).save_pretrained(folder)
