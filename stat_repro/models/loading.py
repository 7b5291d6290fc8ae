"""Dense models from a packaged asset, a local folder or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stat_repro.assets.packages import model_folder
from stat_repro.config import ModelConfig

ASSET_PREFIX = "asset:"
_AUTO_CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "question_answering": AutoModelForQuestionAnswering,
    "language_modeling": AutoModelForCausalLM,
}

# No pickled weights (*.bin) and, unless the user asked for it, no code.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
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
    if not list(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"model.path={path}: expected weights as *.safetensors (pickled weights are not "
            f"loaded); got {folder}, which has none. Choose a revision that has them "
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
            f"it ({type(error).__name__}: {_one_line(error)}). {access} "
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
        ModelLoadError: A folder that transformers refuses, or one without a tokenizer.
    """
    auto = _AUTO_CLASSES[task]
    with explained_refusal(folder, auto.__name__):
        model = auto.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    return LoadedModel(model=model.to(device).eval(), tokenizer=tokenizer, folder=folder)


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder.

    Args:
        folder: Hugging Face folder.
        trust_remote_code: Whether code in the folder may run.

    Raises:
        ModelLoadError: A tokenizer that transformers refuses, or none.
    """
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
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"{folder}: cannot be loaded as {role}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """The whole message on one line; its end often says what to do."""
    return " ".join(str(error).split()) or type(error).__name__
