"""The name of a run: its configuration, and the content of the files that it reads."""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from stat_repro.config import ConfigError, DatasetConfig, RunConfig, run_id
from stat_repro.data.corpora import CORPORA
from stat_repro.data.corpus_files import files_of, release_names
from stat_repro.data.errors import DataError
from stat_repro.data.glue import GLUE_TASKS
from stat_repro.data.local_parts import content_files, part_files
from stat_repro.paths import name_of, without_paths
from stat_repro.results.provenance import hash_files

# Files that make up a folder of data; anything else in it (readmes, scripts) does not count.
_DATA_ENDINGS = (".arrow", ".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt")
_TASK_ENDINGS = (*_DATA_ENDINGS, ".yaml", ".py", ".gz")


def identify(config: RunConfig) -> str:
    """`run_id` of a configuration, with the content of local files in place of their paths.

    So the same command on other files is another run, and the same file in another place is not.
    What does not exist keeps its path: loading it gives a clear message. Models and data of the hub
    keep name and revision.
    """
    model = replace(config.model, path=_folder_content(config.model.path))
    return run_id(replace(_with_contents(config), model=model))


def recorded(config: RunConfig, base_hash: str, name: str | None = None) -> dict[str, Any]:
    """The configuration as a record holds it, which may be passed on.

    A path to something local is cut to the name at its end. What is read from there is still told
    apart: the beginning of its hash follows behind an @.

    Args:
        config: The run.
        base_hash: sha256 of the checkpoint.
        name: What `identify` gave before the files were read.

    Raises:
        ConfigError: They have another content than then.
    """
    content = _with_contents(config)
    if _is_model(config.model.path):
        content = replace(content, model=replace(config.model, path=f"sha256:{base_hash}"))
    if name not in (None, run_id(content)):
        raise ConfigError(
            f"{name}: expected files of model and data that stay as they are while they are read; "
            "got changed ones; choose the same command once more, which reads them as they are now"
        )
    return _named(asdict(config), asdict(content))


def has_content(data: DatasetConfig, place: Path, digits: str) -> bool:
    """Whether something local is what a record names, by the first digits behind its @.

    Args:
        data: The data set of the record, which says what is read of a folder.
        place: A file, or a folder of a model, of data or of zero-shot tasks.
        digits: The digits; none (as in older records) fit everything.
    """
    kinds = (_folder_content, _task_content, partial(_data_content, data))
    return any(content(str(place)).startswith(f"sha256:{digits}") for content in kinds)


def _named(given: Any, content: Any) -> Any:
    if isinstance(given, dict):
        return {key: _named(value, content[key]) for key, value in given.items()}
    if given == content:
        return without_paths(given)
    return f"{name_of(given)}@{content.removeprefix('sha256:')[:10]}"


def _with_contents(config: RunConfig) -> RunConfig:
    """The configuration with the content of local files of data in place of their paths."""
    data = config.dataset
    contents: dict[str, Any] = {
        key: _data_content(data, path)
        for key in ("train", "validation", "test", "path", "calibration_path")
        if (path := getattr(data, key)) is not None
    }
    tasks = config.evaluation.zero_shot
    if tasks.include is not None:
        tasks = replace(tasks, include=_task_content(tasks.include))
    evaluation = replace(config.evaluation, zero_shot=tasks)
    return replace(config, dataset=replace(data, **contents), evaluation=evaluation)


def _task_content(path: str) -> str:
    """The content of a folder of zero-shot tasks: task files, their functions and data."""
    folder = Path(path).expanduser()
    return _digest(_files_in(folder, _TASK_ENDINGS)) if folder.is_dir() else path


def _data_content(data: DatasetConfig, path: str) -> str:
    """The content of a benchmark's local file or folder; a name on the hub unchanged."""
    place = Path(path).expanduser()
    if place.is_dir():
        return _digest(_data_files(data, place))
    content = _file_content(path)
    if data.task != "language_modeling" or not place.is_file():
        return content
    # The name says how text is read: as the rows of a release, as a table, or as it is.
    released = any(place.name in release_names(corpus) for corpus in CORPORA.values())
    kind = "release" if released else place.suffix.lower()
    return content if kind == ".txt" else f"{content} {kind}"


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(f"{name}\0{_file_content(str(file))}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _data_files(data: DatasetConfig, folder: Path) -> list[tuple[str, Path]]:
    """The files of a local copy that are read, with their names in it."""
    benchmark, _, name = data.source.partition(":")
    if benchmark == "glue" and name in GLUE_TASKS:
        task = GLUE_TASKS[name]
        with suppress(DataError):  # loading it gives the message
            parts = part_files(folder, task.parts, task.subfolders)
            return [(part, file) for part in parts for file in content_files(parts[part])]
    if benchmark == "corpus":
        # A folder of C4 may hold a thousand shards, of which two are read.
        corpora = [CORPORA[n] for n in {name, data.calibration_corpus} if n in CORPORA]
        read = {file for corpus in corpora for file in files_of(corpus, folder)}
        return sorted((str(f.relative_to(folder)), f) for f in content_files(sorted(read)))
    return _files_in(folder, _DATA_ENDINGS)


def _files_in(folder: Path, endings: tuple[str, ...]) -> list[tuple[str, Path]]:
    files = [file for file in folder.rglob("*") if file.suffix.lower() in endings]
    return sorted((str(file.relative_to(folder)), file) for file in files if file.is_file())


def _file_content(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        return path
    with file.open("rb") as handle:
        return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"


def _is_model(path: str) -> bool:
    return (Path(path).expanduser() / "config.json").is_file()


def _folder_content(path: str) -> str:
    return f"sha256:{hash_files(Path(path).expanduser())}" if _is_model(path) else path
