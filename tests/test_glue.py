"""GLUE from local folders in every layout there is, and from a hub that is played by the test."""

import json
import shutil
from pathlib import Path

import datasets
import pandas as pd
import pytest
from pico_data import WORDS, word_tokenizer
from pico_project import save_checkpoint
from test_config import CONF, compose_run

from stat_repro.data import glue
from stat_repro.data.batching import encode_sentences
from stat_repro.data.errors import DataError
from stat_repro.data.glue import GLUE_TASKS
from stat_repro.data.task_data import load_task_data
from stat_repro.run.identity import identify
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "sst2"
TASKS = list(GLUE_TASKS)
# Columns of the official release's training and development files; none: no header line.
OFFICIAL = {
    "mnli": "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse "
    "sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label",
    "qqp": "id qid1 qid2 question1 question2 is_duplicate",
    "qnli": "index question sentence label",
    "sst2": "sentence label",
    "stsb": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "mrpc": "Quality #1_ID #2_ID #1_String #2_String",  # with spaces for the underscores
    "cola": "",
    "rte": "index sentence1 sentence2 label",
}
OFFICIAL["mnli_mismatched"] = OFFICIAL["mnli"]
# Which of those columns are sentence, second sentence and label.
COLUMNS = {
    "mnli": (8, 9, 11),
    "qqp": (3, 4, 5),
    "qnli": (1, 2, 3),
    "sst2": (0, None, 1),
    "stsb": (7, 8, 9),
    "mrpc": (3, 4, 0),
    "cola": (3, None, 1),
    "rte": (1, 2, 3),
}
COLUMNS["mnli_mismatched"] = COLUMNS["mnli"]
WRITES_NAMES = ("mnli", "mnli_mismatched", "qnli", "rte")


def config(task, path="nyu-mll/glue", **changes):
    kind = "regression" if task == "stsb" else "classification"
    values = {"name": task, "task": kind, "source": f"glue:{task}", "path": str(path), **changes}
    return glue.DatasetConfig(**values)


def load(task, path, **changes):
    return load_task_data(config(task, path, **changes))


def examples(task, rows, start=0):
    """Sentences (a quotation mark among them) and labels, different for every row."""
    classes = GLUE_TASKS[task].classes
    found = []
    for row in range(start, start + rows):
        first = f'{WORDS[row % 40]} say "{WORDS[(row + 7) % 40]} .'
        second = f"{WORDS[(row + 3) % 40]} {WORDS[row // 40]}"
        label = row % 6 * 0.8 if classes is None else row % len(classes)
        found.append((first, second if GLUE_TASKS[task].second else None, label))
    return found


def hub_table(task, rows):
    spec = GLUE_TASKS[task]
    table = {spec.first[0]: [first for first, _, _ in rows]}
    if spec.second:
        table[spec.second[0]] = [second for _, second, _ in rows]
    return {**table, "label": [label for _, _, label in rows], "idx": list(range(len(rows)))}


def write_table(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(table)
    objects = frame.to_dict("records")
    match path.suffix:
        case ".tsv":
            lines = ["\t".join(map(str, row)) for row in [list(table), *frame.values.tolist()]]
            path.write_text("\n".join(lines) + "\n")
        case ".csv":
            frame.to_csv(path, index=False)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in objects))
        case ".json":
            path.write_text(json.dumps(objects, indent=1))
        case _:
            frame.to_parquet(path)
    return path


def write_hub_layout(task, folder, ending=".tsv", rows=12):
    """Parts with the hub's columns and class indices."""
    for part, start in (("train", 0), ("validation", 100)):
        name = GLUE_TASKS[task].parts[part][0]
        write_table(folder / f"{name}{ending}", hub_table(task, examples(task, rows, start)))
    return folder


def write_official(task, root, rows=12):
    """train.tsv and dev.tsv as in the official release, in the task's own folder."""
    spec = GLUE_TASKS[task]
    names = [name.replace("_", " ") if "#" in name else name for name in OFFICIAL[task].split()]
    folder = root / spec.folder
    folder.mkdir(parents=True, exist_ok=True)
    width = len(names) or 4
    for part, start in (("train", 0), ("validation", 100)):
        lines = ["\t".join(names)] if names else []
        for row in examples(task, rows, start):
            fields = [f"x{i}" for i in range(width)]
            for column, value in zip(COLUMNS[task], row, strict=True):
                if column is not None:
                    named = task in WRITES_NAMES and value is row[2]
                    fields[column] = spec.classes[value] if named else str(value)
            lines.append("\t".join(fields))
        (folder / f"{spec.parts[part][-1]}.tsv").write_text("\n".join(lines) + "\n")
    return root


def assert_rows(data, task, rows=12):
    for part, start in (("train", 0), ("validation", 100)):
        first, second, label = zip(*examples(task, rows, start), strict=True)
        found = data.split(part)
        assert list(found["text"]) == list(first)
        assert list(found["label"]) == pytest.approx(list(label))
        assert ("text_pair" in found.column_names) == (second[0] is not None)
        if second[0] is not None:
            assert list(found["text_pair"]) == list(second)


# --- files --------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet: expected 2 .* found 1"):
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


# --- labels -------------------------------------------------------------------------------------


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
        ("mnli", -1, r"row 2: .*got '-1' \(a hidden label\)"),
        ("sst2", 2, "row 2: expected negative, positive, or 0 to 1 in this order; got '2'"),
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


# --- the hub ------------------------------------------------------------------------------------


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


# --- configuration ------------------------------------------------------------------------------


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


# --- runs ---------------------------------------------------------------------------------------


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
