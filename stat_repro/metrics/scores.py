"""Task metrics as plain functions of predictions and references."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

# Class of an example for which the model gave no finite score: never right, never a class.
NO_CLASS = -1


def _checked(
    predictions: ArrayLike, references: ArrayLike
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    predicted, expected = np.asarray(predictions), np.asarray(references)
    if predicted.ndim != 1 or expected.ndim != 1 or len(predicted) != len(expected):
        raise ValueError(
            "metrics: expected two flat lists of the same length; "
            f"got shapes {predicted.shape} (predictions) and {expected.shape} (references)"
        )
    if len(predicted) == 0:
        raise ValueError("metrics: expected at least one example; got none")
    return predicted, expected


def _classes(values: NDArray[np.generic], role: str) -> NDArray[np.int64]:
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ValueError(f"metrics: expected whole class indices as {role}; got {values.dtype}")
    return whole


def classification_metrics(
    predictions: ArrayLike, references: ArrayLike, num_classes: int | None = None
) -> dict[str, float]:
    """Accuracy, F1 and Matthews correlation.

    F1 is that of class 1, the positive one, when there are two classes, and the unweighted mean
    over the classes that occur in predictions or references (macro) when there are more. A class
    that is neither predicted nor present has F1 0. Matthews correlation is 0 when predictions or
    references are constant.

    Args:
        predictions: Class indices, N; -1 where the model gave none (counts as wrong).
        references: Class indices, N, all >= 0.
        num_classes: Number of classes of the task; the largest index present + 1, and at least
            two, if None.

    Returns:
        `accuracy`, `f1`, `matthews`.

    Raises:
        ValueError: No examples, shapes that differ, or values that are not classes.
    """
    values = _checked(predictions, references)
    predicted, expected = _classes(values[0], "predictions"), _classes(values[1], "references")
    largest = int(max(predicted.max(), expected.max()))
    if num_classes is None:
        num_classes = max(2, largest + 1)
    if largest >= num_classes or expected.min() < 0 or predicted.min() < NO_CLASS:
        raise ValueError(
            f"metrics: expected classes 0 to {num_classes - 1}; got references from "
            f"{expected.min()} to {expected.max()}, predictions from {predicted.min()} to "
            f"{predicted.max()}"
        )
    present = np.union1d(predicted, expected)
    scored = [1] if num_classes == 2 else [int(c) for c in present if c != NO_CLASS]
    # With one and the same class everywhere scikit-learn gives 0 as well, but warns.
    matthews = 0.0 if len(present) == 1 else float(matthews_corrcoef(expected, predicted))
    return {
        "accuracy": float(accuracy_score(expected, predicted)),
        "f1": float(f1_score(expected, predicted, labels=scored, average="macro", zero_division=0)),
        "matthews": matthews,
    }


def _correlation(function: Any, left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    usable = len(left) > 1 and bool(np.isfinite(left).all() and np.isfinite(right).all())
    if not usable or np.ptp(left) == 0 or np.ptp(right) == 0:
        return math.nan
    return float(function(left, right).statistic)


def regression_metrics(predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Pearson and Spearman correlation.

    Both are undefined, and given as nan, for fewer than two examples, for constant predictions or
    references, and where a prediction is not finite.

    Args:
        predictions: Predicted values, N.
        references: True values, N.

    Returns:
        `pearson`, `spearman`.

    Raises:
        ValueError: No examples or shapes that differ.
    """
    values = _checked(predictions, references)
    predicted, expected = values[0].astype(np.float64), values[1].astype(np.float64)
    return {
        "pearson": _correlation(stats.pearsonr, predicted, expected),
        "spearman": _correlation(stats.spearmanr, predicted, expected),
    }
