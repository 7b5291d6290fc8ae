"""Where a result came from: code, packages, machine, data and model."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from stat_repro import paths

# The packages that can change a number.
CORE_PACKAGES = (
    *("stat-repro", "torch", "transformers", "tokenizers", "safetensors", "accelerate", "gguf"),
    *("numpy", "scipy", "scikit-learn", "datasets", "evaluate", "hydra-core", "omegaconf", "peft"),
)

# Weights, configuration, tokenizer and code: what `from_pretrained` reads.
MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.gguf"),
    *("config.json", "generation_config.json"),
    *("modeling_*.py", "configuration_*.py", "tokenization_*.py"),
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("*.model", "bpe.codes", "chat_template*"),
)


class ProvenanceError(ValueError):
    """Something that cannot be identified."""


def collect(
    *,
    device: str,
    dtypes: Mapping[str, str],
    data_hashes: Mapping[str, str],
    model_hash: str | None,
    base_model_hash: str | None = None,
    finetuned: bool | None = None,
    examples: Mapping[str, Any] | None = None,
    hardware: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The `provenance` of a record.

    Args:
        device: The device the run computed on, in words.
        dtypes: Data types by role, for example `{"model": "float32", "factorisation": "float64"}`.
        data_hashes: sha256 of the data by part, for example `calibration` and `test`.
        model_hash: sha256 of the dense model's files, see `hash_files`; None where unknown.
        base_model_hash: The same of the checkpoint that was given, before any fine-tuning.
        finetuned: Whether the task head was trained here.
        examples: The file of values per example beside the record (`describe_examples`), if any.
        hardware: What computed (`measure.describe_hardware`), if it is known.

    Returns:
        JSON types: `date` (UTC, ISO 8601), `commit`, `dirty` and `git_note` (see `code_state`),
        `python`, `platform`, `machine`, `cpu_count`, `packages` (versions; null where not
        installed) and the arguments.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **code_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "packages": package_versions(),
        "device": device,
        **(hardware or {}),
        "dtypes": dict(dtypes),
        "data_hashes": dict(data_hashes),
        "model_hash": model_hash,
        "base_model_hash": base_model_hash,
        "finetuned": finetuned,
        "examples": None if examples is None else dict(examples),
    }


def package_versions(names: tuple[str, ...] = CORE_PACKAGES) -> dict[str, str | None]:
    """Installed versions, from the package metadata alone; nothing is imported."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def code_state(root: Path | None = None) -> dict[str, Any]:
    """`git_state` of the code that this process runs: as it was at the first call.

    If the checkout is another one by now, parts that were loaded later may be of that one: such a
    state is dirty, and `git_note` says why.

    Args:
        root: Folder whose git state counts; the clone if None (an installed copy has none).
    """
    if root is None and paths.is_clone():
        root = paths.project_root()
    first, now = _first_state(root), git_state(root)
    if first["commit"] is None or now["commit"] is None or now == first:
        return first
    return {**first, "dirty": True, "git_note": "the checkout was changed while this process ran"}


def git_state(root: Path | None) -> dict[str, Any]:
    """Commit of the checkout, and whether its files differ from it.

    `results/` does not count as a difference: every stored record would make the next run dirty.

    Returns:
        `commit` and `dirty`, both None where `root` is not the top of a git checkout, and
        `git_note`: None, or why there is no commit.
    """
    unknown: dict[str, Any] = {"commit": None, "dirty": None}
    if root is None:
        return {**unknown, "git_note": "not a clone"}
    try:
        # Of a folder inside somebody else's checkout, that commit would say nothing.
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root.resolve():
            return {**unknown, "git_note": "not a git checkout"}
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)results")
    except subprocess.CalledProcessError as err:
        note = (err.stderr.strip().splitlines() or ["git failed"])[0]
        return {**unknown, "git_note": paths.text_without_paths(note)}
    except (OSError, subprocess.TimeoutExpired) as err:
        return {**unknown, "git_note": f"git could not be run: {type(err).__name__}"}
    return {"commit": commit, "dirty": bool(changes), "git_note": None}


_first_state = cache(git_state)


def hash_files(folder: Path) -> str:
    """sha256 over names and contents of a model folder's files, in the order of their names.

    Args:
        folder: A Hugging Face model folder; see `MODEL_FILES` for what counts. Model cards, plans
            and logs do not.

    Raises:
        ProvenanceError: No such folder, or no model file in it.
    """
    files = sorted({p for pattern in MODEL_FILES for p in folder.glob(pattern) if p.is_file()})
    if not files:
        raise ProvenanceError(
            f"{folder}: expected a model folder with files like config.json, *.safetensors; "
            f"got {'none of them' if folder.is_dir() else 'no folder'}"
        )
    digest = hashlib.sha256()
    for path in files:
        # Name and size before the content, so that no two folders read as the same bytes.
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with the one that there is
    return digest.hexdigest()


def _git(root: Path, *arguments: str) -> str:
    """Standard output of a git command that must not be redirected and takes no lock."""
    redirections = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {k: v for k, v in os.environ.items() if k not in redirections}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    return done.stdout.strip()
