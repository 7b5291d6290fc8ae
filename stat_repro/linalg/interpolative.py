"""Interpolative decomposition: kept columns and the matrix that rebuilds all columns from them."""

from __future__ import annotations

import torch

from stat_repro.linalg.pivoting import (
    GRAM_RTOL,
    LinAlgInputError,
    pivoted_cholesky,
    pivoted_qr,
)


def interpolation_from_gram(
    gram: torch.Tensor, kept: torch.Tensor, ridge: float, rtol: float = GRAM_RTOL
) -> torch.Tensor:
    """T = (G[K,K] + ridge * mean(diag G) I)^-1 G[K,:]: the least-squares fit of A by A[:, K].

    Kept columns that depend on the others up to noise get zero rows outside themselves: the fit is
    the same, and nothing is divided by rounding noise. Without ridge T[:, K] = I.

    Args:
        gram: G of shape (F, F), float64.
        kept: K, k distinct column indices (int64); T's rows follow this order.
        ridge: Relative to the mean diagonal entry of G, >= 0.
        rtol: Squared length, relative to its own, at which a kept column counts as dependent.

    Returns:
        T of shape (k, F), float64.

    Raises:
        LinAlgInputError: Negative ridge or non-finite input.
    """
    _check_ridge(ridge)
    block = gram[kept][:, kept]
    if ridge > 0:
        block = block + ridge * gram.diagonal().mean() * torch.eye(
            len(kept), dtype=gram.dtype, device=gram.device
        )
    # Columns of unit length: noise is relative to each column, not to the largest of all.
    scale = _inverse_lengths(block.diagonal().sqrt())
    factor = pivoted_cholesky(block * scale[:, None] * scale[None, :], rtol)
    used = factor.order[: factor.rank]
    triangle = factor.factor[:, : factor.rank]
    right = scale[used, None] * gram[kept[used]]
    half = torch.linalg.solve_triangular(triangle.T, right, upper=False)
    return _assemble(triangle, half, scale[used], used, kept, exact_identity=ridge == 0)


def interpolation_from_activations(
    activations: torch.Tensor, kept: torch.Tensor, ridge: float, rtol: float = GRAM_RTOL
) -> torch.Tensor:
    """The same fit by pivoted QR of the stored activations, without squaring the condition number.

    Args:
        activations: A of shape (n, F).
        kept: K, k distinct column indices (int64).
        ridge: As in `interpolation_from_gram`, by rows sqrt(ridge * mean) I below A[:, K].
        rtol: As in `interpolation_from_gram`.

    Returns:
        T of shape (k, F), float64, on the CPU.
    """
    _check_ridge(ridge)
    a = activations.double().cpu()
    kept = kept.cpu()
    left, right = a[:, kept], a
    if ridge > 0:
        damping = (ridge * a.square().sum(dim=0).mean()).sqrt()
        left = torch.cat([left, damping * torch.eye(len(kept), dtype=a.dtype)])
        right = torch.cat([right, a.new_zeros((len(kept), a.shape[1]))])
    scale = _inverse_lengths(torch.linalg.vector_norm(left, dim=0))
    factor = pivoted_qr(left * scale, rtol**0.5)
    used = factor.order[: factor.rank]
    q, triangle = torch.linalg.qr((left * scale)[:, used])
    return _assemble(triangle, q.T @ right, scale[used], used, kept, exact_identity=ridge == 0)


def _inverse_lengths(lengths: torch.Tensor) -> torch.Tensor:
    """1 / length, 0 for columns that are zero."""
    return torch.where(lengths > 0, 1.0 / lengths, torch.zeros_like(lengths))


def _assemble(
    triangle: torch.Tensor,
    half: torch.Tensor,
    scale: torch.Tensor,
    used: torch.Tensor,
    kept: torch.Tensor,
    *,
    exact_identity: bool,
) -> torch.Tensor:
    """Back substitution, rows put in the order of `kept`, T[:, kept] = I where that is exact."""
    result = half.new_zeros((len(kept), half.shape[1]))
    result[used] = scale[:, None] * torch.linalg.solve_triangular(triangle, half, upper=True)
    if exact_identity:
        result[:, kept] = torch.eye(len(kept), dtype=half.dtype, device=half.device)
    return result


def _check_ridge(ridge: float) -> None:
    if not ridge >= 0:
        raise LinAlgInputError(f"ridge: expected a value of at least 0, got {ridge}")


def fold(weight: torch.Tensor, interpolation: torch.Tensor) -> torch.Tensor:
    """W T^T: the consumer that reads the kept columns only (y = A W^T ~= A[:, K] (W T^T)^T).

    Args:
        weight: W of shape (D, F).
        interpolation: T of shape (k, F), float64.

    Returns:
        Corrected weight of shape (D, k), float64.
    """
    return weight.to(interpolation) @ interpolation.T


def output_error(gram: torch.Tensor, difference: torch.Tensor) -> float:
    """||A (W - W')^T||_F for two consumers of the same input, from the Gram matrix.

    Args:
        gram: G of shape (F, F), float64.
        difference: W - W' of shape (D, F).
    """
    d = difference.to(gram)
    return float(((d @ gram) * d).sum().clamp_min(0.0).sqrt())
