"""What is measured on every single evaluated example, for paired comparisons of methods.

The metrics of a record are means over these values, which are kept as float32 and uint8. They come
in the order of the evaluated examples, so that value i of two runs with one protocol belongs to the
same example. Infinite values are kept: they are what a collapsed model has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stat_repro.evaluation.fidelity import classification_values, regression_values
from stat_repro.evaluation.predictions import predicted_classes
from stat_repro.metrics.answers import squad_scores

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
) -> ExampleValues:
    """Values of labelled sentences.

    Args:
        dense_logits: (N, C), finite.
        pruned_logits: (N, C).
        references: Class indices or target values, N.
        task: `classification`, `regression` or `similarity`.

    Returns:
        Classification: `kl` in nats, and 0 or 1 in `correct`, `dense_correct` (the class is that
        of the reference) and `agree` (see `classification_values`). Regression, in squared units
        of the target: `squared_difference` of the two models, `squared_error` of the pruned one
        and `dense_squared_error`; infinite where a value is not finite.
        Similarity: `squared_difference` of the cosines.
    """
    if task == "similarity":  # cosines and scores have no common unit
        return compact(
            {"squared_difference": regression_values(dense_logits, pruned_logits).numpy()}
        )
    if task == "regression":
        expected = np.asarray(references, dtype=np.float64)
        values = {"squared_difference": regression_values(dense_logits, pruned_logits).numpy()}
        models = {"squared_error": pruned_logits, "dense_squared_error": dense_logits}
        for name, logits in models.items():
            error = np.square(logits[:, 0].double().cpu().numpy() - expected)
            values[name] = np.where(np.isfinite(error), error, np.inf)
        return compact(values)
    labels = np.asarray(references)
    divergence, same = classification_values(dense_logits, pruned_logits)
    return compact(
        {
            "kl": divergence.numpy(),
            "correct": predicted_classes(pruned_logits).cpu().numpy() == labels,
            "dense_correct": predicted_classes(dense_logits).cpu().numpy() == labels,
            "agree": same.numpy(),
        }
    )


def question_values(
    given: Mapping[str, Sequence[str | None]],
    references: Sequence[Sequence[str]],
    version: str,
    divergence: NDArray[np.float64],
    question: NDArray[np.int64],
) -> ExampleValues:
    """Values of questions.

    Args:
        given: Answers of the `dense` and of the `pruned` model, Q each.
        references: Marked answers, Q.
        version: Of SQuAD, see `squad_scores`.
        divergence: KL of every window in nats, (W).
        question: Row of the question of every window, (W).

    Returns:
        `exact_match`, `f1`, `dense_exact_match`, `dense_f1`, `agree` (the same answer), `kl` (mean
        over the question's windows) and `windows` (how many it has, int32): the mean of `kl`
        weighted with `windows` is that over all windows.
    """
    values: dict[str, NDArray[Any]] = {}
    for prefix, which in (("", "pruned"), ("dense_", "dense")):
        scores = np.array(squad_scores(given[which], references, version))
        values |= {f"{prefix}exact_match": scores[:, 0] > 0, f"{prefix}f1": scores[:, 1]}
    pairs = zip(given["dense"], given["pruned"], strict=True)
    windows = np.bincount(question, minlength=len(references))
    total = np.bincount(question, weights=divergence, minlength=len(references))
    values |= {"agree": np.array([a == b for a, b in pairs]), "kl": total / windows}
    return {**compact(values), "windows": windows.astype(np.int32)}
