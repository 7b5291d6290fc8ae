"""The inverse and the root of a damped Gram matrix."""

import torch

from stat_repro.linalg.pivoting import LinAlgInputError


def damped_inverse(
    gram: torch.Tensor, ridge: float, purpose: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(G + l)^-1 and l = ridge * mean(diag G).

    Args:
        gram: G of shape (F, F), float64.
        ridge: > 0.
        purpose: Names the inverse in messages.

    Raises:
        LinAlgInputError: A ridge that is not positive, or a Gram matrix that is not finite.
    """
    if not ridge > 0:
        raise LinAlgInputError(f"ridge of the {purpose}: expected > 0; got {ridge}")
    mean = gram.diagonal().mean()
    # A site that is zero on all tokens gives no scale; any damping will do.
    damping = torch.where(mean > 0, ridge * mean, torch.ones_like(mean))
    damped = gram.clone()
    damped.diagonal().add_(damping)
    triangle, info = torch.linalg.cholesky_ex(damped)
    if int(info) != 0:
        raise LinAlgInputError(
            f"{purpose}: expected a finite Gram matrix; the Cholesky factorisation of G + "
            f"{ridge} mean(diag G) failed at column {int(info)}"
        )
    return torch.cholesky_inverse(triangle), damping


def damped_root(gram: torch.Tensor, share: float) -> torch.Tensor:
    """The symmetric R with R R = G + share * mean(diag G).

    Args:
        gram: G of shape (D, D), float64, symmetric and finite, with eigenvalues below 0 only
            by rounding.
        share: >= 0.
    """
    values, vectors = torch.linalg.eigh(gram)
    roots = (values + share * gram.diagonal().mean()).clamp_min(0.0).sqrt()
    return (vectors * roots) @ vectors.T
