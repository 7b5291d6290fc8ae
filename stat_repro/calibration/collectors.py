"""What becomes of a site's activations while they stream by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from stat_repro.calibration.statistics import (
    ActivationStatistics,
    GramStatistics,
    SiteStatistics,
)
from stat_repro.linalg.gram import mirror, rank_update
from stat_repro.models.adapter import Site

# Rows that one product of a Gram sum takes. The sum is read and written once per product, which
# costs nothing measurable from here on (dsyrk, F = 768 and 3072).
BLOCK_ROWS = 256


class Collector(Protocol):
    """Takes rows as they come; the statistics at the end."""

    def add(self, rows: torch.Tensor) -> None:
        """Take the activations of some tokens, shape (r, F); they are copied or used up."""
        ...

    def finish(self) -> SiteStatistics:
        """The statistics of all rows so far; nothing may be added afterwards."""
        ...


class GramSum:
    """Running G of one site; float64 sums, on the model's device where that has float64.

    Rows wait in a block of fixed size, in float64, until a product is worth its while: small
    batches cost no more than large ones, and memory does not depend on either. A further sum over
    the tokens is one more line in `_flush`.
    """

    def __init__(self, site: Site, device: torch.device) -> None:
        self._dtype = torch.float64
        home = torch.device("cpu") if device.type == "mps" else device
        self._gram = torch.zeros(site.columns, site.columns, dtype=torch.float64, device=home)
        self._block = torch.empty(BLOCK_ROWS, site.columns, dtype=torch.float64, device=home)
        self._filled = 0
        self._tokens = 0

    def add(self, rows: torch.Tensor) -> None:
        """Copy the rows into the block, and the block into the sum whenever it is full."""
        self._dtype = rows.dtype
        self._tokens += rows.shape[0]
        while len(rows):
            part, rows = rows.split([n := min(BLOCK_ROWS - self._filled, len(rows)), len(rows) - n])
            self._block[self._filled : self._filled + n].copy_(part)
            self._filled += n
            if self._filled == BLOCK_ROWS:
                self._flush()

    def finish(self) -> GramStatistics:
        """G of all rows."""
        self._flush()
        mirror(self._gram)
        return GramStatistics(gram=self._gram, tokens=self._tokens, dtype=self._dtype)

    def _flush(self) -> None:
        rows = self._block[: self._filled]
        rank_update(self._gram, rows)
        self._filled = 0


class RowStore:
    """All activations of one site, on the CPU."""

    def __init__(self, site: Site, device: torch.device) -> None:
        self._rows: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        """Keep the rows."""
        self._rows.append(rows.to("cpu", copy=True))

    def finish(self) -> ActivationStatistics:
        """All rows in their order."""
        return ActivationStatistics(activations=torch.cat(self._rows))


COLLECTORS: dict[str, Callable[[Site, torch.device], Collector]] = {
    "gram": GramSum,
    "exact": RowStore,
}
