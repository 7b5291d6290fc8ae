"""Ridge leverage scores: how far every column is from being explained by all others."""

from __future__ import annotations

import torch

from stat_repro.linalg.pivoting import LinAlgInputError


def ridge_leverage(gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """diag(G (G + l)^-1) with l = ridge * mean(diag G).

    The score of a column of A is that of Alaoui & Mahoney (NeurIPS 2015, arXiv 1411.0306), G taken
    as the kernel: near 1 for a column that the others do not contain, 1/2 for each of two equal
    ones, and small where a column is short beside l.

    Args:
        gram: G = A^T A of shape (F, F), float64.
        ridge: > 0.

    Returns:
        Scores in [0, 1), shape (F,), float64; zeros where G is zero.

    Raises:
        LinAlgInputError: A ridge that is not positive, or a Gram matrix that is not finite.
    """
    if not ridge > 0:
        raise LinAlgInputError(f"ridge of the leverage scores: expected > 0; got {ridge}")
    if not len(gram):
        return gram.new_zeros(0)
    mean = gram.diagonal().mean()
    damping = torch.where(mean > 0, ridge * mean, torch.ones_like(mean))
    damped = gram.clone()
    damped.diagonal().add_(damping)
    triangle, info = torch.linalg.cholesky_ex(damped)
    if int(info) != 0:
        raise LinAlgInputError(
            f"leverage scores: expected a finite Gram matrix; the Cholesky factorisation of G + "
            f"{ridge} mean(diag G) failed at column {int(info)}"
        )
    inverse = torch.cholesky_inverse(triangle)
    return (1.0 - damping * inverse.diagonal()).clamp_min(0.0)
