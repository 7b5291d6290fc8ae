"""What becomes of a site's activations while they stream by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch

from stat_repro.calibration.sketch import Sketch, SketchStatistics, sketch_rows
from stat_repro.calibration.statistics import (
    ActivationStatistics,
    GramStatistics,
    SiteStatistics,
)
from stat_repro.linalg.gram import mirror, rank_update
from stat_repro.models.adapter import Site
from stat_repro.models.devices import float64_home
from stat_repro.parallel import exchange, sum_over_ranks

# Rows that one product of a sum takes: the Gram sum is read and written once per product, so few
# rows at a time would cost memory traffic. A sketch draws this many rows at a time, so another
# value is another sketch.
BUFFER_ROWS = 256


class Collector(Protocol):
    """Takes rows as they come; the statistics at the end."""

    def add(self, rows: torch.Tensor) -> None:
        """Take the activations of some tokens, shape (r, F); they are copied or used up."""
        ...

    def finish(self) -> SiteStatistics:
        """The statistics of all rows so far; nothing may be added afterwards."""
        ...


class _BlockSum(ABC):
    """A float64 sum over the tokens, on the model's device where that has float64.

    Rows wait in a float64 block of fixed size until a product is worth its while: small batches
    cost no more than large ones, memory does not depend on either, and how the rows were cut into
    batches does not matter.
    """

    def __init__(self, site: Site, device: torch.device) -> None:
        self._dtype = torch.float64
        self._home = float64_home(device)
        self._block = torch.empty(BUFFER_ROWS, site.columns, dtype=torch.float64, device=self._home)
        self._filled = 0
        self._tokens = 0

    def add(self, rows: torch.Tensor) -> None:
        """Copy the rows into the block, and use the block whenever it is full."""
        self._dtype = rows.dtype
        self._tokens += len(rows)
        start = 0
        while start < len(rows):
            count = min(len(self._block) - self._filled, len(rows) - start)
            self._block[self._filled : self._filled + count].copy_(rows[start : start + count])
            self._filled += count
            start += count
            if self._filled == len(self._block):
                self._flush()

    def _flush(self) -> None:
        self._use(self._block[: self._filled])
        self._filled = 0

    @abstractmethod
    def _use(self, rows: torch.Tensor) -> None:
        """Add these rows, float64, to the sum."""


class GramSum(_BlockSum):
    """Running G and column sums of one site."""

    def __init__(self, site: Site, device: torch.device) -> None:
        super().__init__(site, device)
        size = (site.columns, site.columns)
        self._gram = torch.zeros(size, dtype=torch.float64, device=self._home)
        self._sums = torch.zeros(site.columns, dtype=torch.float64, device=self._home)

    def _use(self, rows: torch.Tensor) -> None:
        rank_update(self._gram, rows)
        self._sums += rows.sum(dim=0)

    def finish(self) -> GramStatistics:
        """G and the sums of all rows, those of the other processes of the run included."""
        self._flush()
        self._tokens = sum(exchange(self._tokens))
        sum_over_ranks([self._gram, self._sums])
        mirror(self._gram)
        return GramStatistics(self._gram, self._tokens, self._dtype, self._sums)


class SketchSum(_BlockSum):
    """Running S A of one site; S is drawn block by block and never stored."""

    def __init__(self, site: Site, device: torch.device, sketch: Sketch) -> None:
        super().__init__(site, device)
        self._kind = sketch.kind
        self._generator = sketch.generator(site.layer, site.kind)
        size = (sketch.size or 2 * site.columns, site.columns)
        self._sum = torch.zeros(size, dtype=torch.float64, device=self._home)

    def _use(self, rows: torch.Tensor) -> None:
        if len(rows):
            sketch_rows(self._sum, rows, self._kind, BUFFER_ROWS, self._generator)

    def finish(self) -> SketchStatistics:
        """S A of all rows."""
        self._flush()
        return SketchStatistics(
            activations=self._sum.cpu(), computed=self._dtype, tokens_seen=self._tokens
        )


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


# `sketch` also needs a `Sketch`; see `capture.collect_statistics`.
COLLECTORS: dict[str, Callable[..., Collector]] = {
    "gram": GramSum,
    "exact": RowStore,
    "sketch": SketchSum,
}
