"""Sums of A^T A: one triangle is computed, the other mirrored when the sum is complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import scipy.linalg
import torch

# A sum is computed panel by panel: what is right of a panel's square on the diagonal in one
# product, and the square in strips, so that little of what is below the diagonal is computed. On a
# GPU a wide panel is one product, as few columns do not fill it.
_CPU_PANEL, _CPU_STRIP = 768, 192
_GPU_PANEL = 2048
# Of what is copied or read.
_PANEL = 384
_SUMMED_ROWS = 256


def rank_update(total: torch.Tensor, rows: torch.Tensor) -> None:
    """Add rows^T rows to a sum, in place, on and above the diagonal only.

    Half-precision rows are multiplied in float32, where the product of two of their numbers is
    exact, so that only adding up the rows rounds. bfloat16 rows go to the matrix units of the GPU,
    which cut off instead of rounding: the error grows with the rows, and with 1,024 of them is
    2.5e-6 of the lengths of two columns (H100; 5e-8 for float16, added up in plain float32), a
    twentieth of what counts as noise of such rows (`pivoting.NOISE_RTOL`). float32 rows make an
    error of 5e-7 of these lengths, which only sites far above it can bear (`are_independent`).

    What is below the diagonal means nothing until `mirror`. The symmetric update of BLAS (dsyrk,
    from scipy) is a quarter faster on one thread, but on two its threads and those of torch slow
    each other down: calibrating MiniLM took 8.7 s instead of 2.7 s (medians of 3, 2 cores; the full
    product 3.4 s, forward passes alone 1.1 s).

    Args:
        total: Shape (F, F).
        rows: Shape (r, F), on the same device: of the type of the sum or, for a float64 sum,
            float32, and on CUDA bfloat16 or float16.
    """
    for across, along in _parts(total):
        part, left, right = total[across, along], rows[:, across].T, rows[:, along]
        if rows.dtype == total.dtype:
            part.addmm_(left, right)
        elif rows.dtype == torch.bfloat16:
            part.add_(torch.mm(left, right, out_dtype=torch.float32))
        else:
            with _plain_float32():
                part.add_(left.float() @ right.float())


def _parts(total: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts that cover what is on and above the diagonal, each once."""
    size, panel = total.shape[0], _GPU_PANEL if total.is_cuda else _CPU_PANEL
    for start in range(0, size, panel):
        end = min(start + panel, size)
        if total.is_cuda:
            yield slice(start, end), slice(start, size)
            continue
        for first in range(start, end, _CPU_STRIP):
            yield slice(first, min(first + _CPU_STRIP, end)), slice(first, end)
        if end < size:
            yield slice(start, end), slice(end, size)


def column_sums(rows: torch.Tensor) -> torch.Tensor:
    """Sum over the rows, shape (F,), in float64.

    Args:
        rows: Shape (r, F), of any floating type.
    """
    if rows.is_cuda:
        return rows.sum(dim=0, dtype=torch.float64)
    # Few rows at a time: torch makes a float64 copy of them first, which should stay in the cache.
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    for part in rows.split(_SUMMED_ROWS):
        total += part.double().sum(dim=0)
    return total


@contextmanager
def _plain_float32() -> Iterator[None]:
    """No TensorFloat-32 or bfloat16 in float32 products, whatever is allowed elsewhere."""
    backends: Any = torch.backends
    kinds = backends.cuda.matmul, backends.mkldnn.matmul
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def are_independent(gram: torch.Tensor, share: float) -> bool:
    """Whether the correlations of the columns have no eigenvalue up to this share.

    Then every combination of columns of length 1 keeps more than this share of its squares.

    Args:
        gram: G of shape (F, F), float64, on the CPU; what is below the diagonal is not read.
        share: > 0.
    """
    if not bool((gram.diagonal() > 0).all()):
        return False
    scale = gram.diagonal().rsqrt()
    correlations = (gram * scale[:, None]).mul_(scale)
    correlations.diagonal().sub_(share)
    # Column by column, as LAPACK reads it, this is the lower triangle.
    return not scipy.linalg.lapack.dpotrf(correlations.numpy().T, lower=1, overwrite_a=1)[1]


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
