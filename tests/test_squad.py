"""SQuAD: files in every layout, the split by article, windows, and the official scores."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from pico_data import WORDS, word_tokenizer
from transformers import PreTrainedTokenizerFast

from stat_repro.config import DatasetConfig
from stat_repro.data.context_windows import QUESTION_TOKENS, check_windows, context_windows
from stat_repro.data.errors import DataError
from stat_repro.data.squad import load_questions
from stat_repro.data.squad_files import Answer, Question
from stat_repro.metrics import load_metric
from stat_repro.metrics.answers import exact_match, f1_score, normalised, squad_metrics

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "squad" / "squaddev_v1.1.json"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))


def config(path, **changes):
    values = {"name": "squad", "task": "question_answering", "source": "squad"} | changes
    return DatasetConfig(path=str(path), **values)


def question(context, text, *answers, title="t", name="q"):
    found = tuple(Answer(answer, context.index(answer)) for answer in answers)
    return Question(name, title, context, text, found)


def write_squad(path, version="1.1", articles=6):
    """The official layout; in 2.0 the last of every article's four questions has no answer."""
    data = []
    for article in range(articles):
        words = [WORDS[(7 * article + 3 * number) % len(WORDS)] for number in range(8)]
        context = " ".join(words)
        entries = []
        for number in range(4):
            word = words[number + 1]
            answers = [{"text": word, "answer_start": context.index(f" {word}") + 1}]
            entry = {"id": f"{article}-{number}", "question": words[number], "answers": answers}
            if version == "2.0":
                entry["is_impossible"] = number == 3
                entry["answers"] = [] if number == 3 else answers
            entries.append(entry)
        paragraph = {"context": context, "qas": entries}
        data.append({"title": f"t{article}", "paragraphs": [paragraph]})
    prefix = "v" if version == "2.0" else ""
    path.write_text(json.dumps({"version": f"{prefix}{version}", "data": data}))
    return path


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
        with pytest.raises(DataError, match=rf"dataset\.{part}: expected null; .*dataset\.path="):
            load_questions(config(folder, **{part: str(path)}))


def test_without_a_network_the_hub_name_gives_one_message():
    with pytest.raises(DataError, match=r"rajpurkar/squad, split train .*dataset\.path=<path>"):
        load_questions(config("rajpurkar/squad"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("answers"), "answers missing, there are id, title, context, question"),
        (lambda row: row.update(question=3), "row 1: .*expected a text as question, got 3"),
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


def test_other_sources_and_tasks_are_refused(tmp_path):
    for changes in ({"source": "table"}, {"task": "classification"}):
        with pytest.raises(DataError, match=r"dataset\.source: expected squad for task=question"):
            load_questions(config(tmp_path, **changes))


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
    assert squad_metrics([r[0] for r in references], references) == {"exact_match": 1, "f1": 1}
    assert squad_metrics([q.context for q in held_out], references)["exact_match"] < 0.001


def test_configurations_fit_the_schema():
    for name in ("squad", "squad_v2", "squad_dev"):
        given = OmegaConf.load(ROOT / "conf" / "dataset" / f"{name}.yaml")
        merged = OmegaConf.merge(OmegaConf.structured(DatasetConfig), given)
        assert OmegaConf.is_missing(given, "path") == (name == "squad_dev")
        found = OmegaConf.to_object(merged)
        assert (found.task, found.source) == ("question_answering", "squad")
        assert (found.max_length, found.answers.stride) == (384, 128)
        assert (found.calibration_split, found.evaluation_split) == ("train", "validation")


# Windows


def windows_of(questions, max_length, stride, tokenizer=None):
    return context_windows(tokenizer or word_tokenizer(), questions, max_length, stride)


def test_windows_cover_the_context_and_share_the_stride():
    tokenizer = word_tokenizer()
    context = "  ".join(WORDS[:20])
    long, short = question(context, " w1 w2 ", "w7"), question("w3 w4", "w9 w9 w9", "w4")
    windows = windows_of([long, short], 12, 3, tokenizer)
    # [CLS] w1 w2 [SEP] <7 of the context> [SEP]: steps of 7 - 3 = 4 tokens.
    assert windows.question.tolist() == [0, 0, 0, 0, 0, 1]
    assert windows.lengths == [12, 12, 12, 12, 9, 8]
    assert windows.first.tolist() == [4, 4, 4, 4, 4, 5]
    for number, owner in enumerate(windows.question):
        source = (long, short)[owner]
        ids = windows.encoded[number]["input_ids"][windows.first[number] : -1]
        words = [source.context[start:stop] for start, stop in windows.offsets[number]]
        assert tokenizer.convert_ids_to_tokens(ids) == words
        begin = 4 * number if owner == 0 else 0
        assert words == source.context.split()[begin : begin + 7]
    assert windows.questions_cut == 0


def test_answer_tokens_are_those_of_the_answer_or_the_first_token():
    context = " ".join(WORDS[:20])
    windows = windows_of([question(context, "w1 w2", "w5 w6 w7")], 12, 3)
    start = context.index("w5")
    span = (start, start + len("w5 w6 w7"))
    # Windows of w0-w6, w4-w10, w8-w14...: whole only in the second, at 4 + 1 to 4 + 3.
    assert [windows.answer_tokens(w, span) for w in range(3)] == [(0, 0), (5, 7), (0, 0)]
    assert windows.answer_tokens(1, None) == (0, 0)
    # Characters inside words: all words that they touch.
    assert windows.answer_tokens(1, (start + 1, start + 4)) == (5, 6)


def test_long_questions_are_cut_and_counted():
    text = " ".join(["w5"] * (QUESTION_TOKENS + 9))
    exact = " ".join(["w5"] * QUESTION_TOKENS)
    windows = windows_of([question("w3 w4", text, "w4"), question("w3 w4", exact, "w4")], 80, 3)
    assert windows.questions_cut == 1
    assert windows.encoded[0] == windows.encoded[1]
    assert windows.first[0] == QUESTION_TOKENS + 2


def test_windows_that_cannot_be_are_refused():
    asked = question("w3 w4", "w1 w2 w5", "w4")
    with pytest.raises(DataError, match="leaves 4 tokens for the context beside a question of 3"):
        windows_of([asked], 10, 4)
    assert len(windows_of([asked], 10, 3)) == 1
    with pytest.raises(DataError, match="at least one question"):
        windows_of([], 10, 3)
    with pytest.raises(DataError, match="contexts with at least one token"):
        windows_of([question(" ", "w1")], 10, 3)
    with pytest.raises(DataError, match="the model has 40 positions; got windows of 41"):
        check_windows(41, 8, 40)
    with pytest.raises(DataError, match=r"dataset\.answers\.stride: expected fewer tokens"):
        check_windows(40, 40, 40)
    check_windows(40, 39, None)


def test_tokenizers_that_cannot_do_it_are_refused():
    class Slow(PreTrainedTokenizerFast):
        @property
        def is_fast(self):
            return False

    asked = [question("w3 w4", "w1", "w4")]
    with pytest.raises(DataError, match="needs a fast tokenizer"):
        windows_of(asked, 10, 3, Slow(tokenizer_object=word_tokenizer().backend_tokenizer))
    bare = word_tokenizer()
    bare.backend_tokenizer.post_processor = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare.backend_tokenizer)
    with pytest.raises(DataError, match="special token in front of the question"):
        windows_of(asked, 10, 3, tokenizer)


def test_batches_hold_every_window_once_on_either_side():
    asked = [question(" ".join(WORDS[:n]), "w1", "w0") for n in (5, 30, 9)]
    for side in ("left", "right"):
        tokenizer = word_tokenizer(side=side)
        windows = windows_of(asked, 14, 2, tokenizer)
        batches = windows.batches(tokenizer, 3)
        assert sorted(n for numbers, _ in batches for n in numbers) == list(range(len(windows)))
        for numbers, batch in batches:
            assert torch.equal(
                batch["attention_mask"].sum(1), torch.tensor([windows.lengths[n] for n in numbers])
            )


# Scores: all expected values worked out by hand from the definitions of the official scripts.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Broncos", "broncos"),
        ("a  an the A An THE", ""),
        ("U.S.A.", "usa"),
        ("Another theory", "another theory"),  # an article inside a word stays
        ("an-apple", "anapple"),  # punctuation goes first and joins
        ("24\u201310", "24\u201310"),  # a dash that is not ASCII stays
        ('"The Black Cloister,"', "black cloister"),
        ("\tSanta Clara,\n California\xa0", "santa clara california"),
        ("the_end", "theend"),
        ("...", ""),
    ],
)
def test_normalisation(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1"),
    [
        ("Denver Broncos", "the denver broncos!", 1, 1),
        ("Broncos", "Denver Broncos", 0, 2 / 3),  # precision 1, recall 1/2
        ("Denver Broncos of Denver", "Denver Broncos", 0, 2 / 3),  # 2 of 4, 2 of 2
        ("Denver Denver", "Denver Broncos", 0, 1 / 2),  # a repeated word counts once here
        ("New York, New York", "new york new jersey", 0, 3 / 4),  # new twice, york once
        ("Carolina", "Denver", 0, 0),
        ("", "Denver", 0, 0),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_scores_of_one_answer(prediction, reference, exact, f1, version):
    assert exact_match(prediction, reference) == exact
    assert f1_score(prediction, reference, version) == pytest.approx(f1)


def test_the_versions_differ_where_nothing_is_left():
    assert exact_match("The", "a") == 1
    assert f1_score("The", "a", "1.1") == 0
    assert f1_score("The", "a", "2.0") == 1
    assert f1_score("The", "end", "2.0") == f1_score("end", "", "2.0") == 0


def test_the_best_of_several_references_counts_for_each_score():
    references = [["Levi's Stadium in the Bay", "Bay Area"], ["Gold"], ["24-10", "24 10"]]
    got = squad_metrics(["the Bay Area, California", "silver", "2410"], references)
    # First: 2 of 3 words and 2 of 2 of the second reference, 4/5; third: punctuation joins.
    assert got == pytest.approx({"exact_match": 1 / 3, "f1": (4 / 5 + 0 + 1) / 3})


def test_unanswerable_questions():
    references = [["Rhine"], ["Main", "River Main"], [], []]
    got = squad_metrics(["the Rhine", "", "", "Rhine"], references, "2.0")
    assert got == pytest.approx(
        {
            **{"exact_match": 2 / 4, "f1": 2 / 4},
            **{"has_answer_exact_match": 1 / 2, "has_answer_f1": 1 / 2},
            **{"no_answer_exact_match": 1 / 2, "no_answer_f1": 1 / 2},
        }
    )
    # References of which nothing is left do not count, unless there is no other.
    assert squad_metrics(["Rhine"], [["the", "Rhine"]], "2.0")["f1"] == 1
    assert squad_metrics([""], [["the", "Rhine"]], "2.0")["f1"] == 0
    assert squad_metrics([""], [["the"]], "2.0")["has_answer_exact_match"] == 1
    assert "no_answer_f1" not in squad_metrics(["Rhine"], [["Rhine"]], "2.0")


def test_no_answer_from_a_broken_model_is_wrong_everywhere():
    got = squad_metrics([None, None], [["Rhine"], []], "2.0")
    assert set(got.values()) == {0.0}
    assert squad_metrics([None, "Rhine"], [["Rhine"]] * 2)["f1"] == 1 / 2


def test_wrong_input_to_the_scores_is_refused():
    with pytest.raises(ValueError, match=r"expected version 1\.1 or 2\.0; got '2'"):
        squad_metrics(["a"], [["a"]], "2")
    with pytest.raises(ValueError, match="got 1 predictions and 2 questions"):
        squad_metrics(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="got 0 predictions"):
        squad_metrics([], [])
    with pytest.raises(ValueError, match="a question without references"):
        squad_metrics(["a"], [[]])


def _evaluate_inputs():
    predictions = [
        {"id": "2", "prediction_text": "Broncos"},
        {"id": "1", "prediction_text": "the Rhine"},
    ]
    references = [
        {"id": "1", "answers": {"text": ["Rhine"], "answer_start": [4]}},
        {"id": "2", "answers": {"text": ["Denver Broncos", "x"], "answer_start": [0, 9]}},
    ]
    return predictions, references


def test_the_module_takes_ids_and_gives_percents():
    predictions, references = _evaluate_inputs()
    found = load_metric("squad").compute(predictions=predictions, references=references)
    assert found == pytest.approx({"exact_match": 50, "f1": 100 * (1 + 2 / 3) / 2})
    references[0]["answers"] = {"text": [], "answer_start": []}
    found = load_metric("squad", "squad_v2").compute(predictions=predictions, references=references)
    assert found["no_answer_f1"] == 0
    assert found["has_answer_f1"] == pytest.approx(200 / 3)
    predictions[0]["id"] = "3"
    with pytest.raises(ValueError, match="one prediction for the id of every reference"):
        load_metric("squad").compute(predictions=predictions, references=references)
    with pytest.raises(ValueError, match="expected default or squad or squad_v2; got 'squad3'"):
        load_metric("squad", "squad3")
