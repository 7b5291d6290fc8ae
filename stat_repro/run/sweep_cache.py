"""What the points of a sweep share: the dense model, its outputs, its statistics.

A sweep over ratios needs the same dense model and the same calibration again and again, one over
evaluated texts the same calibration. The cache keeps the latest of each, by what determines it, so
that the results of a sweep are those of separate runs.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stat_repro import workloads
from stat_repro.api import calibrate
from stat_repro.assets.cache import stamps
from stat_repro.calibration.capture import Calibration
from stat_repro.calibration.sketch import Sketch
from stat_repro.config import METHODS, AnswerConfig, ConfigError, PruningConfig, RunConfig
from stat_repro.data.squad import QuestionData, load_questions
from stat_repro.data.task_data import TaskData, load_task_data
from stat_repro.data.text_data import TextData, load_text_data
from stat_repro.evaluation.zero_shot import check_tokenizer
from stat_repro.evaluation.zero_shot_tasks import load_tasks
from stat_repro.finetune.recipe import has_task_head, task_checkpoint
from stat_repro.measure import Stopwatch, resolve_device
from stat_repro.models.loading import LoadedModel, checkpoint_folder, load_checkpoint, load_config
from stat_repro.models.modeling_stat import LAYOUTS
from stat_repro.models.outputs import OutputOrder, match_outputs, output_names
from stat_repro.models.positions import positions_of
from stat_repro.parallel import first_rank_first, same_everywhere
from stat_repro.results.provenance import hash_files
from stat_repro.workloads.windows import tasks_of

log = logging.getLogger("stat_repro")
T = TypeVar("T")
_OF_MODEL = ("model", "finetune", "device", "dtype")  # what makes a dense model another one
Data = TaskData | QuestionData | TextData


@dataclass(frozen=True)
class DenseModel:
    """The dense model of a run and the data prepared for it.

    Attributes:
        loaded: Model, tokenizer and folder.
        workload: The data set for this tokenizer.
        base_hash: sha256 of the checkpoint that was given.
        model_hash: sha256 of the checkpoint that is pruned (after fine-tuning, if any).
        given: Folder of the checkpoint that was given.
    """

    loaded: LoadedModel
    workload: workloads.Workload
    base_hash: str
    model_hash: str
    given: Path

    @property
    def finetuned(self) -> bool:
        """Whether the task head was trained here."""
        return self.loaded.folder != self.given


@dataclass(frozen=True)
class CalibratedModel:
    """Statistics of the dense model.

    Attributes:
        calibration: Statistics of all sites, or none if the method needs none.
        examples: The calibration set.
        seconds: Time of the calibration pass.
    """

    calibration: Calibration
    examples: workloads.CalibrationSet
    seconds: float


class SweepCache:
    """Values shared by consecutive runs; keeps one of each kind."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[str, Any]] = {}

    def _shared(self, kind: str, key: dict[str, Any], make: Callable[[], T]) -> T:
        text = json.dumps(key, sort_keys=True)
        if kind not in self._values or self._values[kind][0] != text:
            # Freed first: the old value, and what was made of it. Other data may share statistics.
            old = json.loads(self._values.pop(kind, ("{}",))[0])
            if kind == "dense":
                kept = "calibration" if all(old.get(n) == key[n] for n in _OF_MODEL) else None
                self._values = {k: v for k, v in self._values.items() if k == kept}
            self._values[kind] = (text, make())
        return self._values[kind][1]

    def clear(self) -> None:
        """Forget all of them."""
        self._values.clear()

    def dense(self, config: RunConfig) -> DenseModel:
        """The dense model with its task head, whose training needs the memory of all else."""
        return self._shared("dense", _dense_key(config), lambda: _load_dense(config, self.clear))

    def dense_outputs(self, config: RunConfig, dense: DenseModel | None = None) -> Any:
        """Outputs of the dense model (of `dense`, if given) for several pruned ones."""
        dense = dense or self.dense(config)
        key = {"of": self._values["dense"][0], "evaluation": asdict(config.evaluation)}
        outputs, model = dense.workload.dense_outputs, dense.loaded.model
        return self._shared("outputs", key, lambda: outputs(model, config.evaluation))

    def calibrated(self, config: RunConfig, dense: DenseModel | None = None) -> CalibratedModel:
        """The calibration set of this seed, with what the run's method needs."""
        dense = dense or self.dense(config)
        settings = {"calibration": asdict(config.calibration), "seed": config.seed}
        draw = partial(dense.workload.calibration, config.calibration, config.seed)
        examples = self._shared("examples", {"of": self._values["dense"][0]} | settings, draw)
        # By their content: another text may be evaluated after the same calibration.
        where = [config.device, config.dtype, dense.workload.sequence_length]
        key = settings | {"of": [dense.model_hash, examples.digest], "where": where}
        # Kept apart, so that a sweep over methods does not take statistics twice.
        taken = config.pruning.needs_statistics(config.calibration.engine)
        kind, pruning = ("calibration", None) if taken else ("counts", config.pruning)
        calibrated = self._shared(kind, key, lambda: _calibrate(dense, examples, config, pruning))
        if METHODS[config.pruning.method].reads_labels:
            examples = draw(labels=True)
        return replace(calibrated, examples=examples)


def _dense_key(config: RunConfig) -> dict[str, Any]:
    values, data = asdict(config), config.dataset
    language = data.task == "language_modeling"
    # Of a text only the evaluated part is loaded, of a table all parts.
    key: dict[str, Any] = {"split": config.evaluation.split if language else None}
    paths = [config.model.path, data.train, data.validation, data.test, data.path]
    paths += [data.calibration_path, config.evaluation.zero_shot.include]
    # Local files may be changed while a long sweep runs.
    key["files"] = [stamps(Path(path).expanduser()) for path in paths if path is not None]
    return key | {name: values[name] for name in (*_OF_MODEL, "dataset")}


def _load_dense(config: RunConfig, before_training: Callable[[], None]) -> DenseModel:
    include = config.evaluation.zero_shot.include
    if include is not None and Path(include).expanduser().exists():  # files may have been changed
        load_tasks.cache_clear()
    device = resolve_device(config.device)
    with first_rank_first():  # it downloads and trains; the others use its files
        config = within_positions(config)
        given = checkpoint_folder(config.model)
        base_hash = hash_files(given)
        folder, data = _prepared(config, given, base_hash, before_training)
    model_hash = base_hash if folder == given else hash_files(folder)
    same_everywhere("weights of the dense model (sha256)", model_hash)
    task, code = config.dataset.task, config.model.trust_remote_code
    loaded = load_checkpoint(folder, task, config.dtype, device, trust_remote_code=code)
    workload = workload_of(data, loaded, config)
    return DenseModel(loaded, workload, base_hash, model_hash, given)


def within_positions(config: RunConfig) -> RunConfig:
    """The configuration with default lengths that the model can read."""
    data = config.dataset
    key = "window" if data.task == "language_modeling" else "max_length"
    most = positions_of(load_config(checkpoint_folder(config.model))) if data.at_most else None
    if most is None or most >= (usual := getattr(data, key)):
        return config
    log.warning("dataset.%s: %d, the model's positions, instead of %d", key, most, usual)
    if data.task == "question_answering" and data.answers.stride == AnswerConfig().stride:
        data = replace(data, answers=replace(data.answers, stride=most // 3))  # as 128 of 384
        log.warning("dataset.answers.stride: %d, a third of that", most // 3)
    return replace(config, dataset=replace(data, **{key: most}))  # type: ignore[arg-type]


def _prepared(
    config: RunConfig, folder: Path, base_hash: str, before_training: Callable[[], None]
) -> tuple[Path, Data]:
    """A checkpoint for the task, and its data; the head is trained if there is none."""
    has_head = has_task_head(folder, config.dataset.task)
    _check_override(config, has_head)
    if config.dataset.task == "language_modeling" and not has_head:
        raise ConfigError(
            f"model.path: expected a causal language model for {config.dataset.name} "
            f"(perplexity); got {config.model.path}; choose another model or a dataset with labels"
        )
    data = load_data(config)
    if has_head or isinstance(data, TextData):
        return folder, data
    if not config.finetune.enabled:
        raise ConfigError(
            f"model.path: expected a trained {config.dataset.task} head where finetune=none; got "
            f"{config.model.path}; choose a task checkpoint (model=hf model.path=...) or "
            "finetune=standard"
        )
    length, stride = config.dataset.max_length, config.dataset.answers.stride
    device = resolve_device(config.device)
    return task_checkpoint(
        folder, base_hash, data, config.finetune, length, device, stride, before_training
    ), data


def load_data(config: RunConfig) -> Data:
    """The data set, or an error for a missing part before anything is trained."""
    split = config.evaluation.split
    if config.dataset.task == "language_modeling":
        tasks_of(config.evaluation)  # kept for the evaluations
        return load_text_data(config.dataset, split)
    questions = config.dataset.task == "question_answering"
    data = load_questions(config.dataset) if questions else load_task_data(config.dataset)
    data.split(split)
    return data


def workload_of(data: Data, loaded: LoadedModel, config: RunConfig) -> workloads.Workload:
    """The data set for a model, of which only configuration and tokenizer are read."""
    positions = positions_of(loaded.model.config)
    if isinstance(data, TextData):
        if (tasks := tasks_of(config.evaluation)) is not None:
            check_tokenizer(loaded.tokenizer, tasks)  # before the work
        return workloads.WindowWorkload(data, config.dataset, loaded.tokenizer, positions)
    if isinstance(data, QuestionData):
        return workloads.QuestionWorkload(data, config.dataset, loaded.tokenizer, positions)
    if data.task == "similarity":
        pairs = workloads.SimilarityWorkload
        return pairs(data, config.dataset, loaded.tokenizer, positions=positions)
    outputs = _output_order(data, loaded, config)
    return workloads.SentenceWorkload(data, config.dataset, loaded.tokenizer, outputs, positions)


def _check_override(config: RunConfig, has_head: bool) -> None:
    """Refuse names for outputs of a head that is trained here, or that are no classes."""
    task, labels = config.dataset.task, config.model.labels
    if labels is not None and not (has_head and task == "classification"):
        trained = "the head is trained here and has the data set's names"
        reason = trained if task == "classification" else f"task {task} has no classes"
        raise ConfigError(f"model.labels: expected null, because {reason}; got {labels}")


def _output_order(data: TaskData, loaded: LoadedModel, config: RunConfig) -> OutputOrder:
    """How to read the checkpoint's outputs as the data's labels; refused where they do not fit."""
    model: Any = loaded.model.config
    names = output_names(model)
    usual = "regression" if data.label_names is None else "single_label_classification"
    if model.problem_type not in (None, usual):
        raise ConfigError(
            f"model.path: expected problem_type={usual} in its config, as {data.name} has it; got "
            f"{model.problem_type} in {config.model.path}"
        )
    pad = loaded.tokenizer.pad_token_id
    layout = LAYOUTS.get(model.model_type)
    if layout is not None and layout.decoder and pad is not None and model.pad_token_id != pad:
        raise ConfigError(
            f"model.path: expected pad_token_id={pad} in the config of a decoder that classifies, "
            "as its tokenizer pads with it, because the last token that is none is read; got "
            f"{model.pad_token_id} in {config.model.path}"
        )
    if data.label_names is None:
        if len(names) != 1:
            raise ConfigError(
                f"model.path: expected one output, a number, for {data.name}; got "
                f"{config.model.path} with the outputs [{', '.join(names)}]"
            )
        return OutputOrder()
    return match_outputs(
        names,
        data.label_names,
        labels=config.model.labels,
        names_needed=data.glue is not None and data.glue.disputed_order,
        checkpoint=config.model.path,
        data=data.name,
    )


def _calibrate(
    dense: DenseModel,
    examples: workloads.CalibrationSet,
    config: RunConfig,
    pruning: PruningConfig | None,
) -> CalibratedModel:
    same_everywhere("calibration examples (sha256)", examples.digest)
    model, watch = dense.loaded.model, Stopwatch(dense.loaded.model.device)
    with watch.stage("calibrate_s"):
        calibration = calibrate(
            model,
            examples.batches,
            statistics=config.calibration.statistics,
            sketch=sketch_of(config),
            config=pruning,
            engine=config.calibration.engine,
        )
    return CalibratedModel(calibration, examples, watch.seconds["calibrate_s"])


def sketch_of(config: RunConfig) -> Sketch | None:
    """The sketch that a configuration asks for, None where it asks for other statistics."""
    kind, size = config.calibration.sketch, config.calibration.sketch_size
    return None if kind is None else Sketch(kind, size, config.seed)
