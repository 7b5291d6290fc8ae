"""A data set prepared for one tokenizer: calibration batches, mean length, evaluation.

May use: config, data, evaluation, models.
"""

from stat_repro.workloads.base import CalibrationSet, Workload
from stat_repro.workloads.questions import QuestionWorkload
from stat_repro.workloads.sentences import SentenceWorkload
from stat_repro.workloads.windows import WindowWorkload

__all__ = ["CalibrationSet", "QuestionWorkload", "SentenceWorkload", "WindowWorkload", "Workload"]
