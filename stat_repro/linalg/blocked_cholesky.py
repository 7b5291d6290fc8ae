"""Pivoted Cholesky by panels, on any device, of several matrices at once: LAPACK's pivots.

Inside a panel a pivot costs one row of the Schur complement and one matrix-vector product with the
panel; between panels the Schur complement is updated by one product. A step waits for the one
before it, so its cost is that of starting kernels: matrices of one size take their steps together,
and on CUDA the steps of a panel are recorded once and started as one graph. Pivots are chosen on
the device; the host waits for it once per panel, to decide whether to go on.
"""

import math
from functools import cache

import torch

_PANEL = 128


def blocked_cholesky(
    gram: torch.Tensor, tolerance: torch.Tensor, panel: int = _PANEL
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Pivots and factors, up to a tolerance.

    Args:
        gram: B matrices, shape (B, F, F), float64, symmetric; overwritten.
        tolerance: For each matrix, shape (B,): a pivot (squared length) at or below it ends its
            factorisation.
        panel: Pivots between two updates of the Schur complement.

    Returns:
        All F column indices of each matrix, pivots first, shape (B, F), and of each matrix R of
        shape (rank, F), columns in this order.
    """
    batch, size, _ = gram.shape
    rows = gram.new_zeros((batch, size, size))
    state = _Panels(gram, tolerance, min(panel, size))
    order: list[torch.Tensor] = []
    ranks, going, done = [0] * batch, [True] * batch, 0
    while done < size and any(going):
        count = min(panel, size - done)
        factor, good = state.next_panel(count)
        rows[:, done : done + count] = factor
        order.append(state.waiting[:, :count].clone())
        done += count
        for b, number in enumerate(good.tolist()):
            ranks[b] += number * going[b]
            going[b] = going[b] and number == count
        state.drop(count)
        if done < size and any(going):
            # Pivots stay in the matrix, unused: leaving them out would mean other shapes, and so
            # another graph, which takes longer to record than this product does.
            gram.baddbmm_(factor.mT, factor, alpha=-1.0)
    everything = torch.cat([*order, state.waiting[:, : size - done]], dim=1)
    del state, gram
    # Entries of a row at earlier pivots are rounding noise around zero.
    return everything, [
        rows[b, : ranks[b]].index_select(1, everything[b]).triu_() for b in range(batch)
    ]


class _Panels:
    """The steps of one panel after the other.

    Args:
        schur: Shape (B, F, F); whoever owns it updates it between two panels.
        tolerance: Shape (B,).
        panel: Pivots of a full panel.

    Attributes:
        waiting: Columns that are no pivots yet, in the same order as in LAPACK, shape (B, F); after
            `next_panel` its pivots, then these.
    """

    def __init__(self, schur: torch.Tensor, tolerance: torch.Tensor, panel: int) -> None:
        batch, size, _ = schur.shape
        self._schur, self._tolerance, self._panel = schur, tolerance[:, None], panel
        self.waiting = torch.arange(size, device=schur.device).repeat(batch, 1)
        # Squared lengths of what the pivots so far do not explain. One place more, which is never
        # the largest: unused entries of `waiting` point to it, so that all panels have the same
        # shapes and one graph serves them all.
        nowhere = schur.new_full((batch, 1), -math.inf)
        self._left = torch.cat([schur.diagonal(dim1=1, dim2=2), nowhere], dim=1)
        self._factor = schur.new_empty((batch, panel, size))
        self._values = schur.new_empty((batch, panel))
        self._graph: torch.cuda.CUDAGraph | None = None
        self._runs = 0

    def next_panel(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next rows of R, (B, count, F), and how many are above the tolerance, (B,).

        Rows past the tolerance are zero. Pivots are moved to the front of `waiting`.
        """
        whole = count == self._panel
        # The first panel in the usual way: libraries set themselves up then.
        if whole and self._runs == 1 and self._schur.is_cuda:
            self._graph = self._recorded()
        if whole and self._graph is not None:
            self._graph.replay()
        else:
            self._steps(count)
        self._runs += 1
        good = (self._values[:, :count] > self._tolerance).sum(dim=1)
        return self._factor[:, :count], good

    def drop(self, count: int) -> None:
        """Take pivots off the front of `waiting`."""
        size = self._schur.shape[1]
        self.waiting.copy_(self.waiting.roll(-count, dims=1))
        self.waiting[:, size - count :] = size

    def _recorded(self) -> torch.cuda.CUDAGraph:
        graph, device = torch.cuda.CUDAGraph(), self._schur.device
        # A graph takes less than this, with the workspace of cuBLAS, but nothing that the allocator
        # has in its cache.
        if torch.cuda.mem_get_info(device)[0] < 2**28:
            torch.cuda.empty_cache()
        with torch.cuda.stream(_recording_stream(device)):
            graph.capture_begin()
            try:
                self._steps(self._panel)
            finally:  # after an error too: else torch allocates nothing more in this process
                graph.capture_end()
        return graph

    def _steps(self, count: int) -> None:
        schur, factor, waiting = self._schur, self._factor, self.waiting
        batch, size, _ = schur.shape
        lengths = self._left[:, :size]
        for j in range(count):
            best = self._left.gather(1, waiting[:, j:]).argmax(dim=1, keepdim=True) + j
            pivot = waiting.gather(1, best)
            waiting.scatter_(1, best, waiting[:, j : j + 1].clone())
            waiting[:, j : j + 1] = pivot
            place = pivot[:, :, None]
            row = schur.gather(1, place.expand(batch, 1, size))
            if j:
                above = factor[:, :j].gather(2, place.expand(batch, j, 1))
                row = torch.baddbmm(row, above.mT, factor[:, :j], alpha=-1.0)
            value = self._left.gather(1, pivot)
            # Past the tolerance 1 / sqrt(inf): the row is zero.
            scale = torch.where(value > self._tolerance, value, math.inf).rsqrt()
            torch.mul(row[:, 0], scale, out=factor[:, j])
            self._values[:, j : j + 1] = value
            lengths.addcmul_(factor[:, j], factor[:, j], value=-1.0)


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all graphs of a device: cuBLAS keeps some MB for every stream that it has seen."""
    return torch.cuda.Stream(device)
