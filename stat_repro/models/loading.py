"""Dense models from a packaged asset, a local folder or the Hugging Face hub."""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stat_repro.assets.packages import model_folder
from stat_repro.config import ModelConfig
from stat_repro.entry import one_line
from stat_repro.models.adapter import drop_pooler
from stat_repro.models.tensor_files import INDEX_FILE, SINGLE_FILE, has_weights, shard_names
from stat_repro.progress import quiet_transformers

log = logging.getLogger("stat_repro")

ASSET_PREFIX = "asset:"
TASK_CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "similarity": AutoModel,
    "question_answering": AutoModelForQuestionAnswering,
    "language_modeling": AutoModelForCausalLM,
}

# How the names of their classes end; that of GPT-2 is older than the others.
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")

# No pickled weights (*.bin) and, unless the user asked for it, no code.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
# Buffers that older versions of transformers saved; the models of today compute them.
_COMPUTED = (
    *("rotary_emb.inv_freq", "embeddings.position_ids"),
    *(".attn.bias", ".attn.masked_bias"),  # causal masks of GPT-2
)
_LOCAL_FORM = "a local folder with config.json, safetensors weights and tokenizer files"


class ModelLoadError(RuntimeError):
    """A model that cannot be loaded; says what was asked for, what was tried, what to give."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be used.

    Attributes:
        model: On its device, in evaluation mode.
        tokenizer: Its tokenizer.
        folder: Where it was loaded from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path


def checkpoint_folder(config: ModelConfig) -> Path:
    """A local folder with the checkpoint; an asset or a model of the hub is fetched first.

    Raises:
        ModelLoadError: No such folder, no weights in safetensors, or a model that the hub does not
            give.
    """
    path = config.path
    if path.startswith(ASSET_PREFIX):
        return model_folder(path.removeprefix(ASSET_PREFIX))
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _checked(folder.resolve(), path)
    if folder.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        what = "a file" if folder.exists() else "no such folder"
        raise ModelLoadError(
            f"model.path={path}: expected {_LOCAL_FORM}; got {what} (working folder {Path.cwd()})"
        )
    return _checked(_from_hub(config), path)


def _checked(folder: Path, path: str) -> Path:
    """The folder, refused if it holds no model that can be loaded safely."""
    if not (folder / "config.json").is_file():
        raise ModelLoadError(
            f"model.path={path}: expected a Hugging Face folder; got {folder}, which has no "
            "config.json"
        )
    if not has_weights(folder):
        raise ModelLoadError(
            f"model.path={path}: expected weights as *.safetensors, in {SINGLE_FILE} or in the "
            f"files that {INDEX_FILE} lists (pickled weights are not loaded); got {folder}, which "
            "has neither. Choose a revision that has them "
            "(model.revision=...), or a folder written by save_pretrained"
        )
    return folder


def _from_hub(config: ModelConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    patterns = [*_HUB_FILES, "*.py"] if config.trust_remote_code else list(_HUB_FILES)
    try:
        return Path(
            snapshot_download(config.path, revision=config.revision, allow_patterns=patterns)
        )
    except Exception as error:
        access = (
            "The model is gated: accept its terms on its page, then log in with `hf auth login` or "
            "set HF_TOKEN. Or give"
            if isinstance(error, GatedRepoError)
            else "Give"
        )
        raise ModelLoadError(
            f"model.path={config.path}: not a local folder, and the Hugging Face hub did not give "
            f"it ({type(error).__name__}: {one_line(error)}). {access} "
            f"{_LOCAL_FORM}: model.path=<folder>"
        ) from error


def load_checkpoint(
    folder: Path, task: str, dtype: str, device: torch.device, *, trust_remote_code: bool = False
) -> LoadedModel:
    """Load model and tokenizer of a folder for a task.

    Args:
        folder: Hugging Face folder with safetensors weights.
        task: One of `stat_repro.config.TASKS`.
        dtype: Name of a torch floating point type.
        device: Where the model goes.
        trust_remote_code: Whether code in the folder may run.

    Raises:
        ModelLoadError: A folder that does not hold the whole model, or one without a tokenizer.
        TensorFileError: An index of weights that cannot be used.
    """
    auto, number = TASK_CLASSES[task], getattr(torch, dtype)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    model = load_model(folder, auto, number, trust_remote_code=trust_remote_code)
    return LoadedModel(model=model.to(device).eval(), tokenizer=tokenizer, folder=folder)


def load_model(
    folder: Path,
    auto_class: Any,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    new: tuple[str, ...] = (),
    **settings: Any,
) -> PreTrainedModel:
    """Load a model whose tensors all come from the safetensors files of a folder.

    Args:
        folder: Hugging Face folder with safetensors weights.
        auto_class: Auto class of transformers, which chooses the model's class.
        dtype: Floating point type of the model.
        trust_remote_code: Whether code in the folder may run.
        new: Beginnings of the names of parts that the folder may lack as a whole; transformers
            fills them with random numbers.
        **settings: Fields of the model's config.

    Raises:
        ModelLoadError: A configuration that cannot be used, or tensors that are missing or of
            another shape.
        TensorFileError: An index of weights that cannot be used.
    """
    read_config(folder)
    shard_names(folder)
    # transformers reports what it could not load and goes on with random numbers; refused below.
    with quiet_transformers(), explained_refusal(folder, auto_class.__name__):
        model, report = auto_class.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
    name = type(model).__name__
    if mismatched := sorted(report["mismatched_keys"]):
        key, got, expected = mismatched[0]
        raise ModelLoadError(
            f"{folder}: {key}: expected shape {tuple(expected)}, as in config.json; got "
            f"{tuple(got)} ({len(mismatched)} tensors do not fit)"
        )
    absent = set(report["missing_keys"])
    there = model.state_dict().keys() - absent
    lacking = tuple(part for part in new if not any(key.startswith(part) for key in there))
    if drop_pooler(model, there):
        lacking += ("pooler.",)
    if missing := sorted(key for key in absent if not key.startswith(lacking)):
        raise ModelLoadError(
            f"{folder}: expected all tensors of {name} as config.json describes it; got weights "
            f"that lack {len(missing)} of them (first: {missing[0]}); choose a complete checkpoint"
        )
    warn_unused(folder, name, report["unexpected_keys"])
    return model


def warn_unused(folder: Path, model: str, names: Iterable[str]) -> None:
    """Tell of tensors of a checkpoint that a model does not have.

    Args:
        folder: The checkpoint.
        model: Class of the model.
        names: The tensors; what transformers saved in the past and computes today is not told.
    """
    if unused := sorted(name for name in names if not name.endswith(_COMPUTED)):
        log.warning(
            "%s: %d tensors are not of %s as config.json describes it and are left out (first: %s)",
            *(folder, len(unused), model, unused[0]),
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
        ModelLoadError: No such file, or no JSON object in it.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ModelLoadError(f"{path}: expected a JSON object; got: {reason}") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{path}: expected a JSON object; got a {type(config).__name__}")
    return config


def load_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a folder, without running code in it.

    Raises:
        ModelLoadError: None that can be used.
    """
    read_config(folder)
    with explained_refusal(folder, "configuration"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder.

    Args:
        folder: Hugging Face folder.
        trust_remote_code: Whether code in the folder may run.

    Raises:
        ModelLoadError: A configuration or tokenizer that transformers refuses, or no tokenizer.
    """
    read_config(folder)
    with explained_refusal(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    # If its files are missing, transformers makes one that knows no words.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelLoadError(
            f"{folder}: expected the model's tokenizer files (tokenizer.json, or its vocabulary); "
            "got none. The tokenizer's save_pretrained writes them"
        )
    return tokenizer


@contextmanager
def explained_refusal(folder: Path, role: str) -> Iterator[None]:
    """Turn the errors of transformers for files that it cannot use into one of ours.

    Args:
        folder: Hugging Face folder, for the message.
        role: What it is loaded as, for the message.

    Raises:
        ModelLoadError: Missing, damaged or foreign files.
    """
    try:
        yield
    except Exception as error:  # which types transformers raises depends on the damage
        raise ModelLoadError(f"{folder}: cannot be loaded as {role}: {one_line(error)}") from error
