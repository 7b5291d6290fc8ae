"""Task checkpoints: an encoder with a task head, trained once and cached by its recipe.

The folder's name is a hash of everything that decides its content: base model, training rows,
labels, `FinetuneConfig`, sentence length and `FINETUNE_VERSION`. Training depends on no random
state but `FinetuneConfig.seed`, and leaves the caller's random state as it was. Equal recipes give
equal weights on the same machine; devices, thread counts and library versions change rounding.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stat_repro.cache import build_once
from stat_repro.config import FinetuneConfig
from stat_repro.data.batching import sentence_batches
from stat_repro.data.task_data import TaskData
from stat_repro.evaluation.evaluate import task_metrics
from stat_repro.evaluation.predictions import predict_logits
from stat_repro.paths import cache_dir
from stat_repro.training import seeded, train

# Raise it when a change of this file changes the weights that a recipe leads to.
FINETUNE_VERSION = 1
ENCODERS = ("bert", "distilbert")
EVALUATION_BATCH = 64
# Parts that a base encoder may lack; anything else missing means a wrong or damaged checkpoint.
_HEAD_PARTS = ("classifier.", "pre_classifier.", "bert.pooler.")
_HEADS = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "language_modeling": "ForCausalLM",
}


class FinetuneError(RuntimeError):
    """A task checkpoint that cannot be made."""


def has_task_head(folder: Path, task: str) -> bool:
    """Whether a checkpoint carries a trained head for the task.

    Args:
        folder: Hugging Face folder.
        task: One of `stat_repro.config.TASKS`. Whether the head has the right outputs for a data
            set is another question.

    Raises:
        ValueError: An unknown task.
        FileNotFoundError: No `config.json` in the folder.
    """
    if task not in _HEADS:
        raise ValueError(f"task: expected one of {', '.join(_HEADS)}; got {task!r}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architectures = config.get("architectures") or []
    return any(name.endswith(_HEADS[task]) for name in architectures)


def task_checkpoint(
    base_folder: Path,
    base_hash: str,
    data: TaskData,
    config: FinetuneConfig,
    max_length: int,
    device: torch.device,
) -> Path:
    """Folder of the encoder with a trained task head; trained on the first call, then cached.

    Args:
        base_folder: Hugging Face folder of a BERT or DistilBERT encoder with its tokenizer.
        base_hash: Hash of the content of that folder.
        data: Labelled sentences with a `train` split.
        config: The recipe; whether to train at all (`enabled`) is the caller's question.
        max_length: Tokens after which a sentence is cut.
        device: Where to train.

    Returns:
        A folder with model, tokenizer and `recipe.json` (recipe, mean training loss per epoch,
        seconds, metrics on the validation split if there is one, versions).

    Raises:
        FinetuneError: The model is no encoder with a recipe, it lacks weights, there is nothing to
            train on, or the loss is no longer finite.
    """
    recipe = _recipe(base_folder, base_hash, data, config, max_length)
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    target = cache_dir() / "checkpoints" / digest[:20]
    return build_once(
        f"checkpoint-{target.name}",
        lambda out: _make(out, base_folder, data, config, max_length, device, recipe),
        target,
    )


def _recipe(
    base_folder: Path, base_hash: str, data: TaskData, config: FinetuneConfig, max_length: int
) -> dict[str, Any]:
    if data.task not in ("classification", "regression"):
        raise FinetuneError(
            f"finetune: expected a classification or regression task; got {data.task}"
        )
    model_type = AutoConfig.from_pretrained(base_folder).model_type
    if model_type not in ENCODERS:
        raise FinetuneError(
            f"finetune: there is a recipe for {' and '.join(ENCODERS)}, not for {model_type!r}; "
            "give a checkpoint that already has the task's head"
        )
    if "train" not in data.splits or len(data.splits["train"]) == 0:
        raise FinetuneError(f"finetune: {data.name} has no training examples")
    settings = asdict(config)
    del settings["enabled"]
    return {
        "version": FINETUNE_VERSION,
        "base": base_hash,
        "task": data.task,
        "labels": list(data.label_names or ()),
        "train": data.fingerprint["train"],
        "max_length": max_length,
        "finetune": settings,
    }


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No report of newly made head weights, which are meant, and no bars; as before after it."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


def _load(base_folder: Path, data: TaskData) -> PreTrainedModel:
    labels: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if data.task == "classification":
        names = data.label_names or ()
        labels = {
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }
    with _quiet_loading():
        model, report = AutoModelForSequenceClassification.from_pretrained(
            base_folder, dtype=torch.float32, output_loading_info=True, **labels
        )
    missing = sorted(k for k in report["missing_keys"] if not k.startswith(_HEAD_PARTS))
    if missing:
        raise FinetuneError(
            f"finetune: {base_folder.name} lacks weights of the encoder, {len(missing)} of them, "
            f"such as {missing[0]}; expected a complete encoder without its head"
        )
    return model


def _make(
    out: Path,
    base_folder: Path,
    data: TaskData,
    config: FinetuneConfig,
    max_length: int,
    device: torch.device,
    recipe: dict[str, Any],
) -> None:
    """Train and write the finished checkpoint."""
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    with seeded(config.seed, device):
        model = _load(base_folder, data).to(device)
        losses = train(model, tokenizer, data.splits["train"], data.task, config, max_length)
    record = {
        "recipe": recipe,
        "training_loss": losses,
        "seconds": time.perf_counter() - start,
        "validation": _validate(model, tokenizer, data, max_length),
        "device": str(device),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    with _quiet_loading():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    text = json.dumps(record, indent=2, sort_keys=True)
    (out / "recipe.json").write_text(text + "\n", encoding="utf-8")


def _validate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: TaskData, max_length: int
) -> dict[str, float] | None:
    rows = data.splits.get("validation")
    if rows is None or len(rows) == 0:
        return None
    batches = sentence_batches(tokenizer, rows, max_length, EVALUATION_BATCH)
    logits = predict_logits(model, batches, len(rows), "validating the task checkpoint")
    return task_metrics(logits, list(rows["label"]), data.task)
