"""Tiny benchmarks in their own layouts, and overrides that run a stored sweep on them."""

import json
import random
from pathlib import Path

from pico_data import WORDS, word_tokenizer
from pico_models import pico_model
from pico_project import common_overrides, save_checkpoint, write_text
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from stat_repro.data.glue import GLUE_TASKS


def plain_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """One token per word and nothing behind them; the BOS token in front is added on request."""
    tokenizer = word_tokenizer()
    first = "[CLS] " if bos else ""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first}$A", pair=f"{first}$A $B", special_tokens=[("[CLS]", 2)]
    )
    tokenizer.bos_token = "[CLS]"
    return tokenizer


def write_glue(folder: Path) -> Path:
    """All tasks as `<subset>/<part>.tsv` with the hub's columns; the class follows the word."""
    pick = random.Random(0)
    for task in GLUE_TASKS.values():
        (folder / task.subset).mkdir(parents=True, exist_ok=True)
        columns = [task.first[0], *task.second[:1], task.label[0]]
        for part, rows in (("train", 40), (task.parts["validation"][0], 20)):
            lines = ["\t".join(columns)]
            for row in range(rows):
                texts = [" ".join(pick.choices(WORDS, k=4)) for _ in columns[:-1]]
                label = row % 2 if task.classes is None else task.classes[row % len(task.classes)]
                lines.append("\t".join([*texts, str(label)]))
            path = folder / task.subset / f"{part}.tsv"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_squad(path: Path, seed: int = 0, version: str = "1.1") -> Path:
    """SQuAD's layout: the answer is the word after the one asked for.

    In version 2.0 the first question about every paragraph has none.
    """
    pick = random.Random(seed)
    data = []
    for article in range(6):
        words = pick.sample(WORDS, 12)
        context = " ".join(words)
        questions = []
        for number in range(4):
            position = pick.randrange(11)
            answer = {
                "text": words[position + 1],
                "answer_start": len(" ".join(words[: position + 1])) + 1,
            }
            question = {
                "id": f"{article}-{number}",
                "question": words[position],
                "answers": [answer],
            }
            if version == "2.0":
                question["is_impossible"] = number == 0
                question["answers"] = [] if number == 0 else [answer]
            questions.append(question)
        data.append(
            {"title": f"t{article}", "paragraphs": [{"context": context, "qas": questions}]}
        )
    path.write_text(json.dumps({"version": version, "data": data}), encoding="utf-8")
    return path


def write_corpus(folder: Path, seed: int = 0) -> Path:
    """Plain text parts."""
    folder.mkdir()
    for number, part in enumerate(("train", "validation", "test")):
        write_text(folder / f"{part}.txt", 700, seed=seed + number)
    return folder


def write_choices(folder: Path) -> Path:
    """A multiple-choice task of lm-eval in local files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"{a} {b}", "choices": [a, b], "answer": 0} for a, b in
            zip(WORDS[:6], WORDS[6:12], strict=True)]  # fmt: skip
    data = folder / "choices.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "pico_choices.yaml").write_text(
        f"""task: pico_choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
metadata:
  version: 1.0
""",
        encoding="utf-8",
    )
    return folder


def _encoder(folder: Path, name: str) -> list[str]:
    """Overrides for a base encoder without a task head, and quick training of one."""
    checkpoint = folder / name
    pico_model(name, "Model").save_pretrained(checkpoint)
    word_tokenizer().save_pretrained(checkpoint)
    return [
        f"model.path={checkpoint}",
        "finetune.epochs=1",
        "dataset.max_length=16",
        "calibration.examples=20",
        *common_overrides(folder),
    ]


def glue_overrides(folder: Path, name: str) -> list[str]:
    """A pico encoder on tiny files of every task."""
    return [f"dataset.path={write_glue(folder / 'glue')}", *_encoder(folder, name)]


def squad_overrides(folder: Path, name: str) -> list[str]:
    """A pico encoder on tiny questions in two parts, for either version a folder of its own."""
    for dataset, version in (("squad", "1.1"), ("squad_v2", "2.0")):
        (folder / dataset).mkdir()
        write_squad(folder / dataset / "train.json", version=version)
        write_squad(folder / dataset / "dev.json", seed=1, version=version)
    data = f"dataset.path={folder}/${{dataset.name}}"
    return [data, "dataset.answers.stride=2", *_encoder(folder, name)]


def squad_file_overrides(folder: Path, name: str) -> list[str]:
    """A pico encoder on one tiny file of questions, split by article."""
    data = write_squad(folder / "dev.json")
    return [f"dataset.path={data}", "dataset.answers.stride=2", *_encoder(folder, name)]


def squad_parts_overrides(folder: Path, name: str) -> list[str]:
    """A pico encoder on tiny questions in two files."""
    data = [
        f"dataset.{part}={write_squad(folder / f'{part}.json', seed=seed)}"
        for seed, part in enumerate(("train", "validation"))
    ]
    small = [word for word in _encoder(folder, name) if not word.startswith("calibration.")]
    return [*data, "dataset.answers.stride=2", "calibration.examples=12", *small]


def corpus_overrides(folder: Path) -> list[str]:
    """A pico Llama on a tiny corpus."""
    checkpoint = save_checkpoint(folder / "llama", "llama_grouped")
    return [
        f"model.path={checkpoint}",
        f"dataset.path={write_corpus(folder / 'corpus')}",
        "dataset.window=16",
        "calibration.examples=20",
        *common_overrides(folder),
    ]


def zero_shot_overrides(folder: Path) -> list[str]:
    """The same, calibrated on another tiny corpus and with a tiny multiple-choice task."""
    arguments = corpus_overrides(folder)
    plain_tokenizer(bos=True).save_pretrained(folder / "llama")
    return [
        *arguments,
        f"dataset.calibration_path={write_corpus(folder / 'other', seed=10)}",
        "evaluation.zero_shot.tasks=[pico_choices]",
        f"evaluation.zero_shot.include={write_choices(folder / 'tasks')}",
    ]
