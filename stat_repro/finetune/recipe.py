"""Task checkpoints: an encoder with a task head, trained once and cached by its recipe.

The folder's name is a hash of everything that its content depends on: base model, training rows,
labels, `FinetuneConfig`, sentence length and `FINETUNE_VERSION`. Training
draws from a random state made from `FinetuneConfig.seed`; the caller's stays as it was. Equal
recipes give equal weights on the same machine; devices, thread counts and library versions change
rounding.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stat_repro.assets.cache import build_once
from stat_repro.config import FinetuneConfig
from stat_repro.data.batching import check_positions
from stat_repro.data.squad import QuestionData
from stat_repro.data.task_data import TaskData
from stat_repro.finetune.loop import train
from stat_repro.finetune.training_data import TrainingData, TrainingQuestions, TrainingSentences
from stat_repro.models.loading import (
    LANGUAGE_MODELS,
    TASK_CLASSES,
    load_config,
    load_model,
    load_tokenizer,
    read_config,
)
from stat_repro.models.modeling_stat import LAYOUTS
from stat_repro.models.modes import seeded
from stat_repro.models.positions import positions_of
from stat_repro.models.tensor_files import ShardedCheckpoint, has_weights
from stat_repro.paths import cache_dir
from stat_repro.progress import quiet_transformers

# Raise it when a change of this file changes the weights that a recipe leads to.
FINETUNE_VERSION = 1
ENCODERS = tuple(
    name for name, layout in LAYOUTS.items() if not layout.decoder and not name.startswith("stat_")
)
# Parts that a base encoder may lack; anything else missing means a wrong or damaged checkpoint.
_HEAD_PARTS = ("classifier.", "pre_classifier.", "bert.pooler.", "qa_outputs.", "head.")
# Tensors of a head that is trained here; a checkpoint that has them was trained already.
_TRAINED_PARTS = {
    "classification": ("classifier.", "pre_classifier.", "score."),
    "regression": ("classifier.", "pre_classifier.", "score."),
    "question_answering": ("qa_outputs.",),
}
_HEADS: dict[str, str | tuple[str, ...]] = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "similarity": "",  # reads the encoder itself, which every checkpoint has
    "question_answering": "ForQuestionAnswering",
    "language_modeling": LANGUAGE_MODELS,
}


class FinetuneError(RuntimeError):
    """A task checkpoint that cannot be made."""


def has_task_head(folder: Path, task: str) -> bool:
    """Whether a checkpoint carries a trained head for the task.

    Args:
        folder: Hugging Face folder.
        task: One of `stat_repro.config.TASKS`. That the head has the right outputs for a data
            set is not checked here.

    Raises:
        FinetuneError: The weights hold such a head, but the configuration does not say so.
        stat_repro.models.loading.ModelLoadError: No usable `config.json` in the folder.
        stat_repro.models.tensor_files.TensorFileError: Weights that cannot be read.
    """
    architectures = read_config(folder).get("architectures") or []
    if not (isinstance(architectures, list) and all(isinstance(n, str) for n in architectures)):
        raise FinetuneError(
            f"{folder / 'config.json'}: architectures: expected a list of class names; got "
            f"{architectures!r}"
        )
    if not _HEADS[task] or any(name.endswith(_HEADS[task]) for name in architectures):
        return True
    weights = task in _TRAINED_PARTS and has_weights(folder)
    other = any("For" in name for name in architectures)
    for name in ShardedCheckpoint(folder).entries if weights else ():
        if name.startswith(_TRAINED_PARTS[task]):
            way = "a model with such a head" if other else "that class in this file"
            raise FinetuneError(
                f"{folder / 'config.json'}: architectures: expected the class of a head for {task} "
                f"(the weights hold {name}), such as [Bert{_HEADS[task]}]; got {architectures}; "
                f"choose {way}, or the encoder without a head, which is trained then"
            )
    return False


def task_checkpoint(
    base_folder: Path,
    base_hash: str,
    data: TaskData | QuestionData,
    config: FinetuneConfig,
    max_length: int,
    device: torch.device,
    stride: int = 0,
    before_training: Callable[[], None] | None = None,
) -> Path:
    """Folder of the encoder with a trained task head; trained on the first call, then cached.

    Args:
        base_folder: Hugging Face folder of an encoder (`ENCODERS`) with its tokenizer.
        base_hash: Hash of the content of that folder.
        data: Labelled sentences or questions with a `train` split.
        config: The recipe; `enabled` is not read: the caller decides whether to train.
        max_length: Tokens after which a sentence is cut; question answering: tokens per window.
        device: Where to train.
        stride: Question answering: tokens that neighbouring windows share.
        before_training: Called where there is no such folder yet.

    Returns:
        A folder with model, tokenizer and `recipe.json` (recipe, mean training loss per epoch,
        seconds, metrics of sentences on the validation split if there is one, versions).

    Raises:
        FinetuneError: The model is no encoder, or there is nothing to train on.
        stat_repro.finetune.loop.TrainingError: The loss is no longer finite.
        stat_repro.models.loading.ModelLoadError: A folder without the encoder or tokenizer.
        stat_repro.data.errors.DataError: Lengths that the model or the tokenizer cannot take.
    """
    training_data: TrainingData
    if isinstance(data, QuestionData):
        training_data = TrainingQuestions(data, max_length, stride)
    else:
        training_data = TrainingSentences(data, max_length)
    positions = _encoder_positions(base_folder)
    if not data.splits.get("train"):
        raise FinetuneError(f"finetune: {data.name} has no training examples")
    check_positions(max_length, positions)
    settings = asdict(config)
    del settings["enabled"]
    recipe = {
        "version": FINETUNE_VERSION,
        "base": base_hash,
        "task": data.task,
        "train": data.fingerprint["train"],
        "max_length": max_length,
        "finetune": settings,
        **training_data.recipe,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    target = cache_dir() / "checkpoints" / digest[:20]

    def make(out: Path) -> None:
        if before_training is not None:
            before_training()
        _make(out, base_folder, training_data, config, device, recipe)

    return build_once(f"checkpoint-{target.name}", make, target)


def _encoder_positions(base_folder: Path) -> int | None:
    """Positions of the encoder; refuses a model without a recipe."""
    config = load_config(base_folder)
    if config.model_type not in ENCODERS:
        raise FinetuneError(
            f"finetune: expected an encoder, one of {', '.join(ENCODERS)}; got "
            f"{config.model_type!r}; choose a checkpoint that already has the task's head"
        )
    return positions_of(config)


def _make(
    out: Path,
    base_folder: Path,
    training_data: TrainingData,
    config: FinetuneConfig,
    device: torch.device,
    recipe: dict[str, Any],
) -> None:
    """Train and write the finished checkpoint."""
    start = time.perf_counter()
    tokenizer = load_tokenizer(base_folder)
    with seeded(config.seed, device):
        model = load_model(
            base_folder,
            TASK_CLASSES[training_data.data.task],
            torch.float32,
            new=_HEAD_PARTS,
            **training_data.head,
        ).to(device)
        losses = train(model, tokenizer, training_data, config)
    record = {
        "recipe": recipe,
        "training_loss": losses,
        "seconds": time.perf_counter() - start,
        "validation": training_data.validate(model, tokenizer),
        "device": str(device),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    with quiet_transformers():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    text = json.dumps(record, indent=2, sort_keys=True)
    (out / "recipe.json").write_text(text + "\n", encoding="utf-8")
