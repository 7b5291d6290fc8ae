"""GLUE from local folders in every layout there is."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
from glue_files import (
    TASKS,
    assert_rows,
    examples,
    hub_table,
    load,
    write_hub_layout,
    write_official,
    write_table,
)

from stat_repro.data.errors import DataError
from stat_repro.data.glue import GLUE_TASKS

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "sst2"


@pytest.mark.parametrize("task", TASKS)
def test_every_format_in_the_hubs_columns(tmp_path, task):
    marks = set()
    for ending in (".tsv", ".csv", ".json", ".jsonl", ".parquet"):
        data = load(task, write_hub_layout(task, tmp_path / ending[1:], ending))
        assert_rows(data, task)
        assert data.label_names == GLUE_TASKS[task].classes
        marks.add(json.dumps(data.fingerprint))
    assert len(marks) == 1


@pytest.mark.parametrize("task", TASKS)
def test_official_release(tmp_path, task):
    """All tasks under one folder, each in its own, with the release's columns and file names."""
    for other in TASKS:
        write_official(other, tmp_path / "glue_data")
    data = load(task, tmp_path / "glue_data")
    assert_rows(data, task)
    hub = load(task, write_hub_layout(task, tmp_path / "hub"))
    assert data.fingerprint == hub.fingerprint
    assert load(task, tmp_path / "glue_data" / GLUE_TASKS[task].folder).fingerprint == (
        hub.fingerprint
    )


@pytest.mark.parametrize("whole", [True, False])
def test_saved_to_disk(tmp_path, whole):
    """A DatasetDict or a folder per part; classes go by name where the data set numbers others."""
    rows = {"train": examples("qnli", 6), "validation": examples("qnli", 6, 100)}
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["not_entailment", "entailment"]),
            "idx": datasets.Value("int32"),
        }
    )
    parts = {}
    for part, found in rows.items():
        table = hub_table("qnli", found)
        table["label"] = [1 - label for label in table["label"]]
        parts[part] = datasets.Dataset.from_dict(table, features=features)
    if whole:
        datasets.DatasetDict(parts).save_to_disk(tmp_path / "qnli")
    else:
        for part, found in parts.items():
            found.save_to_disk(tmp_path / "qnli" / part)
    assert_rows(load("qnli", tmp_path / "qnli"), "qnli", 6)
    assert_rows(load("qnli", tmp_path), "qnli", 6)


def test_an_empty_saved_part_is_refused(tmp_path):
    datasets.Dataset.from_dict(hub_table("rte", [])).save_to_disk(tmp_path / "train")
    with pytest.raises(DataError, match="train: expected at least one row"):
        load("rte", tmp_path)


def test_classes_in_parquet_go_by_name_where_the_file_names_them(tmp_path):
    """As in a folder of save_to_disk: the numbers of another data set are not GLUE's."""
    names = ["not_entailment", "entailment"]
    table = {**hub_table("rte", examples("rte", 2)), "label": [1, 0]}
    rows = datasets.Dataset.from_dict(table).cast_column("label", datasets.ClassLabel(names=names))
    rows.to_parquet(tmp_path / "train.parquet")
    assert list(load("rte", tmp_path).split("train")["label"]) == [0, 1]
    (tmp_path / "train.parquet").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read"):
        load("rte", tmp_path)


def test_shards_of_the_hubs_repository(tmp_path):
    rows = examples("rte", 6)
    for part in (0, 1):
        write_table(
            tmp_path / "rte" / f"train-0000{part}-of-00002.parquet",
            hub_table("rte", rows[3 * part : 3 * part + 3]),
        )
    assert list(load("rte", tmp_path).split("train")["text"]) == [first for first, _, _ in rows]
    (tmp_path / "rte" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet: expected 2 .* got 1"):
        load("rte", tmp_path)


def test_a_shard_may_be_empty_and_a_part_may_not(tmp_path):
    rows = datasets.Dataset.from_dict({**hub_table("rte", examples("rte", 2)), "label": [1, 0]})
    shards = [tmp_path / f"train-0000{part}-of-00002.parquet" for part in (0, 1)]
    for shard, part in zip(shards, (rows, rows.select([])), strict=True):
        part.to_parquet(shard)
    assert len(load("rte", tmp_path).split("train")) == 2
    rows.select([]).to_parquet(shards[0])
    with pytest.raises(DataError, match="expected at least one row; the saved data set is empty"):
        load("rte", tmp_path)


@pytest.mark.parametrize("header", [True, False])
def test_sst2_with_and_without_a_header_line(tmp_path, header):
    lines = ["sentence\tlabel"] if header else []
    # A first sentence that reads like the header's is still a sentence.
    for part in ("train", "dev"):
        (tmp_path / f"{part}.tsv").write_text("\n".join([*lines, "sentence\t0", "fine film\t1"]))
    rows = load("sst2", tmp_path).split("validation")
    assert list(rows["text"]) == ["sentence", "fine film"]
    assert list(rows["label"]) == [0, 1]


def test_a_first_line_that_is_neither_header_nor_row_is_refused(tmp_path):
    (tmp_path / "train.tsv").write_text("text\tclass\nfine film\t1\n")
    with pytest.raises(DataError, match=r"'sentence'.*has text, class; without a header line"):
        load("sst2", tmp_path)


def test_a_quotation_mark_that_is_never_closed_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text('"sentence,label\n' + "fine film,1\n" * 12_000)
    with pytest.raises(DataError, match=r"train\.csv: cannot be read as csv"):
        load("sst2", tmp_path)


def test_two_names_for_one_column_are_refused(tmp_path):
    table = hub_table("mnli", examples("mnli", 3))
    write_table(tmp_path / "train.csv", {**table, "gold_label": table["label"]})
    with pytest.raises(DataError, match="expected one column 'label' or 'gold_label'"):
        load("mnli", tmp_path)


def test_two_forms_of_one_part_are_refused_with_both(tmp_path):
    write_hub_layout("sst2", tmp_path)
    shutil.copy(tmp_path / "train.tsv", tmp_path / "train.json")
    with pytest.raises(DataError, match=r"one train part; got .*train\.json and .*train\.tsv"):
        load("sst2", tmp_path)
    (tmp_path / "train.json").unlink()
    write_hub_layout("sst2", tmp_path / "SST-2")
    with pytest.raises(DataError, match=r"one train part; got .*SST-2"):
        load("sst2", tmp_path)


def test_a_folder_without_the_task_says_what_is_expected(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError) as caught:
        load("mnli_mismatched", tmp_path)
    for word in ("train", "validation_mismatched or dev_mismatched", ".tsv", "MNLI/", "notes.md"):
        assert word in str(caught.value)
    with pytest.raises(DataError, match=r"expected a folder with .* got a file"):
        load("sst2", tmp_path / "notes.md")


def test_a_missing_part_is_told_when_it_is_asked_for(tmp_path):
    write_hub_layout("cola", tmp_path)
    (tmp_path / "validation.tsv").unlink()
    data = load("cola", tmp_path)
    with pytest.raises(DataError, match="no validation or dev file"):
        data.split("validation")
    with pytest.raises(DataError, match="no validation or dev file"):
        load("cola", tmp_path, calibration_split="validation")
    (tmp_path / "train.tsv").rename(tmp_path / "dev.tsv")
    with pytest.raises(DataError, match=r"expected a train part; .* has no train file"):
        load("cola", tmp_path)


def test_an_empty_sentence_of_a_benchmark_is_kept_and_a_missing_one_refused(tmp_path):
    table = hub_table("qqp", examples("qqp", 3))
    table["question2"][1] = ""
    write_table(tmp_path / "train.csv", table)
    assert load("qqp", tmp_path).split("train")[1]["text_pair"] == ""
    table["question2"][1] = None
    (tmp_path / "train.csv").unlink()
    write_table(tmp_path / "train.jsonl", table)
    with pytest.raises(DataError, match="column 'question2', row 2: expected a text"):
        load("qqp", tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no copy of SST-2 beside the project")
def test_the_copy_of_sst2_without_header_lines():
    data = load("sst2", SHARED)
    assert {part: len(rows) for part, rows in data.splits.items()} == {
        "train": 6920,
        "validation": 872,
        "test": 1821,
    }
    assert data.split("validation")[0]["text"] == "one long string of cliches"
    assert data.split("validation")[0]["label"] == 0
