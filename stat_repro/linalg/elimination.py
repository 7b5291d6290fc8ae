"""Backward elimination: remove units one by one, always the one that the output needs least.

The criterion is that of the optimal brain surgeon (Hassibi & Stork 1993; for whole columns Kurtic
et al. 2023, ZipLM, arXiv 2302.04089), here for a Linear that is fitted again after every removal.
With P = (G + ridge)^-1 and V the consumer fitted to the columns that are left, removing unit u
raises the squared output error by trace(V_u P_uu^-1 V_u^T), and

    V <- V - V_u P_uu^-1 P_u:      P <- P - P_:u P_uu^-1 P_u:

is the fit without it. So every step is exact, and nothing has to be factored again.
"""

from dataclasses import dataclass

import torch

from stat_repro.linalg.damping import damped_inverse

# Columns removed between two updates of the whole inverse: a matrix product instead of as many
# outer products. The result does not depend on it beyond rounding.
PANEL = 64


@dataclass(frozen=True)
class Elimination:
    """Units in the order in which they are kept, and the output errors.

    Attributes:
        order: Unit indices, shape (H,); the last one is removed first.
        errors: Squared output error, summed over the tokens, with the first k units of `order` kept
            and the consumer fitted to them, k = 0..H; shape (H + 1,), float64, on the CPU, never
            increasing, the last one 0. The ridge is part of it.
    """

    order: torch.Tensor
    errors: torch.Tensor


def eliminate(gram: torch.Tensor, weight: torch.Tensor, width: int, ridge: float) -> Elimination:
    """Remove unit after unit, always the one that raises the output error least.

    Args:
        gram: G of shape (F, F), float64; centred where the consumer's bias is fitted as well.
        weight: Consumer weight W of shape (D, F).
        width: Columns per unit, w; unit u has the columns u * w ... (u + 1) * w - 1.
        ridge: Relative to the mean diagonal entry of G, > 0. It keeps the inverse finite and
            decides between units that cost nothing to remove.

    Raises:
        LinAlgInputError: A ridge that is not positive, or a Gram matrix that is not finite.
    """
    inverse, _ = damped_inverse(gram, ridge, "elimination")
    columns = gram.shape[0]
    if not columns:
        return Elimination(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.float64))
    read = weight.to(gram).clone()
    removed, costs = (
        _remove_columns(inverse, read)
        if width == 1
        else _remove_units(inverse, read, columns // width, width)
    )
    costs = costs.cpu()  # as `PivotedFactor.tail_norms`
    tails = torch.cat([costs.new_zeros(1), costs.cumsum(0)])  # errors with 0, 1, ... removed
    return Elimination(removed.flip(0), tails.flip(0))


def _remove_columns(inverse: torch.Tensor, read: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns in the order of their removal, and what each removal costs.

    Within a panel, P and V are not changed: after the removals so far they would be P - C C^T and
    V - U C^T. Only the diagonal of P and the column norms of V are updated in every step.
    """
    indices = torch.arange(len(inverse), device=inverse.device)
    order, costs = [], []
    while len(indices):
        count, panel = len(indices), min(PANEL, len(indices))
        diagonal, norms = inverse.diagonal().clone(), read.square().sum(dim=0)
        alive = torch.ones(count, dtype=torch.bool, device=inverse.device)
        c, u = inverse.new_zeros((count, panel)), inverse.new_zeros((len(read), panel))
        for step in range(panel):
            ratio = torch.where(alive, norms / diagonal, torch.inf)
            cost, chosen = ratio.min(dim=0, keepdim=True)  # stays on the device
            order.append(indices[chosen])
            costs.append(cost)
            past = c.index_select(0, chosen)[0, :step]
            column = inverse.index_select(1, chosen)[:, 0] - c[:, :step] @ past
            scale = column[chosen].rsqrt()
            column = column * scale
            reader = (read.index_select(1, chosen)[:, 0] - u[:, :step] @ past) * scale
            products = reader @ read - c[:, :step] @ (reader @ u[:, :step])
            norms = norms - 2.0 * products * column + reader.square().sum() * column.square()
            norms.clamp_min_(0.0)
            # An entry of 0 or less comes from rounding alone.
            diagonal = (diagonal - column.square()).clamp_min_(torch.finfo(torch.float64).tiny)
            c[:, step], u[:, step] = column, reader
            alive[chosen] = False
        left = alive.nonzero().view(-1)
        c_left = c.index_select(0, left)
        inverse = inverse.index_select(0, left).index_select(1, left) - c_left @ c_left.T
        read = read.index_select(1, left) - u @ c_left.T
        indices = indices.index_select(0, left)
    return torch.cat(order), torch.cat(costs)


def _remove_units(
    inverse: torch.Tensor, read: torch.Tensor, units: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Units of several columns in the order of their removal, and what each removal costs."""
    left = torch.arange(units, device=inverse.device)
    order, costs = [], []
    while len(left):
        count = len(left)
        p_uu = inverse.view(count, width, count, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        readers = read.view(len(read), count, width).permute(1, 2, 0)
        cost = (readers * torch.linalg.solve(p_uu, readers)).sum(dim=(1, 2)).clamp_min(0.0)
        chosen = int(cost.argmin())
        order.append(left[chosen : chosen + 1])
        costs.append(cost[chosen : chosen + 1])
        columns = slice(chosen * width, (chosen + 1) * width)
        step = torch.linalg.solve(p_uu[chosen], inverse[columns])
        read = read - read[:, columns] @ step
        inverse = inverse - inverse[:, columns] @ step
        keep = torch.ones(count * width, dtype=torch.bool, device=inverse.device)
        keep[columns] = False
        rows = keep.nonzero().view(-1)
        read = read.index_select(1, rows)
        inverse = inverse.index_select(0, rows).index_select(1, rows)
        left = left[left != left[chosen]]
    return torch.cat(order), torch.cat(costs)
