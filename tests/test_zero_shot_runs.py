"""Zero-shot tasks in runs: records, tables, names of runs, refusals."""

import io
import json

import pandas as pd
import pytest
from made_up_records import language_record
from pico_benchmarks import plain_tokenizer
from pico_config import compose_run
from pico_models import pico_model
from pico_project import text_overrides
from zero_shot_tasks import QUESTIONS, by_hand, write_tasks

from stat_repro.config import ConfigError
from stat_repro.evaluation import zero_shot
from stat_repro.evaluation.zero_shot_tasks import ZeroShotError
from stat_repro.reporting.figures import metric_figures
from stat_repro.reporting.tables import result_table, summary_table, to_markdown
from stat_repro.results.store import read_record, save_record, to_frame
from stat_repro.run.identity import identify
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


@pytest.fixture
def folder(tmp_path):
    return write_tasks(tmp_path / "tasks")


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
    cache = SweepCache()
    config = compose_run(*arguments, "ratio=0.5")
    experiment = run_experiment(config, cache)
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
    second = run_experiment(compose_run(*arguments, "ratio=0.3"), cache)
    assert second.record.metrics["dense"] == metrics["dense"]
    assert len(calls) == 3  # the dense model once for both points
    paths = [save_record(e.record, tmp_path, e.examples) for e in (experiment, second)]
    stored = [read_record(path) for path in paths]
    table = result_table(to_frame(stored)).cells
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
    table = result_table(frame).cells
    cells = dict(zip(table["quantity"], table["ratio 0.5"], strict=True))
    assert list(cells.items())[:6] == [
        ("token perplexity", "60.00 (n=1)"),
        ("mean zero-shot accuracy (%)", "75.00 (n=1)"),
        ("an_acc_task accuracy (%)", "100.00 (n=1)"),
        ("mine accuracy (%)", "25.00 (n=1)"),
        ("mine normalised accuracy (%)", "50.00 (n=1)"),
        ("own_word_count", "12.5000 (n=1)"),
    ]
    assert "| mine accuracy (%) | 25.00 | 25.00 (n=1) |" in to_markdown(table)
    numbers = pd.read_csv(io.StringIO(result_table(frame).csv()), comment="#")
    values = dict(zip(numbers["quantity"], numbers["mean"], strict=True))
    assert values.items() >= scores.items()
    (summary,) = summary_table(frame).to_dict("records")
    assert (summary["metric"], summary["pruned"]) == ("token perplexity", "60.00")
    others = ("zero_shot_mean", "own_word_count", "mine_acc")
    names = [figure.name for figure in metric_figures(frame, others=others[1:])]
    assert {f"figure_pico_prose_{name}" for name in others} < set(names)


def test_tasks_and_their_files_make_the_run(tmp_path, folder):
    arguments = overrides_for(tmp_path, folder)
    name = identify(compose_run(*arguments))
    without = compose_run(*[one for one in arguments if "zero_shot" not in one])
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


def test_a_tokenizer_that_the_harness_cannot_take_is_told_before_any_work(tmp_path, folder):
    arguments = overrides_for(tmp_path, folder)
    tokenizer = plain_tokenizer()
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path / "llama")
    with pytest.raises(ZeroShotError, match="BOS or EOS"):
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
