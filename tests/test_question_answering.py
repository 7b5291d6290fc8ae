"""From scores of tokens to answers and records, against exhaustive searches and by hand."""

import math
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pico_benchmarks import squad_overrides
from pico_data import WORDS, word_tokenizer
from pico_models import pico_model
from scipy.special import log_softmax, rel_entr
from test_config import compose_run
from test_pipeline import run_one
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering

from stat_repro.data.context_windows import context_windows
from stat_repro.data.errors import DataError
from stat_repro.data.squad import QuestionData, load_questions
from stat_repro.data.squad_files import Answer, Question
from stat_repro.evaluation.question_answering import (
    evaluate_questions,
    leading_padding,
    predict_spans,
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
from stat_repro.finetune.training_data import QuestionSupervision
from stat_repro.metrics.answers import squad_metrics
from stat_repro.run.sweep_cache import SweepCache
from stat_repro.workloads import QuestionWorkload

ANY = AnswerRule(n_best=20, max_answer_length=30)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))


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


# The best spans of a window


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


# Answers over the windows of a question


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


# What is measured


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
    assert got["pruned"] == squad_metrics(["b", "d", ""], references, "2.0")
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
    with pytest.raises(ValueError, match="dense model's scores are not finite"):
        evaluate_questions(bad, good, *given)
    other, _ = made_up((0, part[:1], [0, 1], [0, 1]), (1, part, [9, 1, 0], [9, 1, 0]))
    with pytest.raises(ValueError, match="same windows of both models"):
        evaluate_questions(good, other, *given)


# Models


def questions(*sizes):
    """Contexts of so many words; the answer is the third word."""
    found = []
    for number, size in enumerate(sizes):
        words = [WORDS[(5 * number + 3 * i) % len(WORDS)] for i in range(size)]
        start = len(" ".join(words[:2])) + 1
        answer = Answer(words[2], start)
        text = " ".join(WORDS[number : number + 2])
        found.append(Question(f"q{number}", "t", " ".join(words), text, (answer,)))
    return tuple(found)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_scores_are_those_of_single_windows_on_either_padding_side(name, side):
    model, tokenizer = pico_model(name, "ForQuestionAnswering").train(), word_tokenizer(side=side)
    windows = context_windows(tokenizer, questions(5, 30, 9), 14, 2)
    got = predict_spans(model, windows.batches(tokenizer, 1), windows)
    assert model.training
    batched = predict_spans(model, windows.batches(tokenizer, 4), windows)
    model.eval()
    for number, (left, right) in enumerate(pairwise(got.bounds)):
        inputs = {k: torch.tensor([v]) for k, v in windows.encoded[number].items()}
        with torch.no_grad():
            outputs = model(**inputs)
        places = [0, *range(windows.first[number], windows.lengths[number] - 1)]
        assert len(places) == right - left
        for logits, scores in (
            (outputs.start_logits, got.start),
            (outputs.end_logits, got.end),
        ):
            assert scores[left:right] == pytest.approx(logits[0, places].numpy(), rel=1e-5)
    if side == "right":
        assert batched.start == pytest.approx(got.start, rel=1e-3, abs=1e-4)
        assert batched.end == pytest.approx(got.end, rel=1e-3, abs=1e-4)


def test_left_padding_is_left_out():
    """A head that scores every token by its own id: whatever else is read would show."""

    class Identity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, input_ids, attention_mask):
            scores = input_ids * self.weight
            return SimpleNamespace(start_logits=scores, end_logits=-scores)

    for side in ("left", "right"):
        tokenizer = word_tokenizer(side=side)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        windows = context_windows(tokenizer, questions(5, 30, 9), 14, 2)
        got = predict_spans(Identity(), windows.batches(tokenizer, 4), windows)
        for number, (left, right) in enumerate(pairwise(got.bounds)):
            ids = windows.encoded[number]["input_ids"]
            expected = [ids[0], *ids[windows.first[number] : -1]]
            assert got.start[left:right].tolist() == expected
            assert (-got.end[left:right]).tolist() == expected


def test_leading_padding():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    assert leading_padding(mask).tolist() == [2, 0, 0]


def by_hand(model, tokenizer, asked, max_length, stride):
    """Per question the score of no answer, and score and text of the best of all spans."""
    given = []
    for one in asked:
        windows = context_windows(tokenizer, [one], max_length, stride)
        best, null = (-math.inf, ""), math.inf
        for encoded, first, offsets in zip(
            windows.encoded, windows.first, windows.offsets, strict=True
        ):
            with torch.no_grad():
                outputs = model(**{k: torch.tensor([v]) for k, v in encoded.items()})
            start, end = outputs.start_logits[0].tolist(), outputs.end_logits[0].tolist()
            null = min(null, start[0] + end[0])
            for i in range(len(offsets)):
                for j in range(i, min(i + 30, len(offsets))):
                    text = one.context[offsets[i, 0] : offsets[j, 1]]
                    best = max(best, (start[first + i] + end[first + j], text))
        given.append((null, *best))
    return given


def squad_run(folder, *more):
    """Overrides for a pico BERT with a question answering head on tiny questions."""
    arguments = [o for o in squad_overrides(folder, "bert") if not o.startswith("hydra.")]
    pico_model("bert", "ForQuestionAnswering").save_pretrained(folder / "bert")
    return ["model=hf", "model.name=pico", "dataset=squad", "finetune=none", *arguments, *more]


def test_record_of_questions(tmp_path):
    config = compose_run(*squad_run(tmp_path, "ratio=0.4"), "evaluation.max_examples=17")
    record = run_one(config)
    data = load_questions(config.dataset)
    asked = data.split("validation")[:17]
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "bert").eval()
    given = [text for _, _, text in by_hand(model, word_tokenizer(), asked, 16, 2)]
    references = [[answer.text for answer in question.answers] for question in asked]
    assert record.metrics["dense"] == pytest.approx(squad_metrics(given, references))
    assert record.metrics["dense"] != record.metrics["pruned"]
    expected = {
        "split": "validation",
        "examples": 17,
        "squad_version": "1.1",
        "unanswerable": 0,
        "max_length": 16,
        "stride": 2,
        "questions_cut": 0,
        "windows": len(context_windows(word_tokenizer(), asked, 16, 2)),
    }
    assert record.metrics["protocol"].items() >= expected.items()
    assert "held_out" not in record.metrics["protocol"]
    assert record.provenance["data_hashes"].items() >= data.fingerprint.items()


def test_record_of_questions_without_an_answer(tmp_path):
    overrides = squad_run(tmp_path, "ratio=0.4", "dataset=squad_v2")
    asked = load_questions(compose_run(*overrides).dataset).split("validation")
    assert sum(not question.answers for question in asked) == 6
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "bert").eval()
    scored = by_hand(model, word_tokenizer(), asked, 16, 2)
    references = [[answer.text for answer in question.answers] for question in asked]
    # A threshold at which some of the answers are withheld, and some are given.
    threshold = round(float(np.median([null - best for null, best, _ in scored])), 2)
    given = ["" if null - best > threshold else text for null, best, text in scored]
    assert 0 < given.count("") < len(given)
    record = run_one(compose_run(*overrides, f"dataset.answers.null_threshold={threshold}"))
    assert record.metrics["dense"] == pytest.approx(squad_metrics(given, references, "2.0"))
    assert {"has_answer_f1", "no_answer_f1"} < set(record.metrics["pruned"])
    told = record.metrics["protocol"]
    assert (told["squad_version"], told["unanswerable"]) == ("2.0", 6)
    assert told["null_threshold"] == threshold


def test_points_of_a_sweep_share_the_dense_scores(tmp_path):
    overrides = squad_run(tmp_path)
    session = SweepCache()
    config = compose_run(*overrides)
    workload = session.dense(config).workload
    assert isinstance(workload, QuestionWorkload)
    first = session.dense_outputs(config)
    assert session.dense_outputs(compose_run(*overrides, "ratio=0.1")) is first
    # Without shared scores the same comes out.
    model = session.dense(config).loaded.model
    shared = workload.evaluate(model, model, first, config.evaluation).metrics
    assert workload.evaluate(model, model, None, config.evaluation).metrics == shared
    assert shared["fidelity"] == {"kl": 0.0, "agreement": 1.0}
    fewer = compose_run(*overrides, "evaluation.max_examples=2").evaluation
    assert workload.evaluate(model, model, None, fewer).metrics["protocol"]["examples"] == 2


def test_calibration_windows_are_drawn_from_the_training_part(tmp_path):
    overrides = squad_run(tmp_path)
    config = compose_run(*overrides, "calibration.examples=7")
    workload = SweepCache().dense(config).workload
    data = load_questions(config.dataset)
    pool = context_windows(word_tokenizer(), data.split("train"), 16, 2)
    other = context_windows(word_tokenizer(), data.split("validation"), 16, 2)
    known, evaluated = (
        {tuple(window["input_ids"]) for window in windows.encoded} for windows in (pool, other)
    )
    assert not known & evaluated
    drawn = workload.calibration(config.calibration, 3)
    rows = [
        tuple(ids[mask.bool()].tolist())
        for batch in drawn
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert len(rows) == 7
    assert set(rows) <= known
    assert workload.sequence_length == pytest.approx(np.mean(pool.lengths))
    assert workload.calibration(config.calibration, 3).digest == drawn.digest
    assert workload.calibration(config.calibration, 4).digest != drawn.digest


def test_windows_longer_than_the_model_are_refused(tmp_path):
    overrides = squad_run(tmp_path)
    with pytest.raises(DataError, match="the model has 40 positions; got windows of 41"):
        SweepCache().dense(compose_run(*overrides, "dataset.max_length=41"))


# Training


def supervision(*asked):
    return QuestionSupervision(QuestionData("q", "1.1", {"train": asked}), 14, 2)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_loss_is_the_models_own_and_padding_takes_no_part(side):
    model, tokenizer = pico_model("bert", "ForQuestionAnswering"), word_tokenizer(side=side)
    asked = questions(5, 30, 9)
    examples = supervision(*asked).encode(tokenizer, range(3))
    windows = context_windows(tokenizer, asked, 14, 2)
    assert examples.encoded == windows.encoded
    batches = list(windows.batches(tokenizer, 3))
    assert any((batch["attention_mask"] == 0).any() for _, batch in batches)
    for numbers, batch in batches:
        with torch.no_grad():
            outputs = model(**batch)
        expected = []
        for row, number in enumerate(numbers):
            seen = batch["attention_mask"][row].bool()
            owner = asked[windows.question[number]]
            places = windows.answer_tokens(number, owner.span)
            for logits, place in zip(
                (outputs.start_logits, outputs.end_logits), places, strict=True
            ):
                expected.append(
                    functional.cross_entropy(logits[row][seen][None], torch.tensor([place]))
                )
        loss = examples.loss(outputs, batch, list(numbers))
        assert float(loss) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)
    targets = [windows.answer_tokens(n, asked[q].span) for n, q in enumerate(windows.question)]
    assert (0, 0) in targets
    assert (6, 6) in targets  # [CLS], two words, [SEP], and the third word of the context


def test_misplaced_answers_are_not_learnt():
    good, moved, free = questions(5, 6, 7)
    moved = Question(
        *(getattr(moved, k) for k in ("id", "title", "context", "text")), (Answer("w1", 90),)
    )
    free = Question(*(getattr(free, k) for k in ("id", "title", "context", "text")), ())
    learnt = supervision(good, moved, free)
    assert learnt.recipe["left_out"] == 1
    assert len(learnt.encode(word_tokenizer(), range(3)).encoded) == 2
