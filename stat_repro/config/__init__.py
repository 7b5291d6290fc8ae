"""The schema of a run, by section, and the checks that need more than one key."""

from stat_repro.config.checks import ConfigError
from stat_repro.config.data import (
    PARTS,
    TASKS,
    AnswerConfig,
    CostConfig,
    DatasetConfig,
    EvaluationConfig,
    ZeroShotConfig,
)
from stat_repro.config.model import FinetuneConfig, ModelConfig
from stat_repro.config.pruning import (
    ALLOCATIONS,
    CORRECTIONS,
    METHODS,
    RECIPES,
    STATISTICS,
    CalibrationConfig,
    PruningConfig,
)
from stat_repro.config.run import (
    DTYPES,
    IF_STORED,
    TRACKING_MODES,
    RunConfig,
    TrackingConfig,
    from_hydra,
    later_defaults,
    neutral_keys,
    result_config,
    run_id,
    to_dict,
)

__all__ = [
    "ALLOCATIONS",
    "CORRECTIONS",
    "DTYPES",
    "IF_STORED",
    "METHODS",
    "PARTS",
    "RECIPES",
    "STATISTICS",
    "TASKS",
    "TRACKING_MODES",
    "AnswerConfig",
    "CalibrationConfig",
    "ConfigError",
    "CostConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "FinetuneConfig",
    "ModelConfig",
    "PruningConfig",
    "RunConfig",
    "TrackingConfig",
    "ZeroShotConfig",
    "from_hydra",
    "later_defaults",
    "neutral_keys",
    "result_config",
    "run_id",
    "to_dict",
]
