"""Models that answer questions: their scores, records of runs and training."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pico_benchmarks import squad_overrides, write_squad
from pico_config import compose_run
from pico_data import WORDS, word_tokenizer
from pico_models import pico_model
from pico_runs import run_one
from squad_examples import metrics_of
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering

from stat_repro.data.batching import padded_batches
from stat_repro.data.context_windows import context_windows
from stat_repro.data.errors import DataError
from stat_repro.data.squad import QuestionData, load_questions
from stat_repro.data.squad_files import Answer, Question
from stat_repro.evaluation.question_answering import predict_spans
from stat_repro.finetune.training_data import TrainingQuestions
from stat_repro.run.sweep_cache import SweepCache
from stat_repro.workloads import QuestionWorkload

pytestmark = pytest.mark.usefixtures("own_cache")


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
@pytest.mark.parametrize("name", ["bert", "electra", "distilbert"])
def test_scores_are_those_of_single_windows_on_either_padding_side(name, side):
    model, tokenizer = pico_model(name, "ForQuestionAnswering").train(), word_tokenizer(side=side)
    windows = context_windows(tokenizer, questions(5, 30, 9), 14, 2)
    got = predict_spans(model, padded_batches(tokenizer, windows.encoded, 1), windows)
    assert model.training
    batched = predict_spans(model, padded_batches(tokenizer, windows.encoded, 4), windows)
    model.eval()
    for number, (left, right) in enumerate(pairwise(got.bounds)):
        inputs = {k: torch.tensor([v]) for k, v in windows.encoded[number].items()}
        with torch.no_grad():
            outputs = model(**inputs)
        places = [0, *range(windows.first[number], len(windows.encoded[number]["input_ids"]) - 1)]
        assert len(places) == right - left
        for logits, scores in (
            (outputs.start_logits, got.start),
            (outputs.end_logits, got.end),
        ):
            assert scores[left:right] == pytest.approx(logits[0, places].numpy(), rel=1e-5)
    if side == "right":
        assert batched.start == pytest.approx(got.start, rel=1e-3, abs=1e-4)
        assert batched.end == pytest.approx(got.end, rel=1e-3, abs=1e-4)


def test_padding_is_left_out_whichever_side_the_tokenizer_prefers():
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
        got = predict_spans(Identity(), padded_batches(tokenizer, windows.encoded, 4), windows)
        for number, (left, right) in enumerate(pairwise(got.bounds)):
            ids = windows.encoded[number]["input_ids"]
            expected = [ids[0], *ids[windows.first[number] : -1]]
            assert got.start[left:right].tolist() == expected
            assert (-got.end[left:right]).tolist() == expected


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
    assert record.metrics["dense"] == pytest.approx(metrics_of(given, references))
    assert record.metrics["dense"] != record.metrics["pruned"]
    expected = {
        "split": "validation",
        "examples": 17,
        "squad_version": "1.1",
        "unanswerable": 0,
        "max_length": 16,
        "stride": 2,
        "questions_cut": 0,
        "windows": len(context_windows(word_tokenizer(), asked, 16, 2).encoded),
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
    assert record.metrics["dense"] == pytest.approx(metrics_of(given, references, "2.0"))
    assert {"has_answer_f1", "no_answer_f1"} < set(record.metrics["pruned"])
    told = record.metrics["protocol"]
    assert (told["squad_version"], told["unanswerable"]) == ("2.0", 6)
    assert told["null_threshold"] == threshold


def test_points_of_a_sweep_share_the_dense_scores(tmp_path):
    overrides = squad_run(tmp_path)
    cache = SweepCache()
    config = compose_run(*overrides)
    workload = cache.dense(config).workload
    assert isinstance(workload, QuestionWorkload)
    first = cache.dense_outputs(config)
    assert cache.dense_outputs(compose_run(*overrides, "ratio=0.1")) is first
    # Without shared scores the same comes out.
    model = cache.dense(config).loaded.model
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
        for batch in drawn.batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert len(rows) == 7
    assert set(rows) <= known
    assert workload.sequence_length == pytest.approx(
        np.mean([len(window["input_ids"]) for window in pool.encoded])
    )
    assert workload.calibration(config.calibration, 3).digest == drawn.digest
    assert workload.calibration(config.calibration, 4).digest != drawn.digest


def test_windows_longer_than_the_model_are_refused(tmp_path):
    overrides = squad_run(tmp_path)
    with pytest.raises(DataError, match="at most 40 tokens, the model's positions; got 41"):
        SweepCache().dense(compose_run(*overrides, "dataset.max_length=41"))


def test_files_of_ones_own_are_cut_as_short_models_can_read_them(tmp_path, caplog):
    squad_run(tmp_path)
    file = write_squad(tmp_path / "dev.json")
    words = ["model=hf", "model.name=pico", f"model.path={tmp_path / 'bert'}", "finetune=none"]
    words += ["dataset=squad_dev", f"dataset.path={file}"]
    for more, stride in (([], 13), (["dataset.answers.stride=7"], 7)):
        read = SweepCache().dense(compose_run(*words, *more)).workload.config
        assert (read.max_length, read.answers.stride) == (40, stride)
    assert "dataset.max_length: 40, the model's positions, instead of 384" in caplog.text
    assert "dataset.answers.stride: 13, a third of that" in caplog.text
    with pytest.raises(DataError, match="positions; got 41"):
        SweepCache().dense(compose_run(*words, "dataset.max_length=41"))


def supervision(*asked):
    return TrainingQuestions(QuestionData("q", "1.1", {"train": asked}), 14, 2)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_loss_is_the_models_own_and_padding_takes_no_part(side):
    model, tokenizer = pico_model("bert", "ForQuestionAnswering"), word_tokenizer(side=side)
    asked = questions(5, 30, 9)
    examples = supervision(*asked).encode(tokenizer, range(3))
    windows = context_windows(tokenizer, asked, 14, 2)
    assert examples.encoded == windows.encoded
    batches = list(padded_batches(tokenizer, windows.encoded, 3))
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
