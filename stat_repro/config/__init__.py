"""The typed schema of a run, section by section, with the checks that need several keys.

May use: nothing.
"""

from stat_repro.config.checks import ConfigError
from stat_repro.config.data import (
    TASKS,
    AnswerConfig,
    CostConfig,
    DatasetConfig,
    EvaluationConfig,
)
from stat_repro.config.methods import METHOD_DEFAULTS, METHODS
from stat_repro.config.model import RECOVERIES, FinetuneConfig, ModelConfig, RecoveryConfig
from stat_repro.config.pruning import (
    ALLOCATIONS,
    CORRECTIONS,
    FITTED,
    LEAST_SQUARES,
    CalibrationConfig,
    PruningConfig,
)
from stat_repro.config.run import (
    SPEED_STUDY,
    TRACKING_MODES,
    RunConfig,
    TrackingConfig,
    defaults_noted,
    from_dict,
    from_hydra,
    result_config,
    run_id,
)
