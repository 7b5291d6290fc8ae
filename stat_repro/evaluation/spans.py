"""From scores of tokens to answers: the best spans over the windows of a context.

A context is read in windows of tokens; in every window a model scores each token as
the start and as the end of the answer, and the first token ([CLS]) as "no answer in this window".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stat_repro.data.context_windows import ContextWindows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SpanLogits:
    """Scores of the tokens that count, window after window, without padding.

    Attributes:
        start: float32 scores as the first token of the answer, (T).
        end: float32 scores as its last token, (T).
        bounds: Window w has the entries bounds[w] to bounds[w + 1], (W + 1): the first is that of
            the window's first token, the others those of the context.
    """

    start: NDArray[np.float32]
    end: NDArray[np.float32]
    bounds: NDArray[np.int64]

    def broken(self) -> NDArray[np.bool_]:
        """Windows with a score that is not finite, (W)."""
        finite = np.isfinite(self.start) & np.isfinite(self.end)
        return ~np.logical_and.reduceat(finite, self.bounds[:-1])


@dataclass(frozen=True)
class AnswerRule:
    """How scores become an answer.

    Attributes:
        n_best: Start and end tokens considered per window, and spans kept per question.
        max_answer_length: Tokens of an answer at most.
        null_threshold: No answer is given where the score of "no answer" exceeds that of the best
            span by more than this; None where every question has an answer (SQuAD 1.1).
    """

    n_best: int
    max_answer_length: int
    null_threshold: float | None = None


@dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a context, and the sum of the scores of both ends."""

    start: int
    stop: int
    score: float


def window_spans(
    start: Floats, end: Floats, offsets: NDArray[np.int32], rule: AnswerRule
) -> list[Span]:
    """The best spans of one window, best first.

    Args:
        start: Scores of the context's tokens, (C).
        end: Likewise, (C).
        offsets: Characters of these tokens, (C, 2).
        rule: Spans run from one of the `n_best` best starts to one of the `n_best` best ends of the
            context. (The Hugging Face example picks these among all tokens of the input and then
            leaves out those that are not of the context.)

    Returns:
        At most `n_best`; none where all these ends lie before all starts or too far behind.
    """
    starts = np.argsort(-start, kind="stable")[: rule.n_best]
    ends = np.argsort(-end, kind="stable")[: rule.n_best]
    tokens = ends[None, :] - starts[:, None] + 1
    scores = start[starts][:, None] + end[ends][None, :]
    scores[(tokens < 1) | (tokens > rule.max_answer_length)] = -np.inf
    best = np.argsort(-scores, axis=None, kind="stable")[: rule.n_best]
    rows, columns = np.unravel_index(best, scores.shape)
    return [
        Span(int(offsets[starts[i], 0]), int(offsets[ends[j], 1]), float(scores[i, j]))
        for i, j in zip(rows, columns, strict=True)
        if scores[i, j] > -np.inf
    ]


def best_spans(logits: SpanLogits, windows: ContextWindows, rule: AnswerRule) -> list[list[Span]]:
    """The `n_best` best spans of every question over all its windows, best first.

    The same characters in two windows are one span, with the better of its scores. A question with
    a score that is not finite has no span.
    """
    best: list[dict[tuple[int, int], Span]] = [{} for _ in range(_questions(windows))]
    start, end = logits.start.astype(np.float64), logits.end.astype(np.float64)
    broken = broken_questions(logits, windows)
    for window, question in enumerate(windows.question):
        if broken[question]:
            continue
        part = slice(logits.bounds[window] + 1, logits.bounds[window + 1])
        for span in window_spans(start[part], end[part], windows.offsets[window], rule):
            key = (span.start, span.stop)
            known = best[question].get(key)
            if known is None or span.score > known.score:
                best[question][key] = span
    return [sorted(spans.values(), key=lambda span: -span.score)[: rule.n_best] for spans in best]


def null_scores(logits: SpanLogits, windows: ContextWindows) -> Floats:
    """Score of "no answer" of every question, (Q): the smallest over its windows.

    A single window that holds the answer is enough for the question to have one.
    """
    first = logits.bounds[:-1]
    smallest = np.full(_questions(windows), np.inf)
    with np.errstate(invalid="ignore"):  # of questions with a score that is not finite
        scores = logits.start[first].astype(np.float64) + logits.end[first]
        np.minimum.at(smallest, windows.question, scores)
    return smallest


def broken_questions(logits: SpanLogits, windows: ContextWindows) -> NDArray[np.bool_]:
    """Questions with a score that is not finite in any window, (Q)."""
    broken = np.zeros(_questions(windows), dtype=bool)
    np.logical_or.at(broken, windows.question, logits.broken())
    return broken


def answers(
    logits: SpanLogits, windows: ContextWindows, contexts: Sequence[str], rule: AnswerRule
) -> list[str | None]:
    """The answer to every question.

    Args:
        logits: Scores of the tokens.
        windows: The windows of these questions.
        contexts: Paragraph of every question, Q.
        rule: How scores become an answer.

    Returns:
        A piece of the context; empty for "no answer" and where no span is allowed; None where a
        score is not finite, which counts as wrong also for a question without an answer.
    """
    null = null_scores(logits, windows)
    broken = broken_questions(logits, windows)
    given: list[str | None] = []
    for row, spans in enumerate(best_spans(logits, windows, rule)):
        if broken[row]:
            given.append(None)
        elif not spans or (
            rule.null_threshold is not None and null[row] - spans[0].score > rule.null_threshold
        ):
            given.append("")
        else:
            given.append(contexts[row][spans[0].start : spans[0].stop])
    return given


def span_divergence(dense: SpanLogits, pruned: SpanLogits) -> Floats:
    """KL(dense || pruned) of every window in nats, the mean of that of start and end, (W).

    Both distributions are softmaxes over the window's first token and the tokens of its context,
    in float64; infinite where a score of the pruned model is not finite.

    Args:
        dense: Finite scores.
        pruned: Scores of the same tokens.
    """
    bounds, broken = dense.bounds, pruned.broken()
    total = np.zeros(len(bounds) - 1)
    for left, right in ((dense.start, pruned.start), (dense.end, pruned.end)):
        # The placeholder only keeps nan out of the sums; those windows are overwritten below.
        usable = np.where(np.isfinite(right), right, 0)
        log_p, log_q = _log_softmax(left, bounds), _log_softmax(usable, bounds)
        total += np.add.reduceat(np.exp(log_p) * (log_p - log_q), bounds[:-1]) / 2
    return np.where(broken, np.inf, total)


def _log_softmax(values: NDArray[np.float32], bounds: NDArray[np.int64]) -> Floats:
    """Log-softmax within every window."""
    sizes, starts = np.diff(bounds), bounds[:-1]
    shifted = values - np.repeat(np.maximum.reduceat(values, starts), sizes).astype(np.float64)
    return shifted - np.repeat(np.log(np.add.reduceat(np.exp(shifted), starts)), sizes)


def _questions(windows: ContextWindows) -> int:
    return int(windows.question[-1]) + 1
