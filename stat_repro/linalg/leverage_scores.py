"""Ridge leverage scores: how far every column is from being explained by all others."""

import torch

from stat_repro.linalg.damping import damped_inverse


def ridge_leverage(gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """diag(G (G + l)^-1) with l = ridge * mean(diag G).

    The score of a column of A is that of Alaoui & Mahoney (NeurIPS 2015, arXiv 1411.0306), G taken
    as the kernel: near 1 for a column that the others do not contain, 1/2 for each of two equal
    ones, and small where its squared length is small compared with l.

    Args:
        gram: G = A^T A of shape (F, F), float64.
        ridge: > 0.

    Returns:
        Scores in [0, 1), shape (F,), float64; zeros where G is zero.

    Raises:
        LinAlgInputError: A ridge that is not positive, or a Gram matrix that is not finite.
    """
    inverse, damping = damped_inverse(gram, ridge, "leverage scores")
    return (1.0 - damping * inverse.diagonal()).clamp_min(0.0)
