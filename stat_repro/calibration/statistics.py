"""Statistics of one site: everything that methods need to know about its activations.

`GramStatistics` is a streamed sum, so its size does not depend on the number of examples.
`ActivationStatistics` keeps the activations and factors them directly: slower, larger, and the
oracle that the other is tested against. `calibration.sketch` keeps a few random combinations of the
activations instead. All have the same interface, which `GramStatistics` describes: F columns, H
units of w columns, k kept columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stat_repro.linalg import interpolative, leverage_scores, pivoting, units
from stat_repro.linalg.gram import quadratic_form


@dataclass(frozen=True)
class GramStatistics:
    """G = sum over tokens of a a^T.

    Attributes:
        gram: Shape (F, F), float64.
        tokens: Tokens in the sum.
        dtype: Type that the activations were computed in; it decides what counts as noise.
        sums: Sum over tokens of a, shape (F,), float64; None if it was not collected.
    """

    gram: torch.Tensor
    tokens: int
    dtype: torch.dtype = torch.float64
    sums: torch.Tensor | None = None

    @property
    def mean(self) -> torch.Tensor:
        """Mean activation of every column, shape (F,), float64.

        Raises:
            LinAlgInputError: The column sums were not collected.
        """
        if self.sums is None:
            raise pivoting.LinAlgInputError(
                "mean activations: expected statistics with column sums; got a Gram matrix alone"
            )
        return self.sums / self.tokens

    @property
    def square_sums(self) -> torch.Tensor:
        """||A[:, j]||^2 of every column, shape (F,), float64: the diagonal of G."""
        return self.gram.diagonal()

    def centred(self) -> GramStatistics:
        """Statistics of A - 1 mean^T; columns that are constant up to noise become zero."""
        gram = self.gram - self.tokens * torch.outer(self.mean, self.mean)
        live = gram.diagonal() > pivoting.NOISE_RTOL[self.dtype] * self.gram.diagonal()
        # A constant column leaves rounding errors only; they are replaced by zeros.
        gram = torch.where(live[:, None] & live[None, :], gram, torch.zeros_like(gram))
        return GramStatistics(gram, self.tokens, self.dtype, torch.zeros_like(self.mean))

    def pivot_columns(self, scale: torch.Tensor) -> pivoting.PivotedFactor:
        """Pivots of A diag(scale), scale of shape (F,), by pivoted Cholesky."""
        return pivoting.pivoted_cholesky(self._scaled(scale), overwrite=True)

    def pivot_units(self, width: int) -> pivoting.PivotedFactor:
        """Pivots of the activations viewed as (n * w, H), one column per unit."""
        return pivoting.pivoted_cholesky(units.unit_gram(self.gram, width).contiguous())

    def removal_errors(
        self, order: torch.Tensor, weight: torch.Tensor, column_units: torch.Tensor, width: int
    ) -> torch.Tensor:
        """Output error with the first 0..H units of `order` kept; see `linalg.units`."""
        factor = units.unit_factor(self.gram, order, width)
        return units.removal_errors(factor, weight, column_units, width)

    def leverage(self, scale: torch.Tensor, ridge: float) -> torch.Tensor:
        """Ridge leverage scores of A diag(scale), shape (F,); see `linalg.leverage_scores`."""
        return leverage_scores.ridge_leverage(self._scaled(scale), ridge)

    def _scaled(self, scale: torch.Tensor) -> torch.Tensor:
        """The Gram matrix of A diag(scale)."""
        s = scale.to(self.gram)
        scaled = self.gram * s[:, None]
        scaled *= s  # in place: one copy of a large matrix instead of two
        return scaled

    def interpolation(self, kept: torch.Tensor, ridge: float) -> torch.Tensor:
        """T of shape (k, F), all columns from the kept ones, by Cholesky of G[K, K]."""
        rtol = pivoting.NOISE_RTOL[self.dtype]
        kept = kept.to(self.gram.device)
        return interpolative.interpolation_from_gram(self.gram, kept, ridge, rtol)

    def fold(self, weight: torch.Tensor, kept: torch.Tensor, ridge: float) -> torch.Tensor:
        """W T^T of shape (D, k), the consumer that reads the kept columns only, without T."""
        rtol = pivoting.NOISE_RTOL[self.dtype]
        kept = kept.to(self.gram.device)
        return interpolative.fold_from_gram(self.gram, weight, kept, ridge, rtol)

    def output_error(self, difference: torch.Tensor) -> float:
        """||A difference^T||_F for a change of the consumer, difference of shape (D, F)."""
        return float(quadratic_form(self.gram, difference.to(self.gram)).clamp_min(0.0).sqrt())


@dataclass(frozen=True)
class ActivationStatistics:
    """The activations themselves, or a sketch S A of them (`calibration.sketch`).

    A sketch has no means: these would need S 1, the sketch of the constant column. So only methods
    that ask for none take one (`config.pruning.check_target`).

    Attributes:
        activations: A of shape (n, F), on the CPU in the model's data type; or S A in float64.
        computed: Type that they were computed in, if they are stored in another one.
        sketched: Tokens in a sketch; None for the activations themselves, a row per token.
    """

    activations: torch.Tensor
    computed: torch.dtype | None = None
    sketched: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens in the statistics."""
        return len(self.activations) if self.sketched is None else self.sketched

    @property
    def gram(self) -> torch.Tensor:
        """A^T A."""
        rows = self.activations.double()
        return rows.T @ rows

    @property
    def dtype(self) -> torch.dtype:
        """Type that the activations were computed in; it decides what counts as noise."""
        return self.activations.dtype if self.computed is None else self.computed

    @property
    def mean(self) -> torch.Tensor:
        """Mean over the rows."""
        return self.activations.double().mean(dim=0)

    @property
    def square_sums(self) -> torch.Tensor:
        """Sums of squares over the rows."""
        return self.activations.double().square().sum(dim=0)

    def centred(self) -> ActivationStatistics:
        """The rows minus their mean."""
        rows = self.activations.double() - self.mean
        live = rows.square().sum(dim=0) > pivoting.NOISE_RTOL[self.dtype] * self.square_sums
        return ActivationStatistics(torch.where(live, rows, torch.zeros_like(rows)), self.dtype)

    def pivot_columns(self, scale: torch.Tensor) -> pivoting.PivotedFactor:
        """Pivots of A diag(scale) by pivoted QR."""
        return pivoting.pivoted_qr(self.activations.double() * scale.double().cpu())

    def pivot_units(self, width: int) -> pivoting.PivotedFactor:
        """Pivots of the (n * w, H) view by pivoted QR."""
        n, columns = self.activations.shape
        by_unit = self.activations.view(n, columns // width, width)
        return pivoting.pivoted_qr(by_unit.transpose(1, 2).reshape(n * width, columns // width))

    def removal_errors(
        self, order: torch.Tensor, weight: torch.Tensor, column_units: torch.Tensor, width: int
    ) -> torch.Tensor:
        """Output errors by deflating the activations."""
        return units.removal_errors_from_activations(
            self.activations.double(), order.cpu(), weight.cpu(), column_units.cpu(), width
        )

    def leverage(self, scale: torch.Tensor, ridge: float) -> torch.Tensor:
        """Ridge leverage scores from A^T A: they need a matrix of that size anyway."""
        rows = self.activations.double() * scale.double().cpu()
        return leverage_scores.ridge_leverage(rows.T @ rows, ridge)

    def interpolation(self, kept: torch.Tensor, ridge: float) -> torch.Tensor:
        """T by pivoted QR of A[:, K]."""
        rtol = pivoting.NOISE_RTOL[self.dtype]
        return interpolative.interpolation_from_activations(self.activations, kept, ridge, rtol)

    def fold(self, weight: torch.Tensor, kept: torch.Tensor, ridge: float) -> torch.Tensor:
        """W T^T from T."""
        return interpolative.fold(weight, self.interpolation(kept, ridge))

    def output_error(self, difference: torch.Tensor) -> float:
        """||A difference^T||_F, evaluated directly."""
        product = self.activations.double() @ difference.double().cpu().T
        return float(torch.linalg.matrix_norm(product))


SiteStatistics = GramStatistics | ActivationStatistics


def pivots_of(
    statistics: Sequence[SiteStatistics], scales: Sequence[torch.Tensor]
) -> list[pivoting.PivotedFactor]:
    """`pivot_columns` of sites with as many columns; Gram matrices on a GPU are factored together.

    Args:
        statistics: Statistics of each site.
        scales: Scales of each site, shape (F,).
    """
    pairs = list(zip(statistics, scales, strict=True))
    on_gpu = [s for s in statistics if isinstance(s, GramStatistics) and s.gram.is_cuda]
    if len(on_gpu) < len(pairs):
        return [s.pivot_columns(scale) for s, scale in pairs]
    scaled = [s._scaled(scale) for s, scale in zip(on_gpu, scales, strict=True)]
    return pivoting.pivoted_choleskies(scaled)
