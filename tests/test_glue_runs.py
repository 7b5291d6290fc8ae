"""GLUE: configurations, run names, and runs from a checkpoint to a record."""

import shutil

import pytest
from glue_files import (
    TASKS,
    examples,
    hub_table,
    load,
    write_hub_layout,
    write_official,
    write_table,
)
from pico_config import CONF, compose_run
from pico_data import word_tokenizer
from pico_project import save_checkpoint

from stat_repro.data import glue
from stat_repro.data.batching import encode_sentences
from stat_repro.data.errors import DataError
from stat_repro.data.glue import GLUE_TASKS
from stat_repro.data.task_data import load_task_data
from stat_repro.run.identity import identify
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_configuration(task):
    run = compose_run(f"dataset={task}")
    data = run.dataset
    assert (data.name, data.source, data.path) == (task, f"glue:{task}", "nyu-mll/glue")
    assert glue.glue_task(data) is GLUE_TASKS[task]
    assert run.evaluation.split == "validation"
    assert run.calibration.examples == 512
    text = " ".join((CONF / "dataset" / f"{task}.yaml").read_text().replace("#", "").split())
    assert "hidden" in text
    for rows in GLUE_TASKS[task].rows:
        assert f" {rows:,} " in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "glue:wnli"}, "glue:mnli, .*got 'glue:wnli'"),
        ({"task": "regression"}, "rte is a classification task; got regression"),
        ({"train": "mine.csv"}, r"dataset\.train.*dataset\.path=<folder>"),
        ({"label_column": "gold"}, r"dataset\.label_column.*dataset=table_file"),
        ({"path": None}, "expected nyu-mll/glue or a local folder"),
    ],
)
def test_settings_that_contradict_the_benchmark_are_refused(changes, message):
    values = {"name": "rte", "task": "classification", "source": "glue:rte", "path": "x"}
    with pytest.raises(DataError, match=message):
        load_task_data(glue.DatasetConfig(**{**values, **changes}))


def test_the_run_is_told_by_the_content_of_the_tasks_files(tmp_path):
    def name(folder, task="rte"):
        return identify(compose_run(f"dataset={task}", f"dataset.path={folder}"))

    write_official("rte", tmp_path / "a")
    first = name(tmp_path / "a")
    write_official("cola", tmp_path / "a")  # another task's files do not count
    (tmp_path / "a" / "README.tsv").write_text("x")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert name(tmp_path / "b") == name(tmp_path / "b" / "RTE") == first
    assert name("nyu-mll/glue") != first
    with (tmp_path / "b" / "RTE" / "dev.tsv").open("a") as file:
        file.write("9\tw1\tw2\tentailment\n")
    assert name(tmp_path / "b") != first
    assert name(tmp_path / "b", "cola") != name(tmp_path / "b")


def test_other_benchmarks_are_told_by_their_files(tmp_path):
    """A file by its content, a folder by the names and contents of the data in it."""
    for folder in ("a", "b"):
        (tmp_path / folder / "parts").mkdir(parents=True)
        (tmp_path / folder / "parts" / "test.txt").write_text("some words")
    (tmp_path / "b" / "README.md").write_text("not data")

    def name(path):
        return identify(compose_run("dataset.source=squad", f"dataset.path={path}"))

    first, file = name(tmp_path / "a"), name(tmp_path / "a" / "parts" / "test.txt")
    assert name(tmp_path / "b") == first
    assert name(tmp_path / "b" / "parts" / "test.txt") == file != first
    (tmp_path / "b" / "parts" / "test.txt").rename(tmp_path / "b" / "parts" / "train.txt")
    assert name(tmp_path / "b") != first
    assert name("owner/name") == name("owner/name") != name("owner/other")


def test_the_published_sizes_are_no_deviation():
    assert GLUE_TASKS["sst2"].deviation(67_349, 872) is None
    assert "6,920 training" in GLUE_TASKS["sst2"].deviation(6_920, 872)


def test_pairs_reach_the_tokenizer_as_pairs(tmp_path):
    rows = load("mrpc", write_hub_layout("mrpc", tmp_path)).split("train")
    tokenizer = word_tokenizer()
    first, second = rows[0]["text"], rows[0]["text_pair"]
    expected = tokenizer.convert_tokens_to_ids(
        ["[CLS]", *first.split(), "[SEP]", *second.split(), "[SEP]"]
    )
    assert encode_sentences(tokenizer, rows, 32)[0]["input_ids"] == expected


def overrides(task, folder, checkpoint):
    return [
        *("model=hf", f"model.path={checkpoint}", "model.name=pico", "tracking=disabled"),
        *(f"dataset={task}", f"dataset.path={folder}", "dataset.max_length=16"),
        *("calibration.examples=20", "finetune=glue", "finetune.epochs=1", "ratio=0.3"),
    ]


def test_a_pair_task_from_checkpoint_to_record(tmp_path):
    names = {0: "not_equivalent", 1: "equivalent"}
    checkpoint = save_checkpoint(
        tmp_path / "bert", "bert", id2label=names, label2id={n: i for i, n in names.items()}
    )
    folder = write_official("mrpc", tmp_path / "glue_data", rows=24)
    given = overrides("mrpc", folder, checkpoint)
    record = run_experiment(compose_run(*given), SweepCache()).record
    assert set(record.metrics["pruned"]) == {"accuracy", "f1", "matthews"}
    protocol = record.metrics["protocol"]
    assert (protocol["split"], protocol["examples"]) == ("validation", 24)
    assert protocol["benchmark"] == "GLUE"
    assert protocol["benchmark_metrics"] == ["accuracy", "f1"]
    assert protocol["benchmark_deviation"] == (
        "24 training and 24 validation examples, GLUE has 3,668 and 408"
    )
    assert "outputs" not in protocol
    assert set(record.provenance["data_hashes"]) == {"train", "validation", "calibration"}
    with pytest.raises(DataError, match="has no test file"):
        run_experiment(compose_run(*given, "evaluation.split=test"), SweepCache())


def test_scores_from_a_bare_encoder_to_record(tmp_path, monkeypatch):
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))
    checkpoint = save_checkpoint(tmp_path / "bare", "bert", head="Model")
    folder = write_hub_layout("stsb", tmp_path / "stsb", ".parquet", rows=24)
    record = run_experiment(
        compose_run(*overrides("stsb", folder, checkpoint)), SweepCache()
    ).record
    assert set(record.metrics["pruned"]) == {"pearson", "spearman"}
    assert record.metrics["protocol"]["benchmark_metrics"] == ["pearson", "spearman"]


def test_both_mnli_sets_share_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mnli"
    for task, start in (("mnli", 100), ("mnli_mismatched", 200)):
        write_hub_layout(task, folder)
        validation = GLUE_TASKS[task].parts["validation"][0]
        write_table(folder / f"{validation}.tsv", hub_table(task, examples(task, 20, start)))
    both = [load(task, folder) for task in ("mnli", "mnli_mismatched")]
    assert both[0].fingerprint["train"] == both[1].fingerprint["train"]
    assert both[0].fingerprint["validation"] != both[1].fingerprint["validation"]
    checkpoint = save_checkpoint(tmp_path / "bare", "bert", head="Model")
    records = []
    for task in ("mnli", "mnli_mismatched"):
        given = overrides(task, folder, checkpoint)
        given[given.index("calibration.examples=20")] = "calibration.examples=12"
        records.append(run_experiment(compose_run(*given), SweepCache()).record)
    assert len(list((tmp_path / "cache" / "checkpoints").glob("[0-9a-f]*"))) == 1
    assert records[0].provenance["model_hash"] == records[1].provenance["model_hash"]
    assert records[0].run_id != records[1].run_id
