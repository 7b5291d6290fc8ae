"""Pivoted Cholesky by panels, on any device, of several matrices at once: LAPACK's pivots.

Inside a panel a pivot costs one row of the Schur complement and one matrix-vector product with the
panel; between panels the Schur complement is updated by one product. A step waits for the one
before it, so its cost is that of starting kernels: matrices of one size take their steps together,
and on CUDA the steps of a panel are recorded once and started as one graph. Pivots are chosen on
the device; the host waits for it once per panel, to decide whether to go on.
"""

from __future__ import annotations

import math

import torch

_PANEL = 128
# Pivots stay in the Schur complement, unused, until it pays to copy the rest.
_COMPACT_BELOW = 0.75


def blocked_cholesky(
    gram: torch.Tensor, tolerance: torch.Tensor, panel: int = _PANEL
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Pivots and factors, up to a tolerance.

    Args:
        gram: B matrices, shape (B, F, F), float64, symmetric; overwritten.
        tolerance: Of each matrix, shape (B,): a pivot (squared length) at or below it ends its
            factorisation.
        panel: Pivots between two updates of the Schur complement.

    Returns:
        All F column indices of each matrix, pivots first, shape (B, F), and of each matrix R of
        shape (rank, F), columns in this order.
    """
    batch, size, _ = gram.shape
    rows = gram.new_zeros((batch, size, size))
    columns = torch.arange(size, device=gram.device).repeat(batch, 1)  # of G, at each position
    left = gram.diagonal(dim1=1, dim2=2)
    state = _Panels(gram, left, columns, tolerance, panel)
    order: list[torch.Tensor] = []
    ranks, going, done = [0] * batch, [True] * batch, 0
    while done < size and any(going):
        count = min(panel, size - done)
        factor, good = state.next_panel(count)
        place = columns[:, None, :].expand(batch, count, columns.shape[1])
        rows[:, done : done + count].scatter_(2, place, factor)
        order.append(columns.gather(1, state.waiting[:, :count]))
        done += count
        for b, number in enumerate(good.tolist()):
            ranks[b] += number * going[b]
            going[b] = going[b] and number == count
        alive = state.drop(count, size - done)
        if done < size and any(going):
            state.schur.baddbmm_(factor.mT, factor, alpha=-1.0)
            if size - done < _COMPACT_BELOW * columns.shape[1]:
                columns = columns.gather(1, alive)
                state = state.compacted(alive)
    everything = torch.cat([*order, columns.gather(1, state.waiting[:, : size - done])], dim=1)
    del state, gram
    # Entries of a row at earlier pivots are rounding noise around zero.
    return everything, [
        rows[b, : ranks[b]].index_select(1, everything[b]).triu_() for b in range(batch)
    ]


class _Panels:
    """The steps of one panel after the other on Schur complements of one size.

    Args:
        schur: Shape (B, n, n).
        left: Squared lengths of what the pivots so far do not explain, shape (B, n).
        waiting: Positions that are no pivots yet, at most n, in the same order as in LAPACK.
        tolerance: Shape (B,).
        panel: Pivots of a full panel.
    """

    def __init__(
        self,
        schur: torch.Tensor,
        left: torch.Tensor,
        waiting: torch.Tensor,
        tolerance: torch.Tensor,
        panel: int,
    ) -> None:
        batch, size, _ = schur.shape
        self.schur = schur
        # One place more, which is never the largest: unused entries of `waiting` point to it, so
        # that all panels have the same shapes and a graph serves them all.
        self._left = torch.cat([left, left.new_full((batch, 1), -math.inf)], dim=1)
        self.waiting = torch.full((batch, size), size, device=schur.device)
        self.waiting[:, : waiting.shape[1]] = waiting
        self._tolerance, self._panel = tolerance[:, None], panel
        self._factor = schur.new_empty((batch, min(panel, size), size))
        self._values = schur.new_empty((batch, min(panel, size)))
        self._graph: torch.cuda.CUDAGraph | None = None
        self._runs = 0

    def next_panel(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next rows of R, (B, count, n), and how many are above the tolerance, (B,).

        Rows past the tolerance are zero. Pivots are moved to the front of `waiting`.
        """
        # The first panel in the usual way: libraries set themselves up then.
        record = self.schur.is_cuda and self._runs == 1 and count == self._panel
        if record:
            self._graph = self._recorded()
        if self._graph is not None and count == self._panel:
            self._graph.replay()
        else:
            self._steps(count)
        self._runs += 1
        good = (self._values[:, :count] > self._tolerance).sum(dim=1)
        return self._factor[:, :count], good

    def drop(self, count: int, left: int) -> torch.Tensor:
        """Take pivots off the front of `waiting`; gives the `left` other positions, ascending."""
        size = self.schur.shape[1]
        self.waiting.copy_(self.waiting.roll(-count, dims=1))
        self.waiting[:, size - count :] = size
        return torch.sort(self.waiting[:, :left], dim=1).values

    def compacted(self, alive: torch.Tensor) -> _Panels:
        """The same with these positions alone, shape (B, m)."""
        pairs = zip(self.schur, alive, strict=True)
        schur = torch.stack([s.index_select(0, a).index_select(1, a) for s, a in pairs])
        waiting = torch.searchsorted(alive, self.waiting[:, : alive.shape[1]].contiguous())
        left = self._left.gather(1, alive)
        return _Panels(schur, left, waiting, self._tolerance[:, 0], self._panel)

    def _recorded(self) -> torch.cuda.CUDAGraph:
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.schur.device)
        current = torch.cuda.current_stream(self.schur.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            graph.capture_begin()
            self._steps(self._panel)
            graph.capture_end()
        current.wait_stream(side)
        return graph

    def _steps(self, count: int) -> None:
        schur, factor, waiting = self.schur, self._factor, self.waiting
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
