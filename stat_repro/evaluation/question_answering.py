"""Question answering heads: scores of all windows, and what is measured on them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from stat_repro.data.batching import Batch
from stat_repro.data.context_windows import ContextWindows
from stat_repro.evaluation import spans
from stat_repro.evaluation.example_values import Evaluation, question_values
from stat_repro.evaluation.fidelity import NOT_FINITE, DenseModelError
from stat_repro.evaluation.predictions import to_device
from stat_repro.evaluation.spans import AnswerRule, SpanLogits
from stat_repro.metrics.answers import squad_metrics, squad_scores
from stat_repro.models.modes import evaluating
from stat_repro.progress import Progress


def predict_spans(
    model: nn.Module,
    batches: Iterable[tuple[Sequence[int], Batch]],
    windows: ContextWindows,
    label: str = "evaluating",
) -> SpanLogits:
    """Start and end scores of every window.

    Args:
        model: Model with a question answering head.
        batches: Pairs of window numbers (B) and a batch of these B windows, padded behind; every
            window once, in any order.
        windows: The windows.
        label: What the progress line says.

    Returns:
        float32 scores of the windows' first and context tokens.
    """
    sizes = np.array([len(characters) for characters in windows.offsets], dtype=np.int64) + 1
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    start, end = (np.full(bounds[-1], np.nan, dtype=np.float32) for _ in range(2))
    total = len(sizes)
    with evaluating(model), torch.inference_mode(), Progress(label, total, "windows") as progress:
        for numbers, batch in batches:
            outputs = model(**to_device(batch, model))
            for logits, scores in ((outputs.start_logits, start), (outputs.end_logits, end)):
                values = logits.float().cpu().numpy()
                for row, window in enumerate(numbers):
                    begin = windows.first[window]
                    entries = slice(bounds[window], bounds[window + 1])
                    scores[entries][0] = values[row, 0]
                    scores[entries][1:] = values[row, begin : begin + sizes[window] - 1]
            progress.advance(len(numbers))
    return SpanLogits(start, end, bounds)


def evaluate_questions(
    dense: SpanLogits,
    pruned: SpanLogits,
    windows: ContextWindows,
    contexts: Sequence[str],
    references: Sequence[Sequence[str]],
    rule: AnswerRule,
    conventions: Mapping[str, Any],
) -> Evaluation:
    """Exact match and F1 of both models, and fidelity of the pruned one.

    Args:
        dense: Finite scores.
        pruned: Scores of the same tokens.
        windows: The windows of these questions.
        contexts: Paragraph of every question, Q.
        references: Marked answers of every question, Q.
        rule: How scores become an answer; a null threshold means SQuAD 2.0.
        conventions: What the data is and how it was cut, for the protocol.

    Returns:
        Metrics: `dense` and `pruned` (`squad_metrics`), `fidelity` (`kl`: mean of
        `span_divergence` over the windows, in nats; `agreement`: share of the questions with the
        same answer, letter by letter; a question with a score that is not finite disagrees),
        `protocol`. Values per question: see `question_values`.

    Raises:
        DenseModelError: Its scores are not finite, or those of other tokens.
    """
    if not np.array_equal(dense.bounds, pruned.bounds):
        raise DenseModelError("question answering: expected models that read the same windows")
    if bool(spans.broken_questions(dense, windows).any()):
        raise DenseModelError(f"question answering: the dense model's scores {NOT_FINITE}")
    version = "1.1" if rule.null_threshold is None else "2.0"
    given = {
        name: spans.answers(logits, windows, contexts, rule)
        for name, logits in (("dense", dense), ("pruned", pruned))
    }
    divergence = spans.span_divergence(dense, pruned)
    scores = {name: squad_scores(texts, references, version) for name, texts in given.items()}
    examples = question_values(given, scores, divergence, windows.question)
    metrics = {
        **{name: squad_metrics(values, references, version) for name, values in scores.items()},
        "fidelity": {
            "kl": float(divergence.mean()),
            "agreement": float(examples["agree"].mean()),
        },
        "protocol": {
            "task": "question_answering",
            "squad_version": version,
            "examples": len(contexts),
            "unanswerable": sum(not texts for texts in references),
            "windows": len(dense.bounds) - 1,
            **conventions,
            **_decoding(rule),
            "metrics": f"exact match and F1 of the official evaluation of SQuAD {version}, as "
            "fractions",
            "fidelity": "kl: start and end distributions over the first token and the context, "
            "mean of both and of all windows; agreement: questions with the same answer",
        },
    }
    return Evaluation(metrics, examples)


def _decoding(rule: AnswerRule) -> dict[str, Any]:
    """How answers were chosen, for the protocol."""
    decoding: dict[str, Any] = {
        "answer": "best sum of start and end score over all windows of a question, among the "
        "n_best starts and ends of each",
        "n_best": rule.n_best,
        "max_answer_length": rule.max_answer_length,
    }
    if rule.null_threshold is not None:
        decoding["null_threshold"] = rule.null_threshold
        decoding["no_answer"] = (
            "smallest score of the first token over the windows exceeds the best span's by more "
            "than null_threshold"
        )
    return decoding
