"""What all workloads share: the form of a calibration set."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stat_repro.config import CalibrationConfig
from stat_repro.data.batching import Batch
from stat_repro.data.sampling import draw_indices

log = logging.getLogger("stat_repro")


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


def drawn_indices(pool: int, config: CalibrationConfig, seed: int) -> tuple[int, ...]:
    """`draw_indices` of as many examples as the configuration asks for, or as there are.

    Raises:
        DataError: Fewer than were asked for.
    """
    examples = config.examples
    if config.at_most and not config.replacement and 0 < pool < examples:
        log.warning(
            "calibration.examples: %d, all there are, instead of the default %d", pool, examples
        )
        examples = pool
    return draw_indices(pool, examples, seed, config.replacement)


def digest_of(rows: list[list[int]]) -> str:
    """sha256 over token ids, example by example."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(np.asarray(row, dtype=np.int64).tobytes())
        sha.update(b"|")
    return sha.hexdigest()
