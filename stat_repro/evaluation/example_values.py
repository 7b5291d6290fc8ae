"""What is measured on every single evaluated example, for paired comparisons of methods.

The metrics of a record are means over these values, which are kept as float32 and uint8. They come
in the order of the evaluated examples, so that value i of two runs with one protocol belongs to the
same example. Infinite values are kept: they are what a collapsed model has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stat_repro.evaluation.fidelity import divergence, squared_difference
from stat_repro.evaluation.predictions import predicted_classes

ExampleValues = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        metrics: `dense` and `pruned` metrics, `fidelity` and `protocol`.
        examples: Values per example, each (N), float32 or a small integer type.
    """

    metrics: dict[str, Any]
    examples: ExampleValues


def compact(values: Mapping[str, NDArray[Any]]) -> ExampleValues:
    """Truth values as uint8, everything else as float32."""
    return {
        name: value.astype(np.uint8 if value.dtype == np.bool_ else np.float32)
        for name, value in values.items()
    }


def sentence_values(
    dense_logits: Tensor, pruned_logits: Tensor, references: ArrayLike, task: str
) -> dict[str, Tensor]:
    """Values of labelled sentences, each (N), float64 or bool.

    Args:
        dense_logits: (N, C), finite.
        pruned_logits: (N, C).
        references: Class indices or target values, N.
        task: `classification`, `regression` or `similarity`.

    Returns:
        Classification: `kl` in nats, and whether in `correct`, `dense_correct` (the class is that
        of the reference) and `agree` (the class of the dense model). Regression, in squared units
        of the target: `squared_difference` of the two models, `squared_error` of the pruned one
        and `dense_squared_error`; infinite where a value is not finite.
        Similarity: `squared_difference` of the cosines.
    """
    labels = torch.as_tensor(np.asarray(references))
    if task in ("regression", "similarity"):
        values = {"squared_difference": squared_difference(dense_logits, pruned_logits)}
        if task == "regression":  # cosines and scores have no common unit
            values["squared_error"] = squared_difference(labels[:, None], pruned_logits)
            values["dense_squared_error"] = squared_difference(labels[:, None], dense_logits)
        return values
    dense, pruned = predicted_classes(dense_logits), predicted_classes(pruned_logits)
    return {
        "kl": divergence(dense_logits, pruned_logits),
        "correct": pruned == labels,
        "dense_correct": dense == labels,
        "agree": pruned == dense,
    }


def question_values(
    given: Mapping[str, Sequence[str | None]],
    scores: Mapping[str, Sequence[tuple[float, float]]],
    divergence: NDArray[np.float64],
    question: NDArray[np.int64],
) -> ExampleValues:
    """Values of questions.

    Args:
        given: Answers of the `dense` and of the `pruned` model, Q each.
        scores: Their exact match and F1, Q each, see `squad_scores`.
        divergence: KL of every window in nats, (W).
        question: Row of the question of every window, (W).

    Returns:
        `exact_match`, `f1`, `dense_exact_match`, `dense_f1`, `agree` (the same answer), `kl` (mean
        over the question's windows) and `windows` (how many it has, int32): the mean of `kl`
        weighted with `windows` is that over all windows.
    """
    values: dict[str, NDArray[Any]] = {}
    for prefix, which in (("", "pruned"), ("dense_", "dense")):
        exact, f1 = np.array(scores[which]).T
        values |= {f"{prefix}exact_match": exact > 0, f"{prefix}f1": f1}
    pairs = zip(given["dense"], given["pruned"], strict=True)
    windows = np.bincount(question)
    total = np.bincount(question, weights=divergence)
    values |= {"agree": np.array([a == b for a, b in pairs]), "kl": total / windows}
    return {**compact(values), "windows": windows.astype(np.int32)}
