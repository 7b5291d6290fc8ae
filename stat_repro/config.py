"""The schema of a run, and the checks that need more than one key.

`ratio` is the share of the prunable multiply-accumulates (MACs) that is *removed*, so the `mu` of
the STAT paper's code is `1 - ratio`. Records store what was realised.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue

TASKS = ("classification", "regression", "language_modeling")
METHODS = ("stat",)
ALLOCATIONS = ("global", "uniform")
CORRECTIONS = ("lstsq", "none")
STATISTICS = ("gram", "exact")
RECIPES = ("auto", "encoder", "decoder")
TRACKING_MODES = ("offline", "online", "disabled")
DTYPES = ("float32", "float64", "bfloat16", "float16")
IF_STORED = ("skip", "repeat")


class ConfigError(ValueError):
    """A configuration that cannot be run; says what was expected, what was got, what is valid."""


def _one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ConfigError(f"{key}: expected one of {', '.join(valid)}; got {value!r}")


def _file_name(key: str, value: str) -> None:
    """Labels become parts of file names."""
    if value != MISSING and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
        raise ConfigError(
            f"{key}: expected letters, digits, '_', '-' and '.' (it names files); got {value!r}"
        )


def _at_least(key: str, value: float | None, low: float) -> None:
    if value is not None and not value >= low:
        raise ConfigError(f"{key}: expected a value of at least {low}; got {value}")


@dataclass
class ModelConfig:
    """The dense model.

    Attributes:
        name: Label in records and tables.
        path: `asset:<name>` for a packaged model, else a local folder or a Hugging Face name.
        revision: Revision on the hub; ignored for folders.
        trust_remote_code: Whether code of the model's folder may run. Off unless asked for.
    """

    name: str = MISSING
    path: str = MISSING
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        _file_name("model.name", self.name)


@dataclass
class FinetuneConfig:
    """How an encoder without a task head becomes a task checkpoint.

    Attributes:
        enabled: Train when the checkpoint lacks the task's head; if false that is an error.
        epochs: Passes over the training split.
        max_examples: Train on the first so many examples of the shuffled split; all if null.
        batch_size: Sentences per step.
        learning_rate: Peak of the linear warm-up and decay.
        warmup_fraction: Share of the steps that warm up.
        weight_decay: AdamW decay of matrices (biases and norms have none).
        seed: Seed of head initialisation, order and dropout; apart from the calibration seed.
        bfloat16: Autocast the forward pass to bfloat16.
    """

    enabled: bool = True
    epochs: int = 2
    max_examples: int | None = None
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        _at_least("finetune.epochs", self.epochs, 1)
        _at_least("finetune.batch_size", self.batch_size, 1)
        _at_least("finetune.max_examples", self.max_examples, 1)
        if not self.learning_rate > 0:
            raise ConfigError(f"finetune.learning_rate: expected > 0; got {self.learning_rate}")
        if not 0 <= self.warmup_fraction <= 1:
            raise ConfigError(
                f"finetune.warmup_fraction: expected 0 to 1; got {self.warmup_fraction}"
            )


@dataclass
class DatasetConfig:
    """What the model is calibrated and evaluated on.

    Attributes:
        name: Label in records and tables.
        task: One of `TASKS`.
        source: `asset:<name>` for packaged data, `table` or `text` for files of the user.
        train: File of the calibration (and fine-tuning) part; files of the user only.
        validation: File of the validation part, may be null.
        test: File of the evaluated part.
        text_column: Column of the (first) sentence.
        text_pair_column: Column of the second sentence; null for single sentences.
        label_column: Column of the label: class index or name, or a number for regression.
        max_length: Tokens after which a sentence is cut (classification, regression).
        window: Tokens per window (language modelling).
        join: String between documents before tokenising (language modelling).
        calibration_examples: Default number of calibration sentences or windows.
        calibration_batch_size: Default number of them per forward pass.
    """

    name: str = MISSING
    task: str = MISSING
    source: str = MISSING
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    max_length: int = 128
    window: int = 512
    join: str = "\n"
    calibration_examples: int = 512
    calibration_batch_size: int = 32

    def __post_init__(self) -> None:
        _file_name("dataset.name", self.name)
        if self.task != MISSING:
            _one_of("dataset.task", self.task, TASKS)
        _at_least("dataset.max_length", self.max_length, 2)
        _at_least("dataset.window", self.window, 2)
        _at_least("dataset.calibration_examples", self.calibration_examples, 1)


@dataclass
class CalibrationConfig:
    """The examples whose activations are decomposed.

    Attributes:
        examples: Calibration sentences or windows, drawn from the training part with `seed`.
        batch_size: Examples per forward pass; does not change the result beyond rounding.
        replacement: Draw with replacement, as the authors' code does.
        statistics: `gram` (streamed sums) or `exact` (stored activations, pivoted QR).
    """

    examples: int = 512
    batch_size: int = 32
    replacement: bool = False
    statistics: str = "gram"

    def __post_init__(self) -> None:
        _one_of("calibration.statistics", self.statistics, STATISTICS)
        _at_least("calibration.examples", self.examples, 1)
        _at_least("calibration.batch_size", self.batch_size, 1)


@dataclass
class PruningConfig:
    """How units are chosen and what is folded.

    Attributes:
        method: Name in the registry of `stat_repro.methods`.
        recipe: `encoder` (depth weights 1 + sqrt(L - l + 1)) or `decoder` (exponential depth fit,
            late-head bonus); `auto` follows the model.
        allocation: `global` (one ranking over all layers) or `uniform` (equal sizes per layer).
        correction: `lstsq` folds the interpolation into the consumer, `none` only selects.
        ridge: Ridge of the least squares, relative to the mean squared column norm.
        min_units: Units that every site keeps at least.
        balance_factor: Factor of the mean neuron residual in the balance of heads and neurons.
        neuron_mac_share: FFN share of the prunable MACs used for the budget; null computes it.
        head_bonus: Decoder recipe: the i-th of H head errors of a layer is scaled by
            head_bonus^(H - i).
        authors_compat: Repeat the recorded slips of the authors' BERT script.
    """

    method: str = "stat"
    recipe: str = "auto"
    allocation: str = "global"
    correction: str = "lstsq"
    ridge: float = 0.0
    min_units: int = 1
    balance_factor: float = 2.0
    neuron_mac_share: float | None = None
    head_bonus: float = 1.125
    authors_compat: bool = False

    def __post_init__(self) -> None:
        _one_of("pruning.method", self.method, METHODS)
        _one_of("pruning.recipe", self.recipe, RECIPES)
        _one_of("pruning.allocation", self.allocation, ALLOCATIONS)
        _one_of("pruning.correction", self.correction, CORRECTIONS)
        _at_least("pruning.ridge", self.ridge, 0)
        _at_least("pruning.min_units", self.min_units, 0)
        _at_least("pruning.balance_factor", self.balance_factor, 0)
        if not self.head_bonus > 0:
            raise ConfigError(f"pruning.head_bonus: expected > 0; got {self.head_bonus}")
        if self.neuron_mac_share is not None and not 0 < self.neuron_mac_share < 1:
            raise ConfigError(
                f"pruning.neuron_mac_share: expected between 0 and 1; got {self.neuron_mac_share}"
            )
        if self.authors_compat:
            self._check_compat()

    def _check_compat(self) -> None:
        wanted = {"allocation": "global", "correction": "lstsq", "ridge": 0.0, "min_units": 0}
        for key, value in wanted.items():
            if getattr(self, key) != value:
                raise ConfigError(
                    f"pruning.authors_compat=true repeats the authors' script, which knows only "
                    f"{key}={value}; got {key}={getattr(self, key)} (pruning=stat_authors sets all)"
                )
        if self.recipe == "decoder":
            raise ConfigError("pruning.authors_compat=true repeats the BERT script: recipe=decoder")


@dataclass
class EvaluationConfig:
    """What is measured on the dense and on the pruned model.

    Attributes:
        split: Part of the data set that is evaluated.
        max_examples: Evaluate the first so many examples or windows; all if null.
        batch_size: Examples per forward pass.
    """

    split: str = "test"
    max_examples: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        _one_of("evaluation.split", self.split, ("test", "validation"))
        _at_least("evaluation.max_examples", self.max_examples, 1)
        _at_least("evaluation.batch_size", self.batch_size, 1)


@dataclass
class TrackingConfig:
    """The Weights & Biases mirror of the records; never read back."""

    mode: str = "offline"
    project: str = "stat_repro"
    entity: str | None = None

    def __post_init__(self) -> None:
        _one_of("tracking.mode", self.mode, TRACKING_MODES)


@dataclass
class RunConfig:
    """Everything one run needs.

    Attributes:
        ratio: Share of the prunable MACs that is removed, 0 <= ratio < 1.
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
    ratio: float = 0.5
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
        _at_least("seed", self.seed, 0)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("if_stored", self.if_stored, IF_STORED)
        _file_name("study", self.study)
        split = self.evaluation.split
        if self.dataset.task == "language_modeling" and split != "test":
            raise ConfigError(f"evaluation.split: running text has only a test part; got {split!r}")


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


# Keys that decide where a run goes and how fast it is, but not what it finds.
_RESULT_NEUTRAL = ("tracking", "study", "results", "device", "save_to", "if_stored")


def result_config(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that the result depends on."""
    data = to_dict(config)
    for key in _RESULT_NEUTRAL:
        del data[key]
    del data["calibration"]["batch_size"], data["evaluation"]["batch_size"]
    del data["dataset"]["calibration_examples"], data["dataset"]["calibration_batch_size"]
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
