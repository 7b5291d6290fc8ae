"""Values per evaluated example, in a file beside their record.

<study>/<run_id>.examples.safetensors    beside    <study>/<run_id>.json, repeats likewise

The record names the file's sha256 and the values under `provenance.examples`, so a file that does
not belong to it is noticed. Records without that entry have no such file.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stat_repro.results.record import RunRecord
from stat_repro.results.strict_json import RecordError

_ENDING = ".examples.safetensors"
KEY = "examples"  # of a record's provenance


def encode_examples(values: Mapping[str, NDArray[Any]]) -> bytes:
    """The file's content, byte for byte the same for the same values.

    Args:
        values: Flat arrays of one length, (N).

    Raises:
        RecordError: No values, or arrays that do not belong to the same examples.
    """
    shapes = {name: value.shape for name, value in values.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise RecordError(f"examples: expected flat values of the same examples; got {shapes}")
    return save({name: np.ascontiguousarray(values[name]) for name in sorted(values)})


def describe_examples(data: bytes) -> dict[str, Any]:
    """What a record says about the file: `sha256`, `values` (names) and `count` (N).

    Args:
        data: What `encode_examples` gave.
    """
    values = load(data)
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "values": sorted(values),
        "count": len(next(iter(values.values()))),
    }


def examples_path(record_path: Path) -> Path:
    """File of the values that belong to a record's file."""
    return record_path.with_name(record_path.stem + _ENDING)


def check_examples(record: RunRecord, data: bytes | None) -> None:
    """Refuse values that are not those which the record names.

    Raises:
        RecordError: Another content than the record says, or one of the two is missing.
    """
    named = record.provenance.get(KEY)
    expected = None if named is None else named["sha256"]
    got = None if data is None else hashlib.sha256(data).hexdigest()
    if got != expected:
        raise RecordError(
            f"{record.run_id}: provenance.examples: expected a file with sha256 {expected}; "
            f"got {got}"
        )


def read_examples(record: RunRecord, record_path: Path) -> dict[str, NDArray[Any]] | None:
    """Values of a stored record, (N) each; None if it names none.

    Args:
        record: The record.
        record_path: Its file.

    Raises:
        RecordError: The file is missing or is not the one that the record names; says which.
    """
    if record.provenance.get(KEY) is None:
        return None
    path = examples_path(record_path)
    try:
        data = path.read_bytes()
        check_examples(record, data)
        return load(data)
    except (OSError, SafetensorError, RecordError) as err:
        raise RecordError(f"{path}: {err}") from err
