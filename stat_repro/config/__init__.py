"""The typed schema of a run, section by section, with the checks that need several keys.

May use: nothing.
"""

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
    FITTED,
    LEAST_SQUARES,
    METHOD_DEFAULTS,
    METHODS,
    RECIPES,
    SKETCHES,
    STATISTICS,
    SUPERVISED,
    CalibrationConfig,
    PruningConfig,
)
from stat_repro.config.run import (
    DTYPES,
    IF_STORED,
    SPEED_STUDY,
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
    "FITTED",
    "IF_STORED",
    "LEAST_SQUARES",
    "METHODS",
    "METHOD_DEFAULTS",
    "PARTS",
    "RECIPES",
    "SKETCHES",
    "SPEED_STUDY",
    "STATISTICS",
    "SUPERVISED",
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
