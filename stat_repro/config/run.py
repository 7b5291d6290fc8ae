"""The schema of a whole run, its typed form, and what identifies its result.

`ratio` is the share of the prunable multiply-accumulates (MACs) that is *removed*, so the `mu` of
the STAT paper's code is `1 - ratio`. Records store what was realised.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue

from stat_repro.config.checks import MAX_SEED, ConfigError, Section, setting
from stat_repro.config.data import CostConfig, DatasetConfig, EvaluationConfig
from stat_repro.config.methods import METHODS
from stat_repro.config.model import FinetuneConfig, ModelConfig, RecoveryConfig
from stat_repro.config.pruning import CalibrationConfig, PruningConfig, check_target

TRACKING_MODES = ("offline", "online", "disabled")
DTYPES = ("float32", "float64", "bfloat16", "float16")
# The records of this study are those of the benchmark (`python -m stat_repro.bench`), not of runs.
SPEED_STUDY = "speed"


@dataclass
class TrackingConfig(Section, name="tracking"):
    """The Weights & Biases mirror of the records; never read back."""

    mode: str = setting("offline", choices=TRACKING_MODES)
    project: str = "stat_repro"
    entity: str | None = None


@dataclass
class RunConfig(Section):
    """Everything one run needs.

    Attributes:
        ratio: Share of the prunable MACs that is removed, 0 <= ratio < 1.
        round_to: Neurons kept per layer are a multiple of this where the layer loses any; the
            total stays within the budget.
        seed: Seed of the calibration draw.
        study: Folder of the record below `results`.
        results: Folder of all studies; null for `results/` of the clone.
        device: `auto`, `cpu`, `cuda`, `cuda:<i>` or `mps`.
        dtype: Data type of the model; factorisations are float64 whatever it is.
        save_dtype: Data type of the saved weights; the pruned model is rounded to it before it is
            evaluated. null for `dtype`.
        save_to: Folder under which the pruned model is saved as `<save_to>/<run_id>`; null saves
            none.
        if_stored: `skip` a point whose record exists, or `repeat` it under a new file.
    """

    model: ModelConfig = setting(ModelConfig)
    dataset: DatasetConfig = setting(DatasetConfig)
    finetune: FinetuneConfig = setting(FinetuneConfig)
    calibration: CalibrationConfig = setting(CalibrationConfig)
    pruning: PruningConfig = setting(PruningConfig)
    recovery: RecoveryConfig = setting(RecoveryConfig, later=True)
    evaluation: EvaluationConfig = setting(EvaluationConfig)
    tracking: TrackingConfig = setting(TrackingConfig, neutral=True)
    cost: CostConfig = setting(CostConfig, later=True)
    ratio: float = 0.5
    round_to: int = setting(1, later=True)
    seed: int = setting(0, low=0, high=MAX_SEED)
    study: str = setting("local", file_name=True, neutral=True)
    results: str | None = setting(None, neutral=True)
    device: str = setting("auto", neutral=True)
    dtype: str = setting("float32", choices=DTYPES)
    save_dtype: str | None = setting(None, choices=DTYPES, later=True)
    save_to: str | None = setting(None, neutral=True)
    if_stored: str = setting("skip", choices=("skip", "repeat"), neutral=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.study == SPEED_STUDY:
            raise ConfigError(
                f"study={SPEED_STUDY}: kept for python -m stat_repro.bench; choose another name"
            )
        check_target(
            self.pruning,
            ratio=self.ratio,
            round_to=self.round_to,
            statistics_kind=self.calibration.statistics,
            engine=self.calibration.engine,
        )
        self._check_data()

    def _check_data(self) -> None:
        data, split = self.dataset, self.evaluation.split
        one_part = data.task == "language_modeling" and not data.source.startswith("corpus:")
        if one_part and split != "test":
            raise ConfigError(
                f"evaluation.split: {data.source} has only a test part; got {split!r}"
            )
        self._check_read()
        self._check_recovery()
        if METHODS[self.pruning.method].reads_labels and data.task == "question_answering":
            raise ConfigError(
                f"pruning.method={self.pruning.method} learns from labels of classes, numbers or "
                f"running text: expected another dataset.task; got {data.task}"
            )
        if self.evaluation.zero_shot.tasks and data.task != "language_modeling":
            raise ConfigError(
                "evaluation.zero_shot.tasks run on causal language models: expected "
                f"dataset.task=language_modeling; got {data.task!r}"
            )
        if data.calibration_split == split and data.calibration_corpus is None:
            raise ConfigError(
                f"dataset.calibration_split and evaluation.split: expected two different parts, "
                f"because a model must not be calibrated on what it is evaluated on; got {split!r} "
                "for both"
            )

    def _check_read(self) -> None:
        """Refuse settings of the data set that its task does not read."""
        data, usual = self.dataset, DatasetConfig()
        for one in fields(usual):
            tasks = one.metadata.get("tasks", (data.task,))
            if data.task not in tasks and getattr(data, one.name) != getattr(usual, one.name):
                raise ConfigError(
                    f"dataset.{one.name}: expected its default where dataset.task={data.task}, "
                    f"which does not read it; it is for {', '.join(tasks)}"
                )

    def _check_recovery(self) -> None:
        method, task = self.recovery.method, self.dataset.task
        if method in ("finetune", "lora") and task in ("question_answering", "similarity"):
            raise ConfigError(
                f"recovery.method={method} learns from labels of classes, numbers or running "
                f"text: expected another dataset.task; got {task} (choose recovery=distill)"
            )
        if method != "none" and self.dtype not in ("float32", "float64"):
            raise ConfigError(
                f"recovery.method={method} trains the weights: expected dtype=float32 or float64; "
                f"got {self.dtype}; choose recovery.bfloat16=true for the speed of bfloat16"
            )
        if method != "none" and self.recovery.bfloat16 and self.dtype == "float64":
            raise ConfigError(
                "recovery.bfloat16=true: expected dtype=float32, as autocast leaves float64 as it "
                "is; got float64; choose recovery.bfloat16=false, or dtype=float32"
            )


def from_hydra(cfg: DictConfig) -> RunConfig:
    """The typed, checked form of a composed configuration.

    The configuration becomes a plain container first. Otherwise keys outside the schema that were
    added with `+` would not be noticed.

    Raises:
        ConfigError: A value out of range, a missing value, or a combination that makes no sense.
        omegaconf.errors.OmegaConfBaseException: An unknown key or a wrong type.
    """
    plain = OmegaConf.to_container(cfg, resolve=True)
    schema = OmegaConf.structured(RunConfig)
    try:
        merged = OmegaConf.merge(schema, plain)
    except ConfigKeyError as error:
        full_key = str(error.full_key)
        level = OmegaConf.select(schema, full_key.rpartition(".")[0] or "@") or schema
        raise ConfigError(
            f"unknown key {full_key}; valid here: {', '.join(str(key) for key in level)}"
        ) from None
    try:
        config = OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        raise ConfigError(f"missing value: give {error.full_key}=<value>") from None
    assert isinstance(config, RunConfig)
    # A default adapts to what there is; a value that was asked for does not.
    config.calibration.at_most |= OmegaConf.is_interpolation(cfg.calibration, "examples")
    config.dataset.at_most |= any(
        OmegaConf.is_interpolation(cfg.dataset, key) for key in ("max_length", "window")
    )
    return config


def from_dict(data: dict[str, Any]) -> RunConfig:
    """The configuration of a stored run; settings that its record is too old to have are defaults.

    Raises:
        ConfigError: A key outside the schema, or a value that it does not allow.
    """
    return _filled(RunConfig(), data, "")


def _filled(section: Any, data: dict[str, Any], name: str) -> Any:
    values = {}
    for key, value in data.items():
        usual = getattr(section, key, None)
        if not hasattr(section, key) or is_dataclass(usual) != isinstance(value, dict):
            raise ConfigError(f"{name}{key}: expected a key of the schema; got {value!r}")
        values[key] = _filled(usual, value, f"{name}{key}.") if is_dataclass(usual) else value
    filled = replace(section, **values)
    for key, value in values.items():
        setattr(filled, key, value)  # as it ran, also where settings are rounded by now
    return filled


def defaults_noted(note: str) -> dict[str, Any]:
    """Defaults, by dotted name, of the settings that have this note, or whose section has it.

    Args:
        note: `neutral` or `later`, see `setting`.
    """

    def walk(section: Any, prefix: str, inside: bool) -> Iterator[tuple[str, Any]]:
        for one in fields(section):
            value, here = getattr(section, one.name), inside or note in one.metadata
            if is_dataclass(value):
                yield from walk(value, f"{prefix}{one.name}.", here)
            elif here:
                yield f"{prefix}{one.name}", value

    return dict(walk(RunConfig(), "", False))


def _identifying(section: Any, default: Any) -> dict[str, Any]:
    """The settings that take part in the run id, see `setting`."""
    data: dict[str, Any] = {}
    for one in fields(section):
        value, usual = getattr(section, one.name), getattr(default, one.name)
        if "neutral" in one.metadata or ("later" in one.metadata and value == usual):
            continue
        data[one.name] = _identifying(value, usual) if is_dataclass(value) else value
    return data


_USUAL = RunConfig()


def result_config(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that the result depends on."""
    data = _identifying(config, _USUAL)
    if not config.cost.enabled:
        data.pop("cost", None)
    if config.recovery.method == "none":
        data.pop("recovery", None)
    if config.dataset.task == "language_modeling":
        del data["finetune"]
    return data


def run_id(config: RunConfig) -> str:
    """Readable, stable name of a run: equal exactly when the result-changing config is equal."""
    text = json.dumps(result_config(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return (
        f"{config.model.name}-{config.dataset.name}-{config.pruning.method}"
        f"-r{config.ratio:g}-s{config.seed}-{digest}"
    )
