"""Zero-shot tasks through lm-eval, on a local multiple-choice file and a tiny model; no network."""

import copy
import io
import json
import math
import sys

import datasets
import pandas as pd
import pytest
import torch
from made_up_records import language_record
from pico_benchmarks import plain_tokenizer
from pico_data import WORDS, word_tokenizer
from pico_models import pico_model
from pico_project import text_overrides
from test_config import compose_run

from stat_repro import reporting
from stat_repro.config import ConfigError
from stat_repro.evaluation import zero_shot
from stat_repro.evaluation.zero_shot import ZeroShotError, evaluate_zero_shot, load_tasks
from stat_repro.results.store import read_record, save_record, to_frame
from stat_repro.run.identity import identify
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}, train: {data}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: label
doc_to_choice: choices
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 3}}
"""
QUESTIONS = [
    {
        "question": " ".join(WORDS[i : i + 3]),
        "choices": [WORDS[(7 * i) % 40], f"{WORDS[(5 * i) % 40]} {WORDS[i]} w1", WORDS[39 - i]],
        "label": i % 3,
    }
    for i in range(12)
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """What `datasets` keeps of local files goes to the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def folder(tmp_path):
    """A folder with the tasks `mine` and `other`."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, rows in (("mine", QUESTIONS), ("other", QUESTIONS[:5])):
        data = tasks / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tasks / f"{name}.yaml").write_text(TASK.format(name=name, data=data))
    return tasks


def by_hand(model, tokenizer, questions):
    """acc and acc_norm: the choice with the largest log-likelihood, as it is or per character."""
    right = torch.zeros(2)
    for question in questions:
        context = tokenizer(question["question"])["input_ids"]
        sums = []
        for choice in question["choices"]:
            ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([context + ids])).logits[0, :-1]
            log_p = logits.log_softmax(-1)[len(context) - 1 :]
            sums.append(float(log_p.gather(1, torch.tensor(ids)[:, None]).sum()))
        lengths = torch.tensor([len(choice) for choice in question["choices"]])
        scores = torch.tensor(sums)
        right += torch.stack([scores.argmax(), (scores / lengths).argmax()]) == question["label"]
    return (right / len(questions)).tolist()


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
    assert protocol["shots_seed"] == zero_shot.FEWSHOT_SEED
    again = evaluate_zero_shot(model, tokenizer, loaded, examples=4)
    assert again == scores
    loaded = load_tasks(("mine",), str(folder), 0)
    without = evaluate_zero_shot(model, tokenizer, loaded, examples=4)
    acc, acc_norm = by_hand(model, tokenizer, QUESTIONS[:4])
    assert without.metrics["mine_acc"] == pytest.approx(acc)
    assert without.metrics["mine_acc_norm"] == pytest.approx(acc_norm)
    assert tokenizer.pad_token == "[PAD]"


def test_tasks_without_accuracy_have_no_mean():
    results = {"a": {"alias": "a", "exact_match,strict": 0.5, "exact_match_stderr,strict": "N/A"}}
    assert zero_shot._metrics(results) == {"a_exact_match_strict": 0.5}


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
    with pytest.raises(ZeroShotError, match=r"pip install stat-repro\[zero_shot\]"):
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
    monkeypatch.setattr(zero_shot, "_task_manager", lambda names, include: (index, set()))
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


def overrides_for(tmp_path, folder):
    arguments = [o for o in text_overrides(tmp_path) if not o.startswith("hydra.")]
    plain_tokenizer().save_pretrained(tmp_path / "llama")
    return [
        *arguments,
        "evaluation.zero_shot.tasks=[mine,other]",
        f"evaluation.zero_shot.include={folder}",
    ]


def test_record_has_both_models_and_perplexity(tmp_path, folder, monkeypatch):
    arguments = overrides_for(tmp_path, folder)
    calls = []
    original = zero_shot.evaluate_zero_shot
    monkeypatch.setattr(
        "stat_repro.workloads.windows.evaluate_zero_shot",
        lambda model, *rest, **options: (
            calls.append(type(model).__name__) or original(model, *rest, **options)
        ),
    )
    session = SweepCache()
    config = compose_run(*arguments, "ratio=0.5")
    experiment = run_experiment(config, session)
    metrics = experiment.record.metrics
    tokenizer = plain_tokenizer()
    for name, model in (
        ("dense", pico_model("llama_grouped")),
        ("pruned", experiment.compression.model),
    ):
        acc, acc_norm = by_hand(model, tokenizer, QUESTIONS)
        assert metrics[name]["mine_acc"] == pytest.approx(acc)
        assert metrics[name]["mine_acc_norm"] == pytest.approx(acc_norm)
        assert metrics[name]["perplexity"] > 1
    assert metrics["dense"] != metrics["pruned"]
    assert metrics["protocol"]["zero_shot"]["tasks"]["mine"]["examples"] == 12
    second = run_experiment(compose_run(*arguments, "ratio=0.3"), session)
    assert second.record.metrics["dense"] == metrics["dense"]
    assert len(calls) == 3  # the dense model once for both points
    paths = [save_record(e.record, tmp_path, e.examples) for e in (experiment, second)]
    stored = [read_record(path) for path in paths]
    table = reporting.result_table(to_frame(stored))
    shown = {"mine accuracy (%)", "other normalised accuracy (%)", "mean zero-shot accuracy (%)"}
    assert shown < set(table["quantity"])
    assert len(set(table["variant"])) == 1  # both points have one protocol


def test_tables_and_figures_of_a_study_with_zero_shot_tasks():
    """The headline stays perplexity; every zero-shot metric is in the table, known or not."""
    scores = {
        "mine_acc": 0.25,
        "mine_acc_norm": 0.5,
        "an_acc_task_acc": 1.0,
        "own_word_count": 12.5,
        "zero_shot_mean": 0.75,
    }
    record = language_record(60.0)
    record.metrics["pruned"] |= scores
    record.metrics["dense"] |= scores
    frame = to_frame([record])
    table = reporting.result_table(frame)
    cells = dict(zip(table["quantity"], table["ratio 0.5"], strict=True))
    assert list(cells.items())[:6] == [
        ("token perplexity", "60.00 (n=1)"),
        ("mean zero-shot accuracy (%)", "75.00 (n=1)"),
        ("an_acc_task accuracy (%)", "100.00 (n=1)"),
        ("mine accuracy (%)", "25.00 (n=1)"),
        ("mine normalised accuracy (%)", "50.00 (n=1)"),
        ("own_word_count", "12.5000 (n=1)"),
    ]
    assert "| mine accuracy (%) | 25.00 | 25.00 (n=1) |" in reporting.to_markdown(table, "t", [])
    numbers = pd.read_csv(io.StringIO(reporting.to_csv(frame, [])), comment="#")
    values = dict(zip(numbers["quantity"], numbers["mean"], strict=True))
    assert values.items() >= scores.items()
    (summary,) = reporting.summary_table(frame).to_dict("records")
    assert (summary["metric"], summary["pruned"]) == ("token perplexity", "60.00")
    for name in ("own_word_count", "mine_acc"):
        assert reporting.figure_data(frame, "pico", "prose", name).quantity == name


def test_tasks_and_their_files_make_the_run(tmp_path, folder):
    arguments = overrides_for(tmp_path, folder)
    name = identify(compose_run(*arguments))
    without = compose_run(*arguments, "evaluation.zero_shot.tasks=[]")
    assert identify(without) != name
    moved = folder.rename(tmp_path / "moved")
    again = compose_run(*arguments, f"evaluation.zero_shot.include={moved}")
    assert identify(again) == name
    (moved / "mine.jsonl").write_text(json.dumps(QUESTIONS[0]) + "\n")
    assert identify(again) != name


def test_missing_tasks_are_told_before_any_work(tmp_path, folder, monkeypatch):
    arguments = overrides_for(tmp_path, folder)
    (folder / "other.jsonl").unlink()
    monkeypatch.setattr(
        "stat_repro.run.sweep_cache.load_checkpoint", lambda *a, **k: pytest.fail("late")
    )
    with pytest.raises(ZeroShotError, match="other cannot be loaded"):
        SweepCache().dense(compose_run(*arguments))


def test_encoders_have_no_zero_shot_tasks():
    with pytest.raises(ConfigError, match=r"evaluation\.zero_shot\.tasks run on causal"):
        compose_run("evaluation=zero_shot")


def test_shipped_option_has_the_seven_tasks():
    config = compose_run("model=smollm2", "dataset=wikitext2", "evaluation=zero_shot").evaluation
    assert config.zero_shot.tasks == [
        *("piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "boolq", "openbookqa")
    ]
    assert (config.zero_shot.shots, config.zero_shot.examples) == (0, None)
