"""Made-up examples of every GLUE task in the hub's layout and in the official release's."""

import json

import pandas as pd
import pytest
from pico_data import WORDS

from stat_repro.data import glue
from stat_repro.data.glue import GLUE_TASKS
from stat_repro.data.task_data import load_task_data

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
