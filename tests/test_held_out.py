"""One file of the user: a fixed share of it is evaluated."""

from dataclasses import replace

import pytest
from pico_data import word_tokenizer

from stat_repro.config import DatasetConfig
from stat_repro.data.errors import DataError
from stat_repro.data.task_data import load_task_data
from stat_repro.data.text_data import load_text_data
from stat_repro.workloads import WindowWorkload


def config(path, task, source, **changes):
    given = DatasetConfig(name="x", task=task, source=source, train=str(path), held_out=0.2)
    return replace(given, **changes)


def test_a_table_is_split_by_rows(tmp_path):
    rows = [(f"row {i}", i % 3) for i in range(50)]
    path = tmp_path / "all.csv"
    path.write_text("text,label\n" + "".join(f"{text},c{label}\n" for text, label in rows))
    data = load_task_data(config(path, "classification", "table"))
    parts = {
        part: list(zip(table["text"], table["label"], strict=True))
        for part, table in data.splits.items()
    }
    assert {part: len(values) for part, values in parts.items()} == {"train": 40, "test": 10}
    assert sorted(parts["train"] + parts["test"]) == sorted(rows)
    assert parts["test"] != rows[-10:]
    assert data.label_names == ("c0", "c1", "c2")
    again = load_task_data(config(path, "classification", "table"))
    assert again.fingerprint == data.fingerprint
    other = load_task_data(config(path, "classification", "table", held_out=0.3))
    assert len(other.split("test")) == 15


@pytest.mark.parametrize("mark", ["\n", " ", ""])
def test_text_is_split_near_its_end_and_nothing_is_lost(mark, tmp_path):
    path = tmp_path / "all.txt"
    text = mark.join(f"w{i:03d}" for i in range(100))
    path.write_text(text)
    data = load_text_data(config(path, "language_modeling", "text"))
    (calibration,), (evaluation,) = data.calibration.documents, data.evaluation.documents
    assert calibration + evaluation == text
    assert evaluation.startswith(mark)
    assert 0.7 < len(calibration) / len(text) < 0.9


def test_a_table_of_texts_is_running_text(tmp_path):
    path = tmp_path / "all.tsv"
    path.write_text("body\n" + "".join(f"w1 w{i}\n" for i in range(20)))
    given = config(path, "language_modeling", "text", text_column="body", held_out=None)
    other = tmp_path / "other.jsonl"
    other.write_text('{"body": "w9"}\n{"body": "w8 w7"}\n')
    data = load_text_data(replace(given, test=str(other)))
    assert data.calibration.documents == tuple(f"w1 w{i}" for i in range(20))
    assert data.evaluation.documents == ("w9", "w8 w7")


def test_windows_are_those_that_the_shorter_part_fills(tmp_path, caplog):
    path = tmp_path / "all.txt"
    path.write_text(" ".join("w1" for _ in range(100)))
    given = config(path, "language_modeling", "text")
    data = load_text_data(given)
    workload = WindowWorkload(data, replace(given, at_most=True), word_tokenizer(), None)
    window = int(workload.sequence_length)
    assert 15 <= window <= 25
    assert f"dataset.window: {window}, the tokens of the shorter" in caplog.text
    with pytest.raises(DataError, match="text too short: expected at least 512 tokens"):
        WindowWorkload(data, given, word_tokenizer(), None)
