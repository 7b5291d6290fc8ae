"""Reading safetensors files and sharded checkpoints tensor by tensor, without mapping them.

A memory-mapped file counts as resident memory page by page as it is read. With the `pread` backend
of safetensors a tensor is read into new memory, and nothing else of the file stays.
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorFileError(ValueError):
    """A file or folder without the tensors that it should hold; names it."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor that lies in a file.

    Attributes:
        path: File.
        name: Its name there.
        dtype: Its type.
        shape: Its shape.
    """

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> torch.Tensor:
        """The tensor, in new memory.

        Raises:
            TensorFileError: The file is not what it was when it was opened.
        """
        with open_tensors(self.path) as file:
            tensor: torch.Tensor = file.get_tensor(self.name)
            return tensor


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """The `safe_open` handle of a file.

    Raises:
        TensorFileError: No complete safetensors file.
    """
    try:
        with safe_open(path, "pt", backend="pread") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise TensorFileError(f"{path}: expected a safetensors file; {error}") from error


def read_header(path: Path) -> dict[str, TensorEntry]:
    """All tensors of a safetensors file by name, in the order of the file.

    Raises:
        TensorFileError: No complete safetensors file, or a tensor of a type that is not read here.
    """
    entries = {}
    with open_tensors(path) as file:
        for name in file.offset_keys():
            part = file.get_slice(name)
            if part.get_dtype() not in _DTYPES:
                raise TensorFileError(
                    f"{path}, {name}: expected a type among {', '.join(_DTYPES)}; got "
                    f"{part.get_dtype()}"
                )
            dtype, shape = _DTYPES[part.get_dtype()], tuple(part.get_shape())
            entries[name] = TensorEntry(path, name, dtype, shape)
    return entries


def add_metadata(path: Path, notes: Mapping[str, str]) -> None:
    """Add to the metadata of a safetensors file; its tensors stay as they are."""
    longer = path.with_suffix(".tmp")
    with path.open("rb") as file, longer.open("wb") as out:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header["__metadata__"] = {**header.get("__metadata__", {}), **notes}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
        out.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(file, out, 1 << 20)
    os.replace(longer, path)


def has_weights(folder: Path) -> bool:
    """Whether a folder has safetensors weights, in one file or by an index."""
    return any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))


def shard_names(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """Names of the files with a folder's weights, and the file of each tensor if there is an index.

    Raises:
        TensorFileError: Neither form is there, or an index that is no table of files in the folder.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        if not (folder / SINGLE_FILE).is_file():
            raise TensorFileError(f"{folder}: expected {SINGLE_FILE} or {INDEX_FILE}; got neither")
        return [SINGLE_FILE], None
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TensorFileError(f"{index}: expected JSON with a weight_map; {error!r}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise TensorFileError(f"{index}: expected names of files beside it; got {name!r}")
    return names, places


class ShardedCheckpoint:
    """The tensors of a folder, in one safetensors file or in several with an index.

    Args:
        folder: A Hugging Face folder.

    Raises:
        TensorFileError: Neither form is there, or a tensor of the index is in no file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names, places = shard_names(folder)
        files = {name: read_header(folder / name) for name in names}
        if places is None:
            places = dict.fromkeys(files[SINGLE_FILE], SINGLE_FILE)
        missing = sorted(name for name, file in places.items() if name not in files[file])
        if missing:
            raise TensorFileError(
                f"{folder / INDEX_FILE}: {len(missing)} tensors are not where it says (first: "
                f"{missing[0]} in {places[missing[0]]})"
            )
        self.entries = {name: files[file][name] for name, file in places.items()}

    @property
    def float_dtype(self) -> torch.dtype:
        """Floating point type that most of its numbers have."""
        totals: Counter[torch.dtype] = Counter()
        for entry in self.entries.values():
            if entry.dtype.is_floating_point:
                totals[entry.dtype] += math.prod(entry.shape)
        if not totals:
            raise TensorFileError(f"{self.folder}: no floating point tensor")
        return totals.most_common(1)[0][0]
