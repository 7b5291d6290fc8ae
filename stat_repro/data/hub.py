"""Benchmarks by name: a local copy where one is given, else the Hugging Face hub."""

from pathlib import Path

import datasets

from stat_repro.data.errors import DataError
from stat_repro.entry import one_line

_FILE_ENDINGS = (".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt")


def local_copy(path: str, key: str) -> Path | None:
    """The local file or folder that a benchmark's path names; None for a name on the hub.

    What exists here is local, even if it looks like a name on the hub.

    Args:
        path: Value of the configuration.
        key: Its key, for the message.

    Raises:
        DataError: It can only be meant as a local path, and nothing is there.
    """
    local = Path(path).expanduser()
    if local.exists():
        return local.resolve()
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or local.suffix in _FILE_ENDINGS:
        raise DataError(
            f"{key}={path}: expected a file or folder; {local} does not exist (working folder "
            f"{Path.cwd()})"
        )
    return None


def from_hub(
    name: str,
    *,
    split: str,
    key: str,
    local_form: str,
    subset: str | None = None,
    revision: str | None = None,
    data_files: str | None = None,
    first: int | None = None,
) -> datasets.Dataset:
    """One split of a data set on the Hugging Face hub, through its library's own cache.

    Args:
        name: `owner/name`.
        split: Split as the hub names it.
        key: Configuration key that named it, for the message.
        local_form: What to give instead of a hub name, for the message.
        subset: Configuration of the data set.
        revision: Branch, tag or commit; the default branch if None.
        data_files: Files of the repository to read instead of all of the split.
        first: Read only the first so many rows, without fetching the rest; nothing is cached.

    Raises:
        DataError: It cannot be had; says what was asked for, what was tried, what to give instead.
    """
    files = None if data_files is None else {split: data_files}
    options = {"split": split, "revision": revision, "data_files": files}
    try:
        rows = datasets.load_dataset(name, subset, streaming=first is not None, **options)
        return rows if first is None else datasets.Dataset.from_list(list(rows.take(first)))
    except Exception as error:
        asked = f"{name}{f' ({subset})' if subset else ''}, split {split}"
        reason = one_line(error)
        raise DataError(
            f"{key}={name}: no such local file or folder, and the Hugging Face hub did not give "
            f"{asked} ({type(error).__name__}: {reason}). Where access is restricted, accept "
            "the terms on its page and log in with `hf auth login`, or set HF_TOKEN. Offline, give "
            f"a local copy: {key}=<path> with {local_form}"
        ) from error
