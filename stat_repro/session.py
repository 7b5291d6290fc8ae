"""What several runs of one process have in common: the dense model, its outputs, its statistics.

A sweep over ratios asks for the same dense model and the same calibration again and again. The
session keeps the latest of each, keyed by the configuration that determines it, so that the
results of a sweep are those of separate runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from stat_repro.api import calibrate
from stat_repro.calibration.capture import Calibration
from stat_repro.config import ConfigError, RunConfig
from stat_repro.data.task_data import TaskData, load_task_data
from stat_repro.data.text_data import load_text_data
from stat_repro.finetune import has_task_head, task_checkpoint
from stat_repro.measure import Stopwatch, resolve_device
from stat_repro.models.loading import LoadedModel, checkpoint_folder, load_checkpoint
from stat_repro.results.provenance import hash_files
from stat_repro.workloads import CalibrationSet, SentenceWorkload, WindowWorkload, Workload

T = TypeVar("T")


@dataclass(frozen=True)
class DenseModel:
    """The dense model of a run and the data prepared for it.

    Attributes:
        loaded: Model, tokenizer and folder.
        workload: The data set for this tokenizer.
        base_hash: sha256 of the checkpoint that was given.
        model_hash: sha256 of the checkpoint that was pruned (after fine-tuning, if any).
        finetuned: Whether the task head was trained here.
    """

    loaded: LoadedModel
    workload: Workload
    base_hash: str
    model_hash: str
    finetuned: bool


@dataclass(frozen=True)
class CalibratedModel:
    """Dense statistics and what they cost.

    Attributes:
        calibration: Statistics of all sites.
        examples: The calibration set.
        seconds: Time of the calibration pass.
    """

    calibration: Calibration
    examples: CalibrationSet
    seconds: float


class Session:
    """Values shared by consecutive runs; keeps one of each kind."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[str, Any]] = {}

    def _shared(self, kind: str, key: dict[str, Any], make: Callable[[], T]) -> T:
        text = json.dumps(key, sort_keys=True)
        if kind not in self._values or self._values[kind][0] != text:
            # Free what is old before making what is new; all else belongs to the dense model.
            self._values.pop(kind, None)
            if kind == "dense":
                self._values.clear()
            self._values[kind] = (text, make())
        return self._values[kind][1]

    def dense(self, config: RunConfig) -> DenseModel:
        """The dense model with its task head, and its data."""
        return self._shared("dense", _dense_key(config), lambda: _load_dense(config))

    def dense_outputs(self, config: RunConfig) -> Any:
        """What the evaluations of several pruned models share of the dense one."""
        dense = self.dense(config)
        key = {**_dense_key(config), "evaluation": asdict(config.evaluation)}
        return self._shared(
            "outputs",
            key,
            lambda: dense.workload.dense_outputs(dense.loaded.model, config.evaluation),
        )

    def calibrated(self, config: RunConfig) -> CalibratedModel:
        """Dense statistics over the calibration set of this seed."""
        dense = self.dense(config)
        key = {**_dense_key(config), "calibration": asdict(config.calibration), "seed": config.seed}
        return self._shared("calibration", key, lambda: _calibrate(dense, config))


def _dense_key(config: RunConfig) -> dict[str, Any]:
    return {
        "model": asdict(config.model),
        "dataset": asdict(config.dataset),
        "finetune": asdict(config.finetune),
        "device": config.device,
        "dtype": config.dtype,
    }


def _load_dense(config: RunConfig) -> DenseModel:
    device = resolve_device(config.device)
    folder = checkpoint_folder(config.model)
    base_hash = hash_files(folder)
    language = config.dataset.task == "language_modeling"
    has_head = has_task_head(folder, config.dataset.task)
    if language:
        if not has_head:
            raise ConfigError(
                f"{config.model.path} is no causal language model, which {config.dataset.name} "
                "(perplexity) needs; choose another model or a dataset with labels"
            )
        text = load_text_data(config.dataset)
    else:
        data = load_task_data(config.dataset)
        data.split(config.evaluation.split)  # a missing part is told before anything is trained
    finetuned = not has_head
    if finetuned:
        if not config.finetune.enabled:
            raise ConfigError(
                f"{config.model.path} has no trained {config.dataset.task} head and finetune=none; "
                "give a task checkpoint (model=hf model.path=...) or choose finetune=standard"
            )
        folder = task_checkpoint(
            folder, base_hash, data, config.finetune, config.dataset.max_length, device
        )
    loaded = load_checkpoint(
        folder,
        config.dataset.task,
        config.dtype,
        device,
        trust_remote_code=config.model.trust_remote_code,
    )
    workload: Workload
    if language:
        workload = WindowWorkload(text, config.dataset, loaded.tokenizer)
    else:
        _check_labels(data, loaded, config)
        workload = SentenceWorkload(data, config.dataset, loaded.tokenizer)
    return DenseModel(
        loaded=loaded,
        workload=workload,
        base_hash=base_hash,
        model_hash=hash_files(folder),
        finetuned=finetuned,
    )


def _check_labels(data: TaskData, loaded: LoadedModel, config: RunConfig) -> None:
    """Refuse a checkpoint whose outputs are not the data's labels.

    Names in another order would score the right answers as wrong ones. A checkpoint without names
    (LABEL_0, ...) can only be checked for their number.
    """
    model_config = loaded.model.config
    expected = ("a number",) if data.label_names is None else data.label_names
    names = tuple(model_config.id2label[i] for i in range(model_config.num_labels))
    same_set = {n.lower() for n in names} == {n.lower() for n in expected}
    reordered = same_set and [n.lower() for n in names] != [n.lower() for n in expected]
    if len(names) != len(expected) or reordered:
        raise ConfigError(
            f"{config.model.path} has the outputs {list(names)}, the data set {data.name} needs "
            f"{list(expected)}, in this order (class numbers in the label column are taken as the "
            "checkpoint's own)"
        )


def _calibrate(dense: DenseModel, config: RunConfig) -> CalibratedModel:
    examples = dense.workload.calibration(config.calibration, config.seed)
    watch = Stopwatch(dense.loaded.model.device)
    with watch.stage("calibrate_s"):
        calibration = calibrate(
            dense.loaded.model, examples, statistics=config.calibration.statistics
        )
    return CalibratedModel(calibration, examples, watch.seconds["calibrate_s"])
