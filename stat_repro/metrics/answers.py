"""Exact match and F1 of answers, as the official evaluation of SQuAD defines them.

Rajpurkar et al., EMNLP 2016 (arXiv 1606.05250), section 6.1, and ACL 2018 (arXiv 1806.03822). The
definitions are those of the scripts evaluate-v1.1.py and evaluate-v2.0.py; values are fractions
here, percents there.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

VERSIONS = ("1.1", "2.0")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and surplus white space."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if both are the same after normalisation, else 0."""
    return float(normalised(prediction) == normalised(reference))


def f1_score(prediction: str, reference: str, version: str = "1.1") -> float:
    """Harmonic mean of precision and recall over words, each counted as often as it occurs.

    Args:
        prediction: Answer of the model.
        reference: Marked answer.
        version: Where nothing is left of one of them after normalisation, 1.1 gives 0, and 2.0
            gives 1 if nothing is left of both.
    """
    predicted, expected = normalised(prediction).split(), normalised(reference).split()
    if version == "2.0" and not (predicted and expected):
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def squad_scores(
    predictions: Sequence[str | None], references: Sequence[Sequence[str]], version: str = "1.1"
) -> list[tuple[float, float]]:
    """Exact match and F1 of every question: the best value over its references.

    Args:
        predictions: An answer per question; empty for "no answer", None where the model gave
            nothing that counts as an answer (scores 0).
        references: Marked answers per question; none where the question has no answer (2.0).
        version: `1.1` or `2.0`.

    Returns:
        Pairs (exact match, F1), as fractions.

    Raises:
        ValueError: No questions, lists of different lengths, an unknown version, or in 1.1 a
            question without references.
    """
    if version not in VERSIONS:
        raise ValueError(f"squad: expected version {' or '.join(VERSIONS)}; got {version!r}")
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            "squad: expected one prediction for each of at least one question; got "
            f"{len(predictions)} predictions and {len(references)} questions"
        )
    if version == "1.1" and not all(references):
        raise ValueError("squad: a question without references; expected version 2.0")
    return [
        _best_scores(prediction, answers, version)
        for prediction, answers in zip(predictions, references, strict=True)
    ]


def squad_metrics(
    scores: Sequence[tuple[float, float]], references: Sequence[Sequence[str]], version: str
) -> dict[str, float]:
    """Means of the scores of questions.

    Args:
        scores: What `squad_scores` gave.
        references: Marked answers per question.
        version: `1.1` or `2.0`.

    Returns:
        `exact_match`, `f1`, as fractions. 2.0: also `has_answer_exact_match`, `has_answer_f1`,
        `no_answer_exact_match`, `no_answer_f1` over the questions with and without an answer, as
        far as there are any.
    """
    means = _means(scores, "")
    if version == "2.0":
        for prefix, answerable in (("has_answer_", True), ("no_answer_", False)):
            part = [s for s, r in zip(scores, references, strict=True) if bool(r) == answerable]
            means |= _means(part, prefix)
    return means


def _best_scores(
    prediction: str | None, references: Sequence[str], version: str
) -> tuple[float, float]:
    """Exact match and F1 of one question."""
    if prediction is None:
        return 0.0, 0.0
    if version == "2.0":
        references = [text for text in references if normalised(text)] or [""]
    return (
        max(exact_match(prediction, text) for text in references),
        max(f1_score(prediction, text, version) for text in references),
    )


def _means(scores: Sequence[tuple[float, float]], prefix: str) -> dict[str, float]:
    names = (f"{prefix}exact_match", f"{prefix}f1")
    return dict(zip(names, map(fmean, zip(*scores, strict=True)), strict=False))
