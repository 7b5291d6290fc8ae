"""Zero-shot tasks through lm-eval, on a local multiple-choice file and a tiny model; no network."""

import copy
import json
import math
import sys

import pytest
import torch
from pico_benchmarks import plain_tokenizer
from pico_data import word_tokenizer
from pico_models import pico_model
from zero_shot_tasks import QUESTIONS, by_hand, write_generating, write_tasks

from stat_repro.evaluation import zero_shot, zero_shot_tasks
from stat_repro.evaluation.zero_shot import evaluate_zero_shot
from stat_repro.evaluation.zero_shot_tasks import ZeroShotError, load_tasks

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


@pytest.fixture
def folder(tmp_path):
    return write_tasks(tmp_path / "tasks")


def test_accuracies_are_those_of_the_log_likelihoods(folder):
    tokenizer = plain_tokenizer()
    loaded = load_tasks(("mine", "other"), str(folder), 0)
    results = []
    for seed in (0, 1):
        model = pico_model("llama_grouped", seed=seed).train()
        before = copy.deepcopy(model.state_dict())
        scores = evaluate_zero_shot(model, tokenizer, loaded, batch_size=3)
        acc, acc_norm = by_hand(model.eval(), tokenizer, QUESTIONS)
        other, other_norm = by_hand(model, tokenizer, QUESTIONS[:5])
        assert scores.metrics == pytest.approx(
            {
                "mine_acc": acc,
                "mine_acc_norm": acc_norm,
                "other_acc": other,
                "other_acc_norm": other_norm,
                "zero_shot_mean": (acc_norm + other_norm) / 2,
            }
        )
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        results.append(scores)
    assert results[0].metrics != results[1].metrics
    assert results[0].protocol == results[1].protocol
    assert {acc, acc_norm} - {0.0, 1.0}  # the questions can tell models apart


def test_the_tokenizers_own_bos_is_put_in_front_once(folder):
    loaded = load_tasks(("mine",), str(folder), 0)
    model, metrics = pico_model("llama_grouped"), []
    for bos, told in ((False, "none"), (True, "1")):
        tokenizer = plain_tokenizer(bos=bos)
        scores = evaluate_zero_shot(model, tokenizer, loaded)
        acc, acc_norm = by_hand(model, tokenizer, QUESTIONS)
        assert scores.metrics["mine_acc"] == pytest.approx(acc)
        assert scores.metrics["mine_acc_norm"] == pytest.approx(acc_norm)
        assert scores.protocol["special_tokens"].endswith(f"in front of every text: {told}")
        metrics.append(scores.metrics)
    assert metrics[0] != metrics[1]  # else this could not tell whether there is one


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_collapsed_model_has_no_accuracy(folder, bad):
    loaded = load_tasks(("mine",), str(folder), 0)
    model = pico_model("llama_grouped")
    whole = evaluate_zero_shot(model, plain_tokenizer(), loaded)
    handle = model.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor([7]), bad)
    )
    broken = evaluate_zero_shot(model, plain_tokenizer(), loaded)
    assert set(broken.metrics) == set(whole.metrics)
    assert all(math.isnan(value) for value in broken.metrics.values())
    handle.remove()
    assert evaluate_zero_shot(model, plain_tokenizer(), loaded) == whole
    assert not model._forward_hooks


def test_protocol_and_fewer_examples(folder):
    loaded = load_tasks(("mine",), str(folder), 1)
    tokenizer, model = plain_tokenizer(), pico_model("llama_grouped")
    scores = evaluate_zero_shot(model, tokenizer, loaded, examples=4)
    protocol = scores.protocol
    assert protocol["harness"].startswith("lm-eval 0.4.")
    assert protocol["tasks"] == {"mine": {"version": 3, "examples": 4, "of": 12}}
    assert (protocol["shots"], protocol["first_examples"]) == (1, 4)
    assert protocol["local_tasks"] == ["mine"]
    assert protocol["shots_seed"] == zero_shot.SEED
    again = evaluate_zero_shot(model, tokenizer, loaded, examples=4)
    assert again == scores
    loaded = load_tasks(("mine",), str(folder), 0)
    without = evaluate_zero_shot(model, tokenizer, loaded, examples=4)
    acc, acc_norm = by_hand(model, tokenizer, QUESTIONS[:4])
    assert without.metrics["mine_acc"] == pytest.approx(acc)
    assert without.metrics["mine_acc_norm"] == pytest.approx(acc_norm)
    assert tokenizer.pad_token == "[PAD]"


def test_all_models_read_the_same_solved_examples(folder):
    loaded = load_tasks(("mine",), str(folder), 2)
    prompts = []
    for _ in range(2):
        evaluate_zero_shot(pico_model("llama_grouped"), plain_tokenizer(), loaded, examples=4)
        prompts.append([instance.args for instance in loaded.tasks["mine"].instances])
    assert prompts[0] == prompts[1]
    assert prompts[0][0][0] != QUESTIONS[0]["question"]


def test_no_question_finds_its_own_answer(folder):
    file, alone = folder / "mine.yaml", {"training_split: train\n": ""}
    same = {str(folder / "solved.jsonl"): str(folder / "mine.jsonl")}
    for changes, shots, says in (
        ({}, 5, r"shots: expected at most 4, .* for mine; got 5$"),
        (same, 1, r"shots: expected solved examples of mine .* got these rows and 1; choose"),
        (alone, 1, r"shots: expected solved examples of mine .* got these rows and 1; choose"),
        (alone | {"test_split: test": "test_split: test\nfewshot_split: test"}, 12, "at most 11"),
    ):
        text = before = file.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        file.write_text(text)
        with pytest.raises(ZeroShotError, match=says):
            load_tasks(("mine",), str(folder), shots)
        file.write_text(before)
    file.write_text(text)
    loaded = load_tasks(("mine",), str(folder), 11)
    evaluate_zero_shot(pico_model("llama_grouped"), plain_tokenizer(), loaded)
    for instance in loaded.tasks["mine"].instances:
        assert instance.args[0].count(instance.doc["question"]) == 1


def test_metrics_that_do_not_fit_are_told(folder):
    file = folder / "mine.yaml"
    file.write_text(file.read_text().replace("metric: acc}", "metric: f1}"))
    loaded = load_tasks(("mine",), str(folder), 0)
    with pytest.raises(ZeroShotError, match=r"metrics for such answers; got .*mine.*multiclass"):
        evaluate_zero_shot(pico_model("llama_grouped"), plain_tokenizer(), loaded)


def test_a_head_of_its_own_stays_where_the_configuration_ties_it(folder):
    model = pico_model("llama_tied")
    own = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
    model.lm_head.weight = torch.nn.Parameter(own)
    scores = evaluate_zero_shot(model, plain_tokenizer(), load_tasks(("mine",), str(folder), 0))
    assert torch.equal(model.lm_head.weight, own)
    acc, _ = by_hand(model, plain_tokenizer(), QUESTIONS)
    assert scores.metrics["mine_acc"] == pytest.approx(acc)
    assert "tie_weights" not in vars(model)


def test_tasks_without_accuracy_have_no_mean():
    results = {"a": {"alias": "a", "exact_match,strict": 0.5, "exact_match_stderr,strict": "N/A"}}
    assert zero_shot._metrics(results) == {"a_exact_match_strict": 0.5}


def test_what_is_sampled_depends_on_the_model_alone(tmp_path):
    loaded, tokenizer = write_generating(tmp_path / "tasks", sampled=True), plain_tokenizer()
    tokenizer.eos_token = "[SEP]"
    state, made = torch.get_rng_state(), []
    for _ in range(2):
        evaluate_zero_shot(pico_model("gpt2"), tokenizer, loaded)
        made.append([one.resps for one in loaded.tasks["made"].instances])
    assert made[0] == made[1]
    assert made[0][:40] != made[0][40:80]  # the same questions
    assert torch.equal(torch.get_rng_state(), state)


def test_answers_that_cannot_be_generated_or_read(folder, tmp_path):
    model, tokenizer = pico_model("llama_grouped"), plain_tokenizer()
    with pytest.raises(ZeroShotError, match="an EOS token for made, whose answers are generated"):
        evaluate_zero_shot(model, tokenizer, write_generating(tmp_path / "made"))
    tokenizer.eos_token = "[SEP]"
    long = write_generating(tmp_path / "long", tokens=64)
    with pytest.raises(ZeroShotError, match=r"fit into the 64 .* among made .*generate \(64\)"):
        evaluate_zero_shot(model, tokenizer, long)
    row = {**QUESTIONS[0], "choices": ["w1", "w2 " * 70, "w3"]}
    (folder / "mine.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ZeroShotError, match=r"fit into the 64 .* among mine"):
        evaluate_zero_shot(model, tokenizer, load_tasks(("mine",), str(folder), 0))


@pytest.mark.parametrize(
    ("change", "row", "message"),
    [
        ({"choices": None}, 3, r"mine, row 4: expected choices that are texts; got None"),
        ({"choices": ["w1", 7, "w2"]}, 0, r"mine.*data set is json \(TypeError: .*Choose files th"),
        ({"choices": ["w1", "", "w2"]}, 0, r"mine.*json \(IndexError: .* and no empty choice$"),
    ],
)
def test_rows_that_are_no_questions_are_refused(folder, change, row, message):
    rows = [{**one, **(change if place == row else {})} for place, one in enumerate(QUESTIONS)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(ZeroShotError, match=message) as caught:
        load_tasks(("mine",), str(folder), 0)
    assert "Offline" not in str(caught.value)


@pytest.mark.parametrize("label", [3, -1, "none of them"])
def test_answers_that_are_no_choice_are_told(label, folder, caplog):
    rows = [*QUESTIONS[:5], {**QUESTIONS[5], "label": label}]
    (folder / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    load_tasks(("mine",), str(folder), 0)
    assert "mine: expected answers among the choices" in caplog.text
    assert f"; 1 of 6 rows have others, such as row 6 with {label!r}" in caplog.text


def test_what_cannot_be_evaluated(folder, tmp_path, monkeypatch):
    with pytest.raises(ZeroShotError, match=r"include: expected a folder .*nowhere"):
        load_tasks(("mine",), str(tmp_path / "nowhere"), 0)
    (folder / "mine.jsonl").unlink()
    with pytest.raises(ZeroShotError, match=r"mine cannot be loaded; its data set is json .*mine"):
        load_tasks(("mine",), str(folder), 0)
    tokenizer = plain_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(ZeroShotError, match="BOS or EOS"):
        evaluate_zero_shot(
            pico_model("llama_grouped"), tokenizer, load_tasks(("other",), str(folder), 0)
        )
    closing = word_tokenizer()
    closing.bos_token = "[CLS]"
    with pytest.raises(ZeroShotError, match=r"only in front of a text; .*'\[SEP\]'\] of 'a'"):
        evaluate_zero_shot(
            pico_model("llama_grouped"), closing, load_tasks(("other",), str(folder), 0)
        )
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ZeroShotError, match=r"pip install lm-eval"):
        load_tasks(("mine",), None, 0)


def test_names_of_the_harness(folder, monkeypatch):
    """Unknown names, groups, and tasks whose data only the hub has; with the harness' index."""
    from lm_eval import tasks

    index = tasks.TaskManager(
        include_path=[
            f"{tasks.__path__[0]}/{name}" for name in ("piqa", "openbookqa", "arc", "winogrande")
        ],
        include_defaults=False,
    )
    monkeypatch.setattr(zero_shot_tasks, "_task_manager", lambda names, include: (index, set()))
    with pytest.raises(ZeroShotError, match=r"no task 'pika' in lm-eval; close names: piqa"):
        load_tasks(("pika",), None, 0)
    with pytest.raises(ZeroShotError, match=r"ai2_arc is a group .*arc_challenge, arc_easy"):
        load_tasks(("ai2_arc",), None, 0)
    for name, data in [
        ("piqa", "baber/piqa"),
        ("openbookqa", "allenai/openbookqa main"),
        ("arc_challenge", "allenai/ai2_arc ARC-Challenge"),
        ("winogrande", "allenai/winogrande winogrande_xl"),
    ]:
        with pytest.raises(ZeroShotError) as caught:
            load_tasks((name,), None, 0)
        message = str(caught.value)
        assert f"{name} cannot be loaded; its data set is {data}" in message
        assert "evaluation.zero_shot.include=<folder>" in message
        assert "\n" not in message
