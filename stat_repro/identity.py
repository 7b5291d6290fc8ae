"""The name of a run: its configuration, and the content of the files that it names."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from stat_repro.config import RunConfig, run_id
from stat_repro.results.provenance import hash_files


def identify(config: RunConfig) -> str:
    """`run_id` with local files and model folders told by content instead of by path.

    The same command on other files is another run, and a moved file is not. What does not exist
    keeps its path: loading it gives the clear message. Hub names are told by name and revision.
    """
    data = config.dataset
    contents: dict[str, Any] = {
        part: _file_content(path)
        for part in ("train", "validation", "test")
        if (path := getattr(data, part)) is not None
    }
    model = replace(config.model, path=_folder_content(config.model.path))
    return run_id(replace(config, dataset=replace(data, **contents), model=model))


def _file_content(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        return path
    with file.open("rb") as handle:
        return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"


def _folder_content(path: str) -> str:
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        return path
    return f"sha256:{hash_files(folder)}"
