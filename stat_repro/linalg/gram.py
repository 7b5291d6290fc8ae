"""Sums of A^T A: one triangle is computed, the other mirrored when the sum is complete."""

from __future__ import annotations

import scipy.linalg
import torch

# Columns per block row where there is no symmetric rank-k update: with 8 block rows or more at most
# 9/16 of the full product is computed.
_BLOCK_COLUMNS = 384


def rank_update(
    total: torch.Tensor, rows: torch.Tensor, alpha: float = 1.0, *, blas: bool | None = None
) -> None:
    """Add alpha * rows^T rows to a sum, in place, on and above the diagonal only.

    What is below the diagonal means nothing until `mirror`.

    Args:
        total: Shape (F, F), float64, contiguous.
        rows: Shape (r, F), float64, contiguous, on the same device.
        alpha: Factor of the product.
        blas: True for BLAS' dsyrk (CPU), False for products of block rows (any device); None takes
            BLAS where the matrix is on the CPU.
    """
    if rows.numel() == 0:
        return
    if blas is None:
        blas = total.device.type == "cpu"
    if not blas:
        for start in range(0, total.shape[0], _BLOCK_COLUMNS):
            block = slice(start, start + _BLOCK_COLUMNS)
            total[block, start:].addmm_(rows[:, block].T, rows[:, start:], alpha=alpha)
        return
    # The upper triangle row by row is the lower one column by column, which is what BLAS reads.
    result = scipy.linalg.blas.dsyrk(
        alpha, rows.numpy().T, beta=1.0, c=total.numpy().T, lower=1, overwrite_c=1
    )
    if result.ctypes.data != total.data_ptr():
        raise AssertionError("dsyrk worked on a copy: the sum must be a contiguous float64 matrix")


def mirror(total: torch.Tensor) -> None:
    """Copy what is above the diagonal to below it, in place and block by block.

    Args:
        total: Shape (F, F).
    """
    for start in range(0, total.shape[0], _BLOCK_COLUMNS):
        end = min(start + _BLOCK_COLUMNS, total.shape[0])
        diagonal = total[start:end, start:end]
        diagonal.copy_(diagonal.triu() + diagonal.triu(1).T)
        total[end:, start:end] = total[start:end, end:].T


def quadratic_form(gram: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Sum over the rows d of d G d^T, from the blocks on and above the diagonal of G.

    Args:
        gram: G of shape (F, F), symmetric.
        rows: Shape (D, F), same type and device.

    Returns:
        A scalar tensor.
    """
    total = gram.new_zeros(())
    for start in range(0, gram.shape[0], _BLOCK_COLUMNS):
        end = min(start + _BLOCK_COLUMNS, gram.shape[0])
        left = rows[:, start:end]
        total += ((left @ gram[start:end, start:end]) * left).sum()
        total += 2.0 * ((left @ gram[start:end, end:]) * rows[:, end:]).sum()
    return total
