"""What all workloads share: the form of a calibration set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stat_repro.data.batching import Batch


@dataclass(frozen=True)
class CalibrationSet:
    """Calibration batches that can be read repeatedly, and what identifies them.

    Attributes:
        batches: Padded batches, made when they are read; with `labels` (B,) on request.
        digest: sha256 over the token ids of the drawn examples.
    """

    batches: Sequence[Batch]
    digest: str

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def digest_of(rows: list[list[int]]) -> str:
    """sha256 over token ids, example by example."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(np.asarray(row, dtype=np.int64).tobytes())
        sha.update(b"|")
    return sha.hexdigest()
