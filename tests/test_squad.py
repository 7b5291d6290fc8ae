"""SQuAD: files in every layout and the split by article."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from squad_examples import metrics_of, question, write_squad

from stat_repro.config import DatasetConfig
from stat_repro.data.errors import DataError
from stat_repro.data.squad import load_questions
from stat_repro.data.squad_files import Answer

pytestmark = pytest.mark.usefixtures("own_cache")

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "squad" / "squaddev_v1.1.json"
EXTRA = REAL.parents[1] / "squad_extra"


def config(path, **changes):
    values = {"name": "squad", "task": "question_answering", "source": "squad"} | changes
    return DatasetConfig(path=None if path is None else str(path), **values)


def rows_of(path):
    """The official file as the hub's rows."""
    content = json.loads(path.read_text())
    return [
        {
            "id": entry["id"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": entry["question"],
            "answers": {
                key: [answer[key] for answer in entry["answers"]]
                for key in ("text", "answer_start")
            },
        }
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]


def write_form(folder, part, form, version):
    official = write_squad(folder.parent / f"{part}-source.json", version)
    rows = rows_of(official)
    if form == "official":
        official.rename(folder / f"{part}-v{version}.json")
    elif form == "parquet":
        pd.DataFrame(rows).to_parquet(folder / f"{part}.parquet")
    elif form == "hub":  # parquet as `datasets` writes it, under the name it has on the hub
        shard = folder / "plain_text" / f"{part}-00000-of-00001.parquet"
        datasets.Dataset.from_list(rows).to_parquet(shard)
    elif form == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(folder / part)
    else:
        lines = [json.dumps(row) for row in rows]
        text = "\n".join(lines) if form == "jsonl" else f"[{','.join(lines)}]"
        (folder / f"{part}.{form}").write_text(text + "\n")


@pytest.mark.parametrize("version", ["1.1", "2.0"])
@pytest.mark.parametrize("form", ["official", "jsonl", "json", "parquet", "hub", "saved"])
def test_every_layout_gives_the_same_questions(tmp_path, form, version):
    folder = tmp_path / "data"
    folder.mkdir()
    for part in ("train", "dev" if form == "official" else "validation"):
        write_form(folder, part, form, version)
    data = load_questions(config(folder))
    assert data.version == version
    expected = rows_of(write_squad(tmp_path / "again.json", version))
    for part in ("train", "validation"):
        for got, row in zip(data.split(part), expected, strict=True):
            assert (got.id, got.title, got.context, got.text) == (
                *(row[key] for key in ("id", "title", "context", "question")),
            )
            assert [answer.text for answer in got.answers] == row["answers"]["text"]
            assert [answer.start for answer in got.answers] == row["answers"]["answer_start"]
    assert data.fingerprint["train"] == data.fingerprint["validation"]
    assert sum(not q.answers for q in data.split("train")) == (6 if version == "2.0" else 0)
    with pytest.raises(DataError, match="expected a test part; there are only train, validation"):
        data.split("test")


def test_the_official_file_says_its_version_even_if_all_have_answers(tmp_path):
    path = write_squad(tmp_path / "f.json")
    assert load_questions(config(path, held_out=0.3)).version == "1.1"
    path.write_text(path.read_text().replace('"version": "1.1"', '"version": "v2.0"'))
    assert load_questions(config(path, held_out=0.3)).version == "2.0"


def test_held_out_articles_are_fixed_and_share_no_paragraph(tmp_path):
    path = write_squad(tmp_path / "one.json", articles=20)
    data = load_questions(config(path, held_out=0.3))
    train, held_out = data.split("train"), data.split("validation")
    assert (len(train), len(held_out)) == (56, 24)
    assert not {q.title for q in train} & {q.title for q in held_out}
    # The order of RandomState(0) over 20 titles, which numpy promises never to change.
    first = np.random.RandomState(0).permutation(20)[:6]
    assert {q.title for q in held_out} == {f"t{index}" for index in first}
    again = load_questions(config(path, held_out=0.3))
    assert again.fingerprint == data.fingerprint
    assert data.fingerprint["train"] != load_questions(config(path, held_out=0.5)).fingerprint
    assert [q.id for q in train] == [
        r["id"] for r in rows_of(path) if r["id"] in {q.id for q in train}
    ]


def test_a_split_that_cannot_be_made_is_told(tmp_path):
    path = write_squad(tmp_path / "one.json", articles=2)
    with pytest.raises(DataError, match=r"one file holds one part.*dataset\.held_out=0\.3"):
        load_questions(config(path))
    with pytest.raises(DataError, match="leaves none to train on"):
        load_questions(config(path, held_out=0.9))
    rows = [{k: v for k, v in row.items() if k != "title"} for row in rows_of(path)]
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="expected a title for every question; 8 have none"):
        load_questions(config(table, held_out=0.5))
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / "train.json")
    assert list(load_questions(config(folder)).splits) == ["train"]
    with pytest.raises(DataError, match=r"splits one file, but .* is a folder of parts"):
        load_questions(config(folder, held_out=0.5))
    with pytest.raises(DataError, match="expected a validation part; there are only train"):
        load_questions(config(folder, calibration_split="validation"))
    for part in ("train", "validation", "test"):
        with pytest.raises(DataError, match=rf"expected null beside dataset\.{part}; got"):
            load_questions(config(folder, **{part: str(path)}))


def test_without_a_network_the_hub_name_gives_one_message():
    with pytest.raises(DataError, match=r"rajpurkar/squad, split train .*dataset\.path=<path>"):
        load_questions(config("rajpurkar/squad"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("answers"), "answers missing, there are id, title, context, question"),
        (lambda row: row.update(question=3), "row 1: .*expected a text as question, got 3"),
        (
            lambda row: row.update(context="w1 \ud83d"),
            "a text as context, got one with half a surr",
        ),
        (lambda row: row.update(answers="w1"), "row 1: expected id, question and context"),
        (lambda row: row.update(answers={"text": ["w1"], "answer_start": []}), "row 1: expected"),
    ],
)
def test_rows_that_are_no_questions_are_refused(tmp_path, change, message):
    row = rows_of(write_squad(tmp_path / "f.json"))[0]
    change(row)
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=message):
        load_questions(config(tmp_path / "t.jsonl", held_out=0.5))


def test_an_official_file_with_another_layout_is_refused(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps({"data": [{"title": "a", "rows": []}]}))
    with pytest.raises(DataError, match="expected SQuAD's layout, data / paragraphs / qas"):
        load_questions(config(tmp_path / "f.json", held_out=0.5))
    (tmp_path / "f.json").write_text(json.dumps({"articles": []}))
    with pytest.raises(DataError, match=r"expected SQuAD's layout, or a table with id, context"):
        load_questions(config(tmp_path / "f.json", held_out=0.5))


def test_wrong_offsets_and_repeated_ids_are_refused(tmp_path):
    path = write_squad(tmp_path / "f.json")
    content = path.read_text()
    path.write_text(content.replace('"answer_start": ', '"answer_start": 1'))
    with pytest.raises(DataError, match="expected every answer where answer_start says, counted"):
        load_questions(config(path, held_out=0.5))
    path.write_text(content.replace('"0-1"', '"0-0"'))
    with pytest.raises(DataError, match="'0-0' comes 2 times"):
        load_questions(config(path, held_out=0.5))


def test_a_folder_that_is_no_saved_table_is_refused(tmp_path):
    for name in ("state.json", "data-00000-of-00001.arrow"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="cannot be read by datasets"):
        load_questions(config(tmp_path, held_out=0.5))


def test_files_of_parts_are_taken_as_they_lie(tmp_path):
    """A folder of training files under any names, and a file of another place to evaluate."""
    (tmp_path / "extra").mkdir()
    first = write_squad(tmp_path / "extra" / "wiki.json")
    other = json.loads(first.read_text())
    for article in other["data"]:
        for entry in article["paragraphs"][0]["qas"]:
            entry["id"] += "b"
    (tmp_path / "extra" / "news.json").write_text(json.dumps(other))
    (tmp_path / "extra" / "readme.md").write_text("of whom")
    dev = write_squad(tmp_path / "any_name.json", articles=2)
    values = {"name": "squad", "task": "question_answering", "source": "squad"}
    given = {"train": str(tmp_path / "extra"), "validation": str(dev)}
    data = load_questions(DatasetConfig(**values, **given))
    assert [q.id for q in data.split("train")][:2] == ["0-0b", "0-1b"]
    assert {part: len(rows) for part, rows in data.splits.items()} == {"train": 48, "validation": 8}
    for changes, message in (
        ({"path": str(dev)}, "dataset.path: expected null beside dataset.train"),
        ({"held_out": 0.3}, "the parts are given"),
        ({"train": str(tmp_path / "none")}, "dataset.train=.*expected a file, or a folder"),
        ({"train": str(dev)}, "dataset.validation: expected other rows than in dataset.train"),
    ):
        with pytest.raises(DataError, match=message):
            load_questions(DatasetConfig(**values, **given | changes))


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.source: expected squad for task=question"):
        load_questions(config(tmp_path, source="table"))


def test_the_span_is_the_first_answer_without_space_around_it():
    found = question("it was  Jim Gray  again", "who?", "  Jim Gray ", "again")
    assert found.span == (8, 16)
    assert not found.misplaced
    assert question("a b", "who?").span is None
    assert not question("a b", "who?").misplaced
    for wrong in (Answer("Jim", 0), Answer("again", -5), Answer("", 3), Answer(" ", 2)):
        moved = replace(found, answers=(wrong,))
        assert moved.span is None
        assert moved.misplaced


@pytest.mark.skipif(not REAL.is_file(), reason="the shared development set is not here")
def test_the_real_development_set():
    data = load_questions(config(REAL, held_out=0.3))
    train, held_out = data.split("train"), data.split("validation")
    assert data.version == "1.1"
    assert (len(train), len(held_out)) == (7346, 3219)
    assert len({q.title for q in train}) + len({q.title for q in held_out}) == 48
    assert not {q.title for q in train} & {q.title for q in held_out}
    assert not {q.context for q in train} & {q.context for q in held_out}
    everything = [*train, *held_out]
    found = [answer for q in everything for answer in q.answers]
    placed = sum(
        q.context[a.start : a.start + len(a.text)] == a.text for q in everything for a in q.answers
    )
    assert (len(found), len(found) - placed) == (34680, 15)
    assert sum(q.misplaced for q in everything) == 3
    # A model that gives the marked answers scores 1, one that gives the paragraph next to nothing.
    references = [[a.text for a in q.answers] for q in held_out]
    assert metrics_of([r[0] for r in references], references) == {"exact_match": 1, "f1": 1}
    assert metrics_of([q.context for q in held_out], references)["exact_match"] < 0.001


@pytest.mark.skipif(not EXTRA.is_dir(), reason="the shared questions are not here")
def test_the_real_extra_questions_train_for_the_real_development_set():
    data = load_questions(config(None, train=str(EXTRA), validation=str(REAL)))
    assert {part: len(rows) for part, rows in data.splits.items()} == {
        "train": 7936 + 10055,
        "validation": 10565,
    }


def test_configurations_fit_the_schema():
    for name in ("squad", "squad_v2", "squad_dev"):
        given = OmegaConf.load(ROOT / "conf" / "dataset" / f"{name}.yaml")
        merged = OmegaConf.merge(OmegaConf.structured(DatasetConfig), given)
        assert OmegaConf.is_missing(given, "path") == (name == "squad_dev")
        found = OmegaConf.to_object(OmegaConf.create({"dataset": merged}).dataset)
        assert (found.task, found.source) == ("question_answering", "squad")
        assert (found.max_length, found.answers.stride) == (384, 128)
        assert (found.calibration_split, found.evaluation_split) == ("train", "validation")
