"""Least squares for a change of a Linear, from streamed sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# A variance up to this share of the mean square is what float64 sums leave of none.
_CONSTANT = 1e-12


@dataclass
class RefitSums:
    """Weighted sums over tokens of a (what the Linear reads) and r (what its output should gain).

    Attributes:
        products: Sum of a a^T, shape (k, k), float64.
        cross: Sum of a r^T, shape (k, D), float64.
        inputs: Sum of a, shape (k,), float64.
        targets: Sum of r, shape (D,), float64.
        total: Sum of the weights.
    """

    products: torch.Tensor
    cross: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor
    total: torch.Tensor

    @classmethod
    def empty(cls, columns: int, rows: int, device: torch.device) -> RefitSums:
        """Sums of no tokens for a Linear with `columns` inputs and `rows` outputs."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            zeros(columns, columns), zeros(columns, rows), zeros(columns), zeros(rows), zeros()
        )

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> None:
        """Add tokens: inputs (n, k), targets (n, D), weights (n,), all float64."""
        weighted = inputs * weights[:, None]
        self.products.addmm_(weighted.T, inputs)
        self.cross.addmm_(weighted.T, targets)
        self.inputs += weighted.sum(dim=0)
        self.targets += weights @ targets
        self.total += weights.sum()

    def solve(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The change of weight and bias that brings the output closest to its target.

        Args:
            ridge: Draws the change of the weight to zero; relative to the mean variance of the
                inputs, > 0. The bias is free.

        Returns:
            Changes of the weight (D, k) and of the bias (D,), float64.
        """
        mean_input, mean_target = self.inputs / self.total, self.targets / self.total
        covariance = self.products / self.total - torch.outer(mean_input, mean_input)
        right = self.cross / self.total - torch.outer(mean_input, mean_target)
        if not len(covariance):
            return right.T, mean_target
        # What rounding leaves of the variance of a column that is constant may be below zero.
        constant = covariance.diagonal() <= _CONSTANT * self.products.diagonal() / self.total
        covariance[constant] = covariance[:, constant] = right[constant] = 0
        scale = covariance.diagonal().mean()
        damping = torch.where(scale > 0, ridge * scale, torch.ones_like(scale))
        covariance.diagonal().add_(damping)
        change = torch.cholesky_solve(right, torch.linalg.cholesky(covariance)).T
        return change, mean_target - change @ mean_input
