"""A data set prepared for one tokenizer: calibration batches, mean length, evaluation.

May use: config, data, evaluation, models.
"""

from stat_repro.workloads.base import CalibrationSet
from stat_repro.workloads.questions import QuestionWorkload
from stat_repro.workloads.sentences import SentenceWorkload
from stat_repro.workloads.similarity import SimilarityWorkload
from stat_repro.workloads.windows import WindowWorkload

# The pipeline uses what all of them have: `tokenizer`; `fingerprint`, sha256 per part of the data;
# `sequence_length`, the mean tokens per example, at which MACs are counted; `calibration`, which
# draws examples of the training part, on request with the labels that the model's loss takes;
# `rows`, how many there are;
# `dense_outputs`, what `evaluate` can share between runs; `evaluate`.
Workload = QuestionWorkload | SentenceWorkload | WindowWorkload
