"""How the activations of a site become statistics, rows by rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from stat_repro.calibration.sketch import Sketch, sketch_rows
from stat_repro.calibration.statistics import ActivationStatistics, GramStatistics
from stat_repro.linalg.gram import are_independent, column_sums, mirror, rank_update
from stat_repro.models.adapter import Site
from stat_repro.models.devices import float64_home
from stat_repro.parallel import exchange, sum_over_ranks

# Rows per product: the Gram sum is read and written once per product, so few rows at a time would
# cost memory traffic. A sketch draws for this many rows at a time, so another value is another
# sketch.
BUFFER_ROWS = 256
# On a GPU, where every product means some kernels; more rows would cost accuracy (`rank_update`).
GPU_BUFFER_ROWS = 1024
# On the CPU this many rows, and twice as many as there are columns, are multiplied in float64. The
# others are multiplied in float32 if the correlations of these have no eigenvalue up to this share:
# the error of float32 products is about 1e-6 of the largest one (spectral norm; 5e-7 for a single
# entry by the lengths of its columns). MiniLM on movie_reviews: of six FFNs one stays below.
FLOAT64_ROWS = 2048
FLOAT32_SHARE = 1e-5
# More rows than in float64, since a product is shorter and the sum is read and written in float64
# all the same: 512 take 6 % longer, 2,048 take 4 % less, but twice the memory (3,072 columns).
FLOAT32_BUFFER_ROWS = 1024


class _BufferedSum(ABC):
    """A float64 sum over the tokens, on the model's device if that has float64.

    Rows wait in a buffer until there are enough for a product. So small batches cost no more than
    large ones, and neither memory nor result depends on how the rows are batched.
    """

    def __init__(self, site: Site, device: torch.device) -> None:
        self._dtype = torch.float64
        self._home = float64_home(device)
        self._columns = site.columns
        self._buffer: torch.Tensor | None = None
        self._filled = 0
        self._tokens = 0

    def _new_buffer(self) -> torch.Tensor:
        size = (BUFFER_ROWS, self._columns)
        return torch.empty(size, dtype=torch.float64, device=self._home)

    def add(self, rows: torch.Tensor) -> None:
        """Take the activations of some tokens, shape (r, F); nothing keeps a view of them.

        They are copied into the buffer, which is used whenever it is full.
        """
        if self._buffer is None:
            self._dtype = rows.dtype
            self._buffer = self._new_buffer()
        self._tokens += len(rows)
        start = 0
        while start < len(rows):
            count = min(len(self._buffer) - self._filled, len(rows) - start)
            part = rows[start : start + count]
            start += count
            if count == len(self._buffer) and part.dtype == self._buffer.dtype:
                self._use(part.to(self._home))  # nothing waits, and nothing has to be copied
                continue
            self._buffer[self._filled : self._filled + count].copy_(part)
            self._filled += count
            if self._filled == len(self._buffer):
                self._flush()

    def _flush(self) -> None:
        if self._buffer is not None and self._filled:
            self._use(self._buffer[: self._filled])
        self._filled = 0

    @abstractmethod
    def _use(self, rows: torch.Tensor) -> None:
        """Add these rows of the buffer to the sum."""


class GramSum(_BufferedSum):
    """Running G and column sums of one site.

    On a GPU, half-precision activations stay what they are until they have been multiplied; on the
    CPU, rows of less than float64 are multiplied in float32 where no column is near the noise of
    such products (`FLOAT32_SHARE`). See `rank_update`.
    """

    def __init__(self, site: Site, device: torch.device) -> None:
        super().__init__(site, device)
        size = (site.columns, site.columns)
        self._gram = torch.zeros(size, dtype=torch.float64, device=self._home)
        self._sums = torch.zeros(site.columns, dtype=torch.float64, device=self._home)
        self._summed = 0

    def _new_buffer(self) -> torch.Tensor:
        if self._home.type != "cuda":
            return super()._new_buffer()
        half = self._dtype in (torch.bfloat16, torch.float16)
        dtype = self._dtype if half else torch.float64
        return torch.empty((GPU_BUFFER_ROWS, self._columns), dtype=dtype, device=self._home)

    def _use(self, rows: torch.Tensor) -> None:
        rank_update(self._gram, rows)
        self._sums += column_sums(rows)
        before, self._summed = self._summed, self._summed + len(rows)
        enough = max(FLOAT64_ROWS, 2 * self._columns)
        if (
            before < enough <= self._summed
            and self._home.type == "cpu"
            and self._dtype is not torch.float64
            and self._varies()
            and are_independent(self._gram, FLOAT32_SHARE)
        ):
            self._buffer = torch.empty((FLOAT32_BUFFER_ROWS, self._columns), dtype=torch.float32)

    def _varies(self) -> bool:
        """Whether every column varies by far more than its mean hides in float32 products."""
        squares = self._gram.diagonal()
        left = squares - self._sums.square() / self._summed
        return bool((left > 100 * FLOAT32_SHARE * squares).all())

    def finish(self) -> GramStatistics:
        """G and the sums of all rows, over all processes of the run."""
        self._flush()
        self._buffer = None
        self._tokens = sum(exchange(self._tokens))
        sum_over_ranks([self._gram, self._sums])
        mirror(self._gram)
        return GramStatistics(self._gram, self._tokens, self._dtype, self._sums)


class SketchSum(_BufferedSum):
    """Running S A of one site; S is drawn part by part and never stored."""

    def __init__(self, site: Site, device: torch.device, sketch: Sketch) -> None:
        super().__init__(site, device)
        self._kind = sketch.kind
        self._generator = sketch.generator(site.layer, site.kind)
        size = (sketch.size or 2 * site.columns, site.columns)
        self._sum = torch.zeros(size, dtype=torch.float64, device=self._home)

    def _use(self, rows: torch.Tensor) -> None:
        sketch_rows(self._sum, rows, self._kind, BUFFER_ROWS, self._generator)

    def finish(self) -> ActivationStatistics:
        """S A of all rows."""
        self._flush()
        return ActivationStatistics(self._sum.cpu(), self._dtype, self._tokens)


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


Collector = GramSum | SketchSum | RowStore
# `sketch` also needs a `Sketch`; see `capture.collect_statistics`.
COLLECTORS: dict[str, Callable[..., Collector]] = {
    "gram": GramSum,
    "exact": RowStore,
    "sketch": SketchSum,
}
