"""The schema of a whole run, its typed form, and what identifies its result.

`ratio` is the share of the prunable multiply-accumulates (MACs) that is *removed*, so the `mu` of
the STAT paper's code is `1 - ratio`. Records store what was realised.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue

from stat_repro.config.checks import ConfigError, at_least, file_name, one_of
from stat_repro.config.data import CostConfig, DatasetConfig, EvaluationConfig
from stat_repro.config.model import FinetuneConfig, ModelConfig
from stat_repro.config.pruning import (
    SUPERVISED,
    CalibrationConfig,
    PruningConfig,
    check_engine,
    check_statistics,
)

TRACKING_MODES = ("offline", "online", "disabled")
DTYPES = ("float32", "float64", "bfloat16", "float16")
IF_STORED = ("skip", "repeat")
# The records of this study are those of the benchmark (`python -m stat_repro.bench`), not of runs.
SPEED_STUDY = "speed"

# Keys that decide where a run goes and how fast it is, but not what it finds.
_NEUTRAL = (
    *("tracking", "study", "results", "device", "save_to", "if_stored"),
    *("calibration.batch_size", "evaluation.batch_size", "dataset.evaluation_split"),
    "evaluation.keep_examples",
    *("dataset.calibration_examples", "dataset.calibration_batch_size"),
)
# Keys that joined the schema after runs had been stored. At their default they mean what those
# runs did, so they take no part in the id then. Their defaults must never change.
_LATER = (
    *("round_to", "cost", "model.labels", "evaluation.zero_shot", "dataset.answers"),
    *("dataset.path", "dataset.revision", "dataset.held_out", "dataset.calibration_split"),
    *("dataset.calibration_corpus", "dataset.calibration_path", "dataset.bos"),
    *("calibration.sketch", "calibration.sketch_size", "calibration.engine"),
    *("pruning.refit", "pruning.sensitivity_tokens", "pruning.kinds", "pruning.scaling"),
    "pruning.curvature",
)


@dataclass
class TrackingConfig:
    """The Weights & Biases mirror of the records; never read back."""

    mode: str = "offline"
    project: str = "stat_repro"
    entity: str | None = None

    def __post_init__(self) -> None:
        one_of("tracking.mode", self.mode, TRACKING_MODES)


@dataclass
class RunConfig:
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
        save_to: Folder under which the pruned model is saved as `<save_to>/<run_id>`; null: not.
        if_stored: `skip` a point whose record exists, or `repeat` it under a new file.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    ratio: float = 0.5
    round_to: int = 1
    seed: int = 0
    study: str = "local"
    results: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    save_to: str | None = None
    if_stored: str = "skip"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ConfigError(
                f"ratio: expected 0 <= ratio < 1 (share of the MACs removed); got {self.ratio}"
            )
        at_least("seed", self.seed, 0)
        one_of("dtype", self.dtype, DTYPES)
        one_of("if_stored", self.if_stored, IF_STORED)
        file_name("study", self.study)
        if self.study == SPEED_STUDY:
            raise ConfigError(
                f"study={SPEED_STUDY}: kept for python -m stat_repro.bench; choose another name"
            )
        at_least("round_to", self.round_to, 1)
        if self.pruning.authors_compat and self.round_to > 1:
            raise ConfigError(
                "pruning.authors_compat=true repeats the authors' script, which rounds no sizes: "
                f"expected round_to=1; got {self.round_to}"
            )
        self._check_parts()

    def _check_parts(self) -> None:
        check_statistics(self.calibration.statistics, self.pruning)
        check_engine(self.calibration.engine, self.calibration.statistics, self.pruning)
        data, split = self.dataset, self.evaluation.split
        own_text = data.task == "language_modeling" and not data.source.startswith("corpus:")
        if own_text and split != "test":
            raise ConfigError(
                f"evaluation.split: {data.source} has only a test part; got {split!r}"
            )
        if self.pruning.method in SUPERVISED and data.task == "question_answering":
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


def from_hydra(cfg: DictConfig) -> RunConfig:
    """The typed, checked form of a composed configuration.

    Going through a plain container rejects keys outside the schema also where they were added
    with `+`, which a merge of the composed object would let pass.

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
    return config


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain JSON types, nested as the schema."""
    return asdict(config)


def _level(data: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted key, and the last part of the key."""
    *path, last = key.split(".")
    for part in path:
        data = data[part]
    return data, last


def _leaves(tree: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Values of nested settings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = f"{name}.{key}" if name else key
        found |= _leaves(value, inner) if isinstance(value, dict) else {inner: value}
    return found


def _changing(config: RunConfig) -> dict[str, Any]:
    """The configuration without the keys that change no result."""
    data = to_dict(config)
    for key in _NEUTRAL:
        level, last = _level(data, key)
        del level[last]
    return data


def neutral_keys() -> frozenset[str]:
    """Dotted names of the keys that change no result."""
    default = RunConfig()
    return frozenset(_leaves(to_dict(default))) - frozenset(_leaves(_changing(default)))


def later_defaults() -> dict[str, Any]:
    """Defaults, by dotted name, of keys that records of earlier versions do not have."""
    default = _leaves(to_dict(RunConfig()))
    wanted = tuple(f"{key}." for key in (*_LATER, "dataset.evaluation_split"))
    return {key: value for key, value in default.items() if f"{key}.".startswith(wanted)}


def result_config(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that the result depends on."""
    data, default = _changing(config), to_dict(RunConfig())
    for key in _LATER:
        level, last = _level(data, key)
        same, _ = _level(default, key)
        if level[last] == same[last]:
            del level[last]
    if not config.cost.enabled:
        data.pop("cost", None)
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
