"""Sums of A^T A: one triangle is computed, the other mirrored when the sum is complete."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Columns per panel: with 8 panels or more at most 9/16 of the full product is computed. On a GPU
# wider ones, as a product of few columns does not fill it.
_PANEL = 384
_GPU_PANEL = 2048


def rank_update(total: torch.Tensor, rows: torch.Tensor, alpha: float = 1.0) -> None:
    """Add alpha * rows^T rows to a sum, in place, on and above the diagonal only.

    Rows of a shorter type than the sum are multiplied in float32: two numbers of 8 or 11 bits have
    an exact product there, and only adding up the rows rounds. With a few thousand rows at a time
    the error of the sum is about 1e-7 of its norm, far below the noise of such rows.

    What is below the diagonal means nothing until `mirror`. The symmetric update of BLAS (dsyrk,
    from scipy) is a quarter faster on one thread, but on two its threads and those of torch slow
    each other down: calibrating MiniLM took 8.7 s instead of 2.7 s (medians of 3, 2 cores; the full
    product 3.4 s, forward passes alone 1.1 s).

    Args:
        total: Shape (F, F).
        rows: Shape (r, F), on the same device: of the type of the sum, or float32 or, on CUDA,
            bfloat16 or float16, for a float64 sum.
        alpha: Factor of the product.
    """
    if rows.numel() == 0:
        return
    width = _GPU_PANEL if total.is_cuda else _PANEL
    for start in range(0, total.shape[0], width):
        panel = slice(start, start + width)
        left, right = rows[:, panel].T, rows[:, start:]
        if rows.dtype == total.dtype:
            total[panel, start:].addmm_(left, right, alpha=alpha)
        elif rows.dtype == torch.float32:
            total[panel, start:].add_(left @ right, alpha=alpha)
        else:
            total[panel, start:].add_(torch.mm(left, right, out_dtype=torch.float32), alpha=alpha)


def upper_panels(total: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of panels of rows, each from the diagonal on: all of a symmetric matrix.

    Args:
        total: Shape (F, F).
    """
    for start in range(0, total.shape[0], _PANEL):
        yield total[start : start + _PANEL, start:]


def mirror(total: torch.Tensor) -> None:
    """Copy what is above the diagonal to below it, in place and panel by panel.

    Args:
        total: Shape (F, F).
    """
    for start in range(0, total.shape[0], _PANEL):
        end = min(start + _PANEL, total.shape[0])
        diagonal = total[start:end, start:end]
        diagonal.copy_(diagonal.triu() + diagonal.triu(1).T)
        total[end:, start:end] = total[start:end, end:].T


def quadratic_form(gram: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Sum over the rows d of d G d^T, from what is on and above the diagonal of G.

    Args:
        gram: G of shape (F, F), symmetric.
        rows: Shape (D, F), same type and device.

    Returns:
        A scalar tensor.
    """
    total = gram.new_zeros(())
    for start in range(0, gram.shape[0], _PANEL):
        end = min(start + _PANEL, gram.shape[0])
        left = rows[:, start:end]
        # In place: for a wide FFN the products are as large as the weight itself.
        total += (left @ gram[start:end, start:end]).mul_(left).sum()
        total += 2.0 * (left @ gram[start:end, end:]).mul_(rows[:, end:]).sum()
    return total
