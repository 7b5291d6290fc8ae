"""Pivoted factorisations: which columns span the others, and what is lost without the rest.

Pivoted Cholesky of G = A^T A and column-pivoted QR of A give the same pivots and the same R (up
to signs of rows): A[:, order] = Q R and G[order][:, order] = R^T R.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from stat_repro.linalg.blocked_cholesky import blocked_cholesky

# Relative squared length below which a kept column, after its projection on the other kept ones, is
# rounding noise of activations computed in this type. Measured on float32 activations of exactly
# rank-deficient heads: 1e-13 to 1e-11 cut the noise and nothing else; at 1e-14 the noise is fitted,
# with coefficients of 1e4. In half precision the rounding is larger: eps squared.
NOISE_RTOL = {
    torch.float64: 1e-14,
    torch.float32: 1e-12,
    torch.float16: 1e-6,
    torch.bfloat16: 6e-5,
}

# A pivot below this share of the first one is rounding noise, see `noise_share`: squares are
# compared for a Gram matrix, magnitudes for the activations themselves.
GRAM_RTOL = 1e-14
QR_RTOL = 1e-13

# The Schur complement of a Gram matrix has no negative diagonal entry. One below this share of the
# largest entry says that rounding errors have grown with every pivot (Kahan's matrix is the known
# case) and that R^T R is no longer G.
_GROWN_ERRORS = 1e-9


# Up to this size a matrix goes to the CPU and back in less time than a GPU takes for its pivots.
_SMALL = 256


class LinAlgInputError(ValueError):
    """Input that cannot be factored meaningfully."""


@dataclass(frozen=True)
class PivotedFactor:
    """A pivoted factorisation, up to its numerical rank.

    Attributes:
        order: All F column indices, pivots first (int64). Past the rank the order means nothing.
        factor: Upper trapezoidal R of shape (rank, F), float64, columns in pivot order.
    """

    order: torch.Tensor
    factor: torch.Tensor

    @property
    def rank(self) -> int:
        """Number of pivots: the numerical rank."""
        return self.factor.shape[0]

    @property
    def magnitudes(self) -> torch.Tensor:
        """|R_ii| for all F pivots, shape (F,); zero past the rank."""
        result = self.factor.new_zeros(self.order.shape[0])
        result[: self.rank] = self.factor.diagonal().abs()
        return result

    @property
    def tail_norms(self) -> torch.Tensor:
        """||R[k:, k:]||_F for k = 0..F, shape (F + 1,), on the CPU: what is lost with k pivots.

        On a GPU sums like these differ from run to run, and torch's deterministic mode has none.
        """
        squares = self.factor.new_zeros(self.order.shape[0] + 1)
        squares[: self.rank] = torch.linalg.vector_norm(self.factor, dim=1).square()
        return squares.cpu().flip(0).cumsum(0).flip(0).sqrt()


def noise_share(rtol: float, size: int) -> float:
    """The share of the largest entry that counts as noise in a matrix with `size` columns.

    At least size * eps, as LAPACK has it: every entry of a Schur complement is a sum of up to as
    many terms.
    """
    return max(rtol, size * torch.finfo(torch.float64).eps)


def check_finite(matrix: torch.Tensor, what: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        LinAlgInputError: Names the matrix and the number of bad entries.
    """
    if bool(torch.isfinite(matrix.sum())):
        return  # the usual case, without a mask as large as the matrix
    bad = int((~torch.isfinite(matrix)).sum())
    if bad:
        raise LinAlgInputError(f"{what}: expected finite values; got {bad} NaN or infinite entries")


def pivoted_cholesky(
    gram: torch.Tensor, rtol: float = GRAM_RTOL, *, overwrite: bool = False
) -> PivotedFactor:
    """Pivoted Cholesky factorisation of a positive semidefinite matrix.

    By LAPACK's dpstrf where the matrix is on the CPU or small, else by `blocked_cholesky`. Where
    rounding errors grow from pivot to pivot, the factor comes from a pivoted QR of a root of G
    instead, which takes many times as long.

    Args:
        gram: G of shape (F, F), float64.
        rtol: Pivots (squared lengths) at or below this share of the first one end the
            factorisation; at least `noise_share`.
        overwrite: Whether `gram` may be destroyed: LAPACK then factors it in place, which halves
            the memory of a large one.

    Returns:
        Pivots and factor on the device of `gram`.

    Raises:
        LinAlgInputError: Not square, not float64 or not finite.
    """
    if gram.device.type != "cpu" and len(gram) > _SMALL:
        return pivoted_choleskies([gram], rtol)[0]
    top, lengths = _checked(gram), gram.diagonal().clone()
    if not len(gram):  # which LAPACK refuses
        return PivotedFactor(torch.arange(0, device=gram.device), gram)
    share = noise_share(rtol, len(gram))
    # Column by column, as LAPACK reads it, the lower factor is the upper one row by row. dpstrf
    # takes about half the time for it, and nothing is transposed. That the matrix is rank deficient
    # is no error here.
    packed, pivots, rank, _ = scipy.linalg.lapack.dpstrf(
        gram.cpu().numpy().T, tol=share * top, lower=1, overwrite_a=overwrite
    )
    order = torch.from_numpy(pivots.astype(np.int64) - 1).to(gram.device)
    factor = torch.from_numpy(packed.T)[:rank].to(gram.device)
    return _sound(gram, lengths, share, order, factor)


def pivoted_choleskies(
    grams: Sequence[torch.Tensor], rtol: float = GRAM_RTOL
) -> list[PivotedFactor]:
    """`pivoted_cholesky` of matrices of one size together, by `blocked_cholesky`.

    Args:
        grams: Matrices of shape (F, F), float64, on one device; not changed.
        rtol: As in `pivoted_cholesky`.

    Raises:
        LinAlgInputError: As in `pivoted_cholesky`.
    """
    if not grams:
        return []
    share = noise_share(rtol, len(grams[0]))
    tolerance = grams[0].new_tensor([share * _checked(gram) for gram in grams])
    orders, triangles = blocked_cholesky(torch.stack(list(grams)), tolerance)
    return [
        _sound(gram, gram.diagonal(), share, order, triangle)
        for gram, order, triangle in zip(grams, orders, triangles, strict=True)
    ]


def _checked(gram: torch.Tensor) -> float:
    """The largest diagonal entry of a matrix that can be factored."""
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.dtype != torch.float64:
        raise LinAlgInputError(
            f"Gram matrix: expected a square float64 matrix; got {tuple(gram.shape)} {gram.dtype}"
        )
    check_finite(gram, "Gram matrix")
    return float(gram.diagonal().max()) if len(gram) else 0.0


def _sound(
    gram: torch.Tensor,
    lengths: torch.Tensor,
    share: float,
    order: torch.Tensor,
    factor: torch.Tensor,
) -> PivotedFactor:
    """The factorisation, or that of a root of G if rounding errors have grown in it."""
    explained = torch.linalg.vector_norm(factor[:, len(factor) :], dim=0).square()
    left = lengths[order[len(factor) :]] - explained
    if len(left) and float(left.min()) < -_GROWN_ERRORS * float(lengths.max()):
        order, factor = _by_root(gram, lengths, share)
    return PivotedFactor(order=order, factor=factor.triu_())


def _by_root(
    gram: torch.Tensor, lengths: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pivots and factor by QR of B with B^T B = G: no error grows with the number of pivots.

    Args:
        gram: G; only what is below the diagonal is read, as LAPACK may have overwritten the rest.
        lengths: The diagonal of G.
        share: Squared pivots at or below this share of the first one are dropped.
    """
    below = gram.tril(-1)
    values, vectors = torch.linalg.eigh(below + below.T + torch.diag(lengths))
    factor = pivoted_qr(values.clamp_min(0.0).sqrt()[:, None] * vectors.T, share**0.5)
    return factor.order.to(gram.device), factor.factor.to(gram.device)


def pivoted_qr(activations: torch.Tensor, rtol: float = QR_RTOL) -> PivotedFactor:
    """Column-pivoted QR (LAPACK geqp3) of the activations themselves: the oracle.

    Args:
        activations: A of shape (n, F); computed in float64 on the CPU.
        rtol: Rows of R whose diagonal is at or below this share of the first one are dropped; at
            least `noise_share`.

    Raises:
        LinAlgInputError: Not a matrix or not finite.
    """
    if activations.ndim != 2:
        raise LinAlgInputError(f"activations: expected a matrix; got {tuple(activations.shape)}")
    check_finite(activations, "activations")
    matrix = activations.double().cpu().numpy()
    r, pivots = scipy.linalg.qr(matrix, mode="r", pivoting=True, check_finite=False)
    r = r[: min(matrix.shape)]
    magnitudes = np.abs(np.diagonal(r))
    share = noise_share(rtol, matrix.shape[1])
    rank = int(np.sum(magnitudes > share * magnitudes[:1]))
    return PivotedFactor(
        order=torch.from_numpy(pivots.astype(np.int64)),
        factor=torch.from_numpy(np.ascontiguousarray(r[:rank])),
    )
