"""A checkpoint and files on disk that the whole program runs on in a second."""

import random
from pathlib import Path

from glue_files import write_hub_layout
from pico_data import WORDS, word_tokenizer
from pico_models import PICO_CONFIGS, pico_model
from transformers import Qwen2Tokenizer


def qwen_tokenizer() -> Qwen2Tokenizer:
    """For folders of this family, which transformers reads as byte-level BPE whatever they hold."""
    pieces = ["<|endoftext|>", "Ġ", "w", "Ġw", *"0123456789"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[("Ġ", "w")])


def save_checkpoint(folder: Path, name: str, **changes) -> Path:
    """A tiny random model with its tokenizer as a Hugging Face folder."""
    pico_model(name, **changes).save_pretrained(folder)
    qwen = PICO_CONFIGS[name].model_type == "qwen2"
    (qwen_tokenizer() if qwen else word_tokenizer()).save_pretrained(folder)
    return folder


def write_table(path: Path, rows: int, seed: int = 0) -> Path:
    """Labelled sentences: label 1 if a word of the upper half comes first."""
    pick = random.Random(seed)
    lines = ["text,label"]
    for _ in range(rows):
        words = [pick.choice(WORDS) for _ in range(pick.randint(3, 9))]
        lines.append(f"{' '.join(words)},{'up' if words[0] in WORDS[20:] else 'down'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_text(path: Path, words: int, seed: int = 0) -> Path:
    """Running text."""
    pick = random.Random(seed)
    path.write_text(" ".join(pick.choice(WORDS) for _ in range(words)), encoding="utf-8")
    return path


def sentence_overrides(folder: Path) -> list[str]:
    """Overrides for a pico BERT classifier on a table of the user."""
    folder.mkdir(exist_ok=True)
    checkpoint = save_checkpoint(
        folder / "bert", "bert", id2label={0: "down", 1: "up"}, label2id={"down": 0, "up": 1}
    )
    return [
        "model=hf",
        f"model.path={checkpoint}",
        "model.name=pico",
        "dataset=table_file",
        f"dataset.train={write_table(folder / 'train.csv', 60)}",
        f"dataset.test={write_table(folder / 'test.csv', 30, seed=1)}",
        "dataset.max_length=16",
        "calibration.examples=40",
        *common_overrides(folder),
    ]


def text_overrides(folder: Path) -> list[str]:
    """Overrides for a pico Llama on text files of the user."""
    checkpoint = save_checkpoint(folder / "llama", "llama_grouped")
    return [
        "model=hf",
        f"model.path={checkpoint}",
        "model.name=pico",
        "dataset=text_file",
        f"dataset.train={write_text(folder / 'train.txt', 900)}",
        f"dataset.test={write_text(folder / 'test.txt', 200, seed=1)}",
        "dataset.window=16",
        "calibration.examples=40",
        *common_overrides(folder),
    ]


def similarity_overrides(folder: Path) -> list[str]:
    """Overrides for a pico MPNet without a head on pairs of sentences."""
    return [
        "model=hf",
        f"model.path={save_checkpoint(folder / 'encoder', 'mpnet', head='Model')}",
        "model.name=pico",
        "dataset=stsb_similarity",
        f"dataset.path={write_hub_layout('stsb', folder / 'stsb')}",
        "dataset.max_length=16",
        "calibration.examples=10",
        *common_overrides(folder),
    ]


def common_overrides(folder: Path) -> list[str]:
    """Where records and outputs go."""
    return [
        f"results={folder / 'results'}",
        "tracking=disabled",
        f"hydra.run.dir={folder / 'hydra'}",
        f"hydra.sweep.dir={folder / 'hydra'}",
    ]
