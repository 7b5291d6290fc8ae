"""GLUE: labels of local files, and a hub that is played by the test."""

import datasets
import pytest
from glue_files import TASKS, assert_rows, examples, hub_table, load, write_hub_layout, write_table

from stat_repro.data import glue
from stat_repro.data.errors import DataError
from stat_repro.data.glue import GLUE_TASKS


@pytest.mark.parametrize("task", ["rte", "stsb"])
@pytest.mark.parametrize("labels", [[-1, -1], [-1.0, -1.0], ["-1", "-1"], None])
def test_hidden_test_labels_leave_the_part_out(tmp_path, task, labels):
    write_hub_layout(task, tmp_path)
    table = {**hub_table(task, examples(task, 2)), "label": labels}
    if labels is None:
        del table["label"]
    write_table(tmp_path / "test.json", table)
    data = load(task, tmp_path)
    assert set(data.splits) == {"train", "validation"}
    with pytest.raises(DataError, match=r"no labels.*evaluation\.split=validation"):
        data.split("test")


def test_a_labelled_test_part_can_be_evaluated(tmp_path):
    write_hub_layout("rte", tmp_path)
    write_table(tmp_path / "test.json", hub_table("rte", examples("rte", 5)))
    assert len(load("rte", tmp_path).split("test")) == 5


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        ("mnli", "-", "row 2: expected entailment, neutral, contradiction, or 0 to 2.*got '-'"),
        ("mnli", -1, r"row 2: .*\(-1: a hidden label\); got '-1'"),
        ("sst2", 2, "row 2: expected negative, positive, or 0 to 1 in this order .*; got '2'"),
        ("rte", "", "row 2: expected a class"),
        ("stsb", -1.0, "row 2: expected a score from 0 to 5; got -1"),
        ("stsb", "high", "row 2: expected a finite number"),
    ],
)
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_other_labels_are_refused(tmp_path, task, label, message, part):
    write_hub_layout(task, tmp_path, ".json")
    table = hub_table(task, examples(task, 3))
    table["label"][1] = label
    write_table(tmp_path / f"{GLUE_TASKS[task].parts[part][0]}.json", table)
    with pytest.raises(DataError, match=message):
        load(task, tmp_path)


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers with made-up rows in the real layout, and remembers what it was asked."""
    asked = []

    def answer(name, **options):
        asked.append((name, options["subset"], options["split"], options["revision"]))
        task = options["subset"]
        table = hub_table(task, examples(task, 12, 0 if options["split"] == "train" else 100))
        kinds = {column: datasets.Value("string") for column in table}
        classes = GLUE_TASKS[task].classes
        label = datasets.Value("float32") if classes is None else datasets.ClassLabel(names=classes)
        kinds |= {"idx": datasets.Value("int32"), "label": label}
        return datasets.Dataset.from_dict(table, features=datasets.Features(kinds))

    monkeypatch.setattr(glue, "from_hub", answer)
    return asked


@pytest.mark.parametrize("task", TASKS)
def test_from_the_hub(task, hub):
    data = load(task, "nyu-mll/glue", revision="abc")
    assert_rows(data, task)
    validation = GLUE_TASKS[task].parts["validation"][0]
    subset = task.removesuffix("_mismatched")
    assert hub == [("nyu-mll/glue", subset, part, "abc") for part in ("train", validation)]
    with pytest.raises(DataError, match=r"evaluation\.split=validation"):
        data.split("test")


def test_without_the_hub_the_message_names_the_local_form():
    with pytest.raises(
        DataError, match=r"split train.*dataset\.path=<path> with train and .*CoLA/"
    ):
        load("cola", "nyu-mll/glue")
