"""Activations with singular values over a range of magnitudes."""

import math

import torch

from stat_repro.linalg import pivoting


def _blocked(gram):
    """The factorisation that large matrices on a GPU get."""
    return pivoting.pivoted_choleskies([gram])[0]


FACTORISATIONS = [pivoting.pivoted_cholesky, _blocked]


def activations(n=200, features=24, seed=0, decades=2.0):
    """Random activations with clear pivot gaps: column norms spread over some decades."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -decades, features, dtype=torch.float64)
    return torch.randn(n, features, generator=generator, dtype=torch.float64) * scale


def kahan(features, angle=1.0):
    """Kahan's matrix, columns slightly shorter from left to right so that pivots keep the order.

    Every column depends on the earlier ones with coefficients that double from one to the next.
    """
    steps = torch.arange(features, dtype=torch.float64)
    cosine, sine = math.cos(angle), math.sin(angle)
    upper = torch.eye(features, dtype=torch.float64)
    upper -= cosine * torch.ones_like(upper).triu(1)
    return sine ** steps[:, None] * upper * (1.0 - 1e-9 * steps)


def hard_matrices():
    """Activations that factorisations are known to have trouble with, by name."""
    usual = activations(60, 16)
    graded = usual * torch.logspace(0, -12, 16, dtype=torch.float64)
    rank_one = usual[:, :1] * torch.linspace(1, 2, 16, dtype=torch.float64)
    return {
        "kahan 60": kahan(60),
        "kahan 90": kahan(90, 1.33),
        "graded": graded,
        "hilbert": 1.0 / (1 + torch.arange(40.0)[:, None] + torch.arange(20.0)).double(),
        "duplicated columns": torch.cat([usual, 3.0 * usual], dim=1),
        "nearly duplicated columns": torch.cat([usual, usual * (1 + 1e-9)], dim=1),
        "zero columns": torch.cat([torch.zeros(60, 3), usual, torch.zeros(60, 3)], dim=1),
        "rank one": rank_one,
        "fewer rows than columns": usual[:5],
        "one huge column": torch.cat([1e7 * usual[:, :1], usual], dim=1),
        "times 1e150": 1e150 * usual,
        "times 1e-150": 1e-150 * usual,
    }
