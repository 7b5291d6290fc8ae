"""Task metrics of both models, fidelity, and the protocol that defines them."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stat_repro.evaluation.example_values import Evaluation, compact, sentence_values
from stat_repro.evaluation.fidelity import NOT_FINITE, DenseModelError
from stat_repro.evaluation.predictions import predicted_classes
from stat_repro.metrics.modules import TaskMetric


def task_metrics(logits: Tensor, references: ArrayLike, task: str) -> dict[str, float]:
    """Metrics of one model on labelled examples.

    Args:
        logits: (N, C) for classification, (N, 1) for regression and similarity.
        references: Class indices or target values, N.
        task: `classification`, `regression` or `similarity`.

    Returns:
        `accuracy`, `f1`, `matthews`, or `pearson`, `spearman` (nan where undefined).
    """
    task = "regression" if task == "similarity" else task
    metric = TaskMetric(task)
    if task == "regression":
        return metric.compute(predictions=logits[:, 0].tolist(), references=references)
    classes = predicted_classes(logits).tolist()
    return metric.compute(predictions=classes, references=references, num_classes=logits.shape[1])


def evaluate_task(
    dense_logits: Tensor,
    pruned_logits: Tensor,
    references: ArrayLike,
    task: str,
    split: str,
    max_length: int,
    conventions: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Task metrics of both models, and fidelity of the pruned one.

    Args:
        dense_logits: (N, C) as `task_metrics` takes them, finite.
        pruned_logits: (N, C).
        references: Class indices or target values, N.
        task: `classification`, `regression` or `similarity`.
        split: Part of the data set, for the protocol.
        max_length: Tokens after which sentences were cut, for the protocol.
        conventions: Further entries of the protocol, such as the metrics of the benchmark.

    Returns:
        Metrics: `dense` and `pruned` (see `task_metrics`), `fidelity` (means of the values per
        example: `kl`, `agreement`, or `mse_to_dense`), `protocol`. Values per example: see
        `sentence_values`.

    Raises:
        DenseModelError: Its logits are not finite.
    """
    if not bool(torch.isfinite(dense_logits).all()):
        raise DenseModelError(f"{task}: the dense model's logits {NOT_FINITE}")
    values = sentence_values(dense_logits, pruned_logits, references, task)
    means = {"kl": "kl", "agree": "agreement", "squared_difference": "mse_to_dense"}
    protocol: dict[str, Any] = {
        "task": task,
        "split": split,
        "examples": len(dense_logits),
        "max_length": max_length,
        "truncation": "sentences are cut after max_length tokens, special tokens included",
        "special_tokens": "as the tokenizer adds them",
        "padding": "to the longest sentence of the batch, masked",
    }
    if task == "classification":
        classes = dense_logits.shape[1]
        protocol["classes"] = classes
        protocol["f1"] = "class 1" if classes == 2 else "macro over the classes that occur"
    metrics = {
        "dense": task_metrics(dense_logits, references, task),
        "pruned": task_metrics(pruned_logits, references, task),
        "fidelity": {means[n]: float(v.double().mean()) for n, v in values.items() if n in means},
        "protocol": {**protocol, **(conventions or {})},
    }
    return Evaluation(metrics, compact({name: value.numpy() for name, value in values.items()}))
