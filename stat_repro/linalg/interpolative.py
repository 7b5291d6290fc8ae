"""Interpolative decomposition: kept columns and the matrix that rebuilds all columns from them."""

import torch

from stat_repro.linalg.pivoting import GRAM_RTOL, noise_share, pivoted_cholesky, pivoted_qr

# Rows or columns of a Gram matrix that are gathered at once, so that copies stay small.
_PANEL = 1024


def interpolation_from_gram(
    gram: torch.Tensor, kept: torch.Tensor, ridge: float, rtol: float = GRAM_RTOL
) -> torch.Tensor:
    """T = (G[K,K] + ridge * mean(diag G) I)^-1 G[K,:]: the least-squares fit of A by A[:, K].

    The row of a kept column that depends on the others up to noise is zero outside that column: the
    fit is the same, and nothing is divided by rounding noise. Without ridge T[:, K] = I.

    Args:
        gram: G of shape (F, F), float64.
        kept: K, k distinct column indices (int64); T's rows follow this order.
        ridge: Relative to the mean diagonal entry of G, >= 0.
        rtol: A kept column counts as dependent when the part that the others do not explain has at
            most this share of its squared length.

    Returns:
        T of shape (k, F), float64.

    Raises:
        LinAlgInputError: Non-finite input.
    """
    triangle, scale, used = _kept_factor(gram, kept, ridge, rtol)
    right = scale[:, None] * gram[kept[used]]
    half = torch.linalg.solve_triangular(triangle.T, right, upper=False)
    return _assemble(triangle, half, scale, used, kept, exact_identity=ridge == 0)


def fold_from_gram(
    gram: torch.Tensor,
    weight: torch.Tensor,
    kept: torch.Tensor,
    ridge: float,
    rtol: float = GRAM_RTOL,
) -> torch.Tensor:
    """W T^T with the T of `interpolation_from_gram`, which is never formed.

    The triangular systems have a right-hand side for every row of W instead of every column of G,
    and without ridge only the dropped columns of W take part, as the kept ones pass unchanged.

    Args:
        gram: G of shape (F, F), float64.
        weight: Consumer weight W of shape (D, F).
        kept: K, k distinct column indices (int64).
        ridge: As in `interpolation_from_gram`.
        rtol: As in `interpolation_from_gram`.

    Returns:
        Corrected weight of shape (D, k), float64.

    Raises:
        LinAlgInputError: Non-finite input.
    """
    triangle, scale, used = _kept_factor(gram, kept, ridge, rtol)
    read = weight.to(gram)
    if ridge > 0:
        result = read.new_zeros((read.shape[0], len(kept)))
        parts = [read @ gram.index_select(1, part) for part in kept[used].split(_PANEL)]
        products = torch.cat(parts, dim=1)
        del parts
    else:
        result = read.index_select(1, kept)
        mask = torch.ones(gram.shape[0], dtype=torch.bool, device=gram.device)
        mask[kept] = False
        dropped = mask.nonzero().view(-1)
        cross = gram.index_select(0, dropped).index_select(1, kept[used])
        products = read.index_select(1, dropped) @ cross
        del cross
    # In place: each copy would have the size of W.
    products *= scale
    torch.linalg.solve_triangular(triangle, products, upper=True, left=False, out=products)
    torch.linalg.solve_triangular(triangle.T, products, upper=False, left=False, out=products)
    products *= scale
    return result.index_add_(1, used, products)


def _kept_factor(
    gram: torch.Tensor, kept: torch.Tensor, ridge: float, rtol: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """R, s, u with R^T R = (G[K,K] + ridge) [u, u] scaled by s to columns of unit length.

    Because of the scaling, noise is relative to each column and not to the largest of all. u are
    positions in K; columns that depend on the others are not among them.
    """
    selected = gram.new_empty((len(kept), len(kept)))
    for start in range(0, len(kept), _PANEL):  # whole rows of all kept columns would be large
        rows = gram.index_select(0, kept[start : start + _PANEL])
        selected[start : start + _PANEL] = rows.index_select(1, kept)
        del rows
    if ridge > 0:
        selected.diagonal().add_(ridge * gram.diagonal().mean())
    scale = _inverse_lengths(selected.diagonal().sqrt())
    selected *= scale[:, None]
    selected *= scale
    if selected.is_cuda and (triangle := _independent_factor(selected, rtol)) is not None:
        return triangle, scale, torch.arange(len(kept), device=gram.device)
    factor = pivoted_cholesky(selected, rtol, overwrite=True)
    used = factor.order[: factor.rank]
    return factor.factor[:, : factor.rank], scale[used], used


def _independent_factor(gram: torch.Tensor, rtol: float) -> torch.Tensor | None:
    """R with R^T R = G without pivots, or None where pivoted Cholesky would leave out a column.

    1 / (G^-1)_ii is what all others leave of column i, and the last pivot is one of these: if none
    is noise, no pivot is. On a GPU this takes a hundredth of the time of as many pivots.

    Args:
        gram: G of shape (k, k), float64, with ones on the diagonal.
        rtol: As in `interpolation_from_gram`.
    """
    triangle, info = torch.linalg.cholesky_ex(gram, upper=True)
    if int(info):
        return None
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.solve_triangular(triangle, identity, upper=True)
    left = inverse.square_().sum(dim=1).reciprocal()
    return triangle if bool((left > noise_share(rtol, len(gram))).all()) else None


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


def fold(weight: torch.Tensor, interpolation: torch.Tensor) -> torch.Tensor:
    """W T^T: the consumer that reads the kept columns only (y = A W^T ~= A[:, K] (W T^T)^T).

    Args:
        weight: W of shape (D, F).
        interpolation: T of shape (k, F), float64.

    Returns:
        Corrected weight of shape (D, k), float64.
    """
    return weight.to(interpolation) @ interpolation.T
