"""Activations with singular values over a range of magnitudes."""

import torch


def activations(n=200, features=24, seed=0, decades=2.0):
    """Random activations with clear pivot gaps: column norms spread over some decades."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -decades, features, dtype=torch.float64)
    return torch.randn(n, features, generator=generator, dtype=torch.float64) * scale
