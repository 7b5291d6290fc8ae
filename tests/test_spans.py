"""From scores of tokens to answers, against exhaustive searches and by hand."""

import math
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr
from squad_examples import metrics_of

from stat_repro.evaluation.fidelity import DenseModelError
from stat_repro.evaluation.question_answering import (
    evaluate_questions,
)
from stat_repro.evaluation.spans import (
    AnswerRule,
    Span,
    SpanLogits,
    answers,
    best_spans,
    null_scores,
    span_divergence,
    window_spans,
)

pytestmark = pytest.mark.usefixtures("own_cache")

ANY = AnswerRule(n_best=20, max_answer_length=30)


def offsets_of(context, first=0, count=None):
    """Characters of the words of a context from a word on."""
    ends = np.cumsum([len(word) + 1 for word in context.split()]) - 1
    places = [(end - len(word), end) for word, end in zip(context.split(), ends, strict=True)]
    return np.array(places[first:][:count], dtype=np.int32)


def made_up(*windows):
    """Scores and windows from (question, offsets, start scores, end scores), [CLS] first."""
    owners, offsets, starts, ends = zip(*windows, strict=True)
    bounds = np.concatenate([[0], np.cumsum([len(scores) for scores in starts])])
    logits = SpanLogits(
        np.float32(np.concatenate(starts)), np.float32(np.concatenate(ends)), bounds
    )
    return logits, SimpleNamespace(
        question=np.array(owners), first=np.full(len(owners), 3), offsets=list(offsets)
    )


@pytest.mark.parametrize(("n_best", "longest"), [(20, 30), (3, 30), (20, 2), (4, 3), (1, 1)])
def test_spans_of_a_window_are_those_of_an_exhaustive_search(n_best, longest):
    random = np.random.default_rng(0)
    for size in (1, 2, 9, 25):
        start, end = random.normal(size=(2, size))
        offsets = offsets_of(" ".join(f"w{i}" for i in range(size)))
        found = window_spans(start, end, offsets, AnswerRule(n_best, longest))
        starts, ends = (sorted(range(size), key=lambda i: -s[i])[:n_best] for s in (start, end))
        allowed = [(i, j) for i, j in product(starts, ends) if 0 <= j - i < longest]
        allowed.sort(key=lambda pair: -(start[pair[0]] + end[pair[1]]))
        expected = [(offsets[i, 0], offsets[j, 1]) for i, j in allowed[:n_best]]
        assert [(span.start, span.stop) for span in found] == expected
        assert all(a.score >= b.score for a, b in pairwise(found))


def test_an_answer_has_at_most_so_many_tokens_and_ends_not_before_it_starts():
    start, end = np.array([9.0, 0, 0, 0]), np.array([0.0, 1, 2, 8])
    offsets = offsets_of("a b c d")
    best = {n: window_spans(start, end, offsets, AnswerRule(20, n))[0] for n in (1, 3, 4)}
    assert best == {1: Span(0, 1, 9.0), 3: Span(0, 5, 11.0), 4: Span(0, 7, 17.0)}
    backwards = window_spans(end, start, offsets, AnswerRule(1, 30))
    assert backwards == []


def test_the_best_span_of_any_window_is_the_answer_and_shared_characters_are_one_span():
    context = "a b c d e"
    logits, windows = made_up(
        (0, offsets_of(context, 0, 3), [5, 0, 1, 4], [5, 0, 1, 3]),
        (0, offsets_of(context, 2, 3), [5, 6, 0, 0], [5, 2, 0, 0]),
        (1, offsets_of("x y"), [0, 0, 1], [0, 0, 1]),
    )
    spans = best_spans(logits, windows, ANY)
    # "c" is in both windows, with 4 + 3 and 6 + 2.
    assert spans[0][0] == Span(4, 5, 8.0)
    assert sum((span.start, span.stop) == (4, 5) for span in spans[0]) == 1
    assert len(best_spans(logits, windows, AnswerRule(2, 30))[0]) == 2
    assert answers(logits, windows, [context, "x y"], ANY) == ["c", "y"]


def test_no_answer_where_its_score_exceeds_the_best_by_more_than_the_threshold():
    context = "a b c d e"
    # Best span 8 (d e: 5 + 3); no answer: 12 in the first window, 9 in the second.
    logits, windows = made_up(
        (0, offsets_of(context, 0, 3), [6, 0, 0, 0], [6, 0, 0, 0]),
        (0, offsets_of(context, 2, 3), [5, 0, 5, 0], [4, 0, 0, 3]),
    )
    assert null_scores(logits, windows).tolist() == [9]
    expected = {None: "d e", 0.0: "", 0.99: "", 1.0: "d e", -2.0: ""}
    for threshold, answer in expected.items():
        rule = AnswerRule(20, 30, threshold)
        assert answers(logits, windows, [context], rule) == [answer]


def test_a_question_without_an_allowed_span_has_no_answer():
    logits, windows = made_up((0, offsets_of("a b"), [0, 0, 1], [0, 1, 0]))
    assert answers(logits, windows, ["a b"], AnswerRule(1, 30)) == [""]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_only_the_question_with_a_broken_window_is_broken(bad):
    logits, windows = made_up(
        (0, offsets_of("a b"), [0, 1, 0], [0, 1, 0]),
        (0, offsets_of("a b"), [0, 1, 0], [0, 1, bad]),
        (1, offsets_of("a b"), [0, 1, 0], [0, 0, 1]),
    )
    for threshold in (None, 0.0):
        rule = AnswerRule(20, 30, threshold)
        assert answers(logits, windows, ["a b", "a b"], rule) == [None, "a b"]
    assert best_spans(logits, windows, ANY)[0] == []
    whole, _ = made_up(*[(q, offsets_of("a b"), [0, 1, 0], [0, 1, 0]) for q in (0, 0, 1)])
    assert np.isinf(span_divergence(whole, logits)).tolist() == [False, True, False]


def test_divergence_is_that_of_the_distributions_of_start_and_end():
    random = np.random.default_rng(1)
    parts = [offsets_of("a b c"), offsets_of("a")]
    dense, pruned = (
        made_up(*[(0, o, *random.normal(size=(2, len(o) + 1)) * 3) for o in parts])[0]
        for _ in range(2)
    )
    expected = []
    for left, right in pairwise(dense.bounds):
        values = [
            rel_entr(*(np.exp(log_softmax(np.float64(s[left:right]))) for s in pair)).sum()
            for pair in ((dense.start, pruned.start), (dense.end, pruned.end))
        ]
        expected.append(sum(values) / 2)
    assert span_divergence(dense, pruned) == pytest.approx(expected, rel=1e-6)
    assert span_divergence(dense, dense).tolist() == [0, 0]


def test_metrics_fidelity_and_protocol():
    contexts = ["a b", "c d", "e f"]
    parts = [offsets_of(context) for context in contexts]
    first, both, second, none = [0, 9, 0], [0, 0, 9], [0, 0, 9], [9, 0, 0]
    dense, windows = made_up(
        (0, parts[0], first, both), (1, parts[1], second, second), (2, parts[2], none, none)
    )
    pruned, _ = made_up(
        (0, parts[0], second, second), (1, parts[1], second, second), (2, parts[2], none, none)
    )
    references = [["a b", "x"], ["d"], []]
    rule = AnswerRule(20, 30, 0.5)
    got = evaluate_questions(
        dense, pruned, windows, contexts, references, rule, {"split": "s"}
    ).metrics
    assert got["dense"]["exact_match"] == got["dense"]["f1"] == 1
    # "a" is an article, so that "b" is all of the first answer and "a b" says no more.
    assert got["pruned"] == metrics_of(["b", "d", ""], references, "2.0")
    assert got["fidelity"]["agreement"] == pytest.approx(2 / 3)
    assert got["fidelity"]["kl"] == pytest.approx(span_divergence(dense, pruned).sum() / 3)
    expected = {
        "task": "question_answering",
        "squad_version": "2.0",
        "examples": 3,
        "unanswerable": 1,
        "windows": 3,
        "split": "s",
        "n_best": 20,
        "max_answer_length": 30,
        "null_threshold": 0.5,
    }
    assert got["protocol"].items() >= expected.items()
    answerable = [["a b"], ["d"], ["e"]]
    got = evaluate_questions(dense, pruned, windows, contexts, answerable, ANY, {}).metrics
    assert got["protocol"]["squad_version"] == "1.1"
    assert "null_threshold" not in got["protocol"]
    assert set(got["dense"]) == {"exact_match", "f1"}


def test_metrics_of_questions_are_means_of_their_examples():
    """A question with two windows counts twice in the mean divergence, as its windows do."""
    parts = [offsets_of(text) for text in ("a b", "c", "d e", "f g")]
    owners = (0, 0, 1, 2)
    pick = np.random.default_rng(0)

    def scored():
        return made_up(
            *(
                (owner, part, pick.normal(size=len(part) + 1), pick.normal(size=len(part) + 1))
                for owner, part in zip(owners, parts, strict=True)
            )
        )

    (dense, windows), (pruned, _) = scored(), scored()
    references = [["b", "x"], ["d e"], []]
    given = (windows, ["a b c", "d e", "f g"], references, AnswerRule(20, 30, 0.0), {})
    got = evaluate_questions(dense, pruned, *given)
    values = got.examples
    assert values["windows"].tolist() == [2, 1, 1]
    divergence = span_divergence(dense, pruned)
    by_question = [divergence[:2].mean(), divergence[2], divergence[3]]
    assert values["kl"] == pytest.approx(np.array(by_question), rel=1e-6)
    kl = np.average(values["kl"], weights=values["windows"])
    assert kl == pytest.approx(got.metrics["fidelity"]["kl"], rel=1e-6)
    for prefix, which in (("", "pruned"), ("dense_", "dense")):
        for name in ("exact_match", "f1"):
            mean = values[prefix + name].mean(dtype=np.float64)
            assert mean == pytest.approx(got.metrics[which][name], rel=1e-6)
    assert values["agree"].mean() == got.metrics["fidelity"]["agreement"]
    kinds = {value.dtype.name for value in values.values()}
    assert kinds == {"float32", "uint8", "int32"}


def test_a_broken_pruned_model_scores_nothing_and_a_broken_dense_model_is_an_error():
    part = offsets_of("a b")
    good, windows = made_up((0, part, [0, 1, 0], [0, 1, 0]), (1, part, [9, 1, 0], [9, 1, 0]))
    bad = SpanLogits(np.full_like(good.start, np.nan), good.end, good.bounds)
    given = (windows, ["a b", "a b"], [["a"], []], AnswerRule(20, 30, 0.0), {})
    got = evaluate_questions(good, bad, *given).metrics
    assert set(got["pruned"].values()) == {0.0}
    assert got["fidelity"] == {"kl": math.inf, "agreement": 0.0}
    with pytest.raises(DenseModelError, match="dense model's scores are not finite"):
        evaluate_questions(bad, good, *given)
    other, _ = made_up((0, part[:1], [0, 1], [0, 1]), (1, part, [9, 1, 0], [9, 1, 0]))
    with pytest.raises(DenseModelError, match="models that read the same windows"):
        evaluate_questions(good, other, *given)
