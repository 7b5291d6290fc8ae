"""Pivoted Cholesky by panels, on any device: the pivots of LAPACK's dpstrf.

Inside a panel a pivot costs one row of the Schur complement and one matrix-vector product with the
panel; between panels the Schur complement is updated by one product. Pivots are chosen on the
device; the host waits for it once per panel, to decide whether to go on.
"""

from __future__ import annotations

import torch

from stat_repro.linalg.gram import rank_update

_PANEL = 128
# Pivots stay in the Schur complement, unused, until it pays to copy the rest.
_COMPACT_BELOW = 0.75


def blocked_cholesky(
    gram: torch.Tensor, tolerance: float, max_rank: int, panel: int = _PANEL
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pivots and factor, up to a number of pivots or a tolerance.

    Args:
        gram: G of shape (F, F), float64, symmetric; not changed.
        tolerance: A pivot (squared length) at or below it ends the factorisation.
        max_rank: Pivots at most, 0 <= max_rank <= F.
        panel: Pivots between two updates of the Schur complement.

    Returns:
        All F column indices, pivots first, and R of shape (rank, F), columns in this order.
    """
    size = gram.shape[0]
    rows = gram.new_zeros((max_rank, size))
    schur = gram.clone()
    left = gram.diagonal().clone()  # squared lengths of what the pivots so far do not explain
    columns = torch.arange(size, device=gram.device)  # of G, at each position of `schur`
    waiting = columns.clone()  # positions that are no pivots yet, in the same order as in LAPACK
    order: list[torch.Tensor] = []
    rank = 0
    while rank < max_rank:
        count = min(panel, max_rank - rank)
        factor, values = _panel(schur, left, waiting, tolerance, count)
        rows[rank : rank + count].index_copy_(1, columns, factor)
        order.append(columns[waiting[:count]])
        waiting = waiting[count:]
        good = int((values > tolerance).sum())
        rank += good
        if good < count or rank == max_rank:
            break
        rank_update(schur, factor, -1.0)
        if len(waiting) < _COMPACT_BELOW * len(columns):
            alive = torch.sort(waiting).values
            schur = schur.index_select(0, alive).index_select(1, alive)
            left, columns = left[alive], columns[alive]
            waiting = torch.searchsorted(alive, waiting)
    everything = torch.cat([*order, columns[waiting]])
    # Entries of a row at earlier pivots are rounding noise around zero.
    return everything, rows[:rank].index_select(1, everything).triu_()


def _panel(
    schur: torch.Tensor,
    left: torch.Tensor,
    waiting: torch.Tensor,
    tolerance: float,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next `count` rows of R, columns at the positions of `schur`, and their pivots.

    `left` and `waiting` are updated in place; `schur` is read on and above its diagonal. Rows past
    the tolerance are zero.
    """
    size = schur.shape[0]
    factor, values = schur.new_zeros((count, size)), schur.new_zeros(count)
    index = torch.arange(size, device=schur.device)
    panel_starts = torch.arange(count, device=schur.device) * size
    for j in range(count):
        best = torch.argmax(left.index_select(0, waiting[j:])).view(1) + j
        pivot = waiting.index_select(0, best)
        waiting.index_copy_(0, best, waiting[j : j + 1].clone())
        waiting[j : j + 1] = pivot
        # Row `pivot` of the symmetric matrix: its part below the diagonal is read from above.
        place = torch.where(index < pivot, index * size + pivot, pivot * size + index)
        row = schur.view(-1).index_select(0, place)
        if j:
            above = factor.view(-1).index_select(0, panel_starts[:j] + pivot)
            row = torch.addmv(row, factor[:j].T, above, alpha=-1.0)
        value = left.index_select(0, pivot)
        scale = value.clamp_min(tolerance).rsqrt()
        row *= torch.where(value > tolerance, scale, torch.zeros_like(scale))
        factor[j], values[j : j + 1] = row, value
        left.addcmul_(row, row, value=-1.0)
    return factor, values
