"""Units of several columns: heads and key/value groups.

Unit u of width w has the columns u*w ... (u+1)*w - 1.
"""

import torch

from stat_repro.linalg.pivoting import GRAM_RTOL, QR_RTOL, noise_share


def unit_gram(gram: torch.Tensor, width: int) -> torch.Tensor:
    """M[a, b] = trace of G[a, b]: the Gram matrix of units seen as single columns.

    G[a, b] are the entries of G at the columns of the units a and b.

    M belongs to the activations viewed as (n * w, H), one column per unit, which is what STAT
    pivots to order the heads.

    Args:
        gram: G of shape (H * w, H * w).
        width: w.

    Returns:
        M of shape (H, H).
    """
    units = gram.shape[0] // width
    return gram.view(units, width, units, width).diagonal(dim1=1, dim2=3).sum(dim=-1)


def unit_factor(gram: torch.Tensor, order: torch.Tensor, width: int) -> torch.Tensor:
    """R with R^T R = G in the given order of units, unit by unit.

    What is left of a unit in the Schur complement is inverted; directions at rounding level get
    zero rows.

    Args:
        gram: G of shape (H * w, H * w), float64.
        order: Unit indices, shape (H,).
        width: w.

    Returns:
        R of shape (H * w, H * w), columns in the given order of units; rows i*w ... (i+1)*w - 1
        hold what unit order[i] adds to the units before it.
    """
    columns = unit_columns(order, width)
    schur = gram[columns][:, columns].clone()
    share = noise_share(GRAM_RTOL, len(columns))
    tolerance = share * float(schur.diagonal().max()) if len(columns) else 0.0
    rows = torch.zeros_like(schur)
    for start in range(0, len(columns), width):
        unit = slice(start, start + width)
        row = _inverse_root(schur[unit, unit], tolerance) @ schur[unit, start:]
        rows[unit, start:] = row
        schur[start:, start:].addmm_(row.T, row, alpha=-1.0)
    return rows


def _inverse_root(gram: torch.Tensor, tolerance: float) -> torch.Tensor:
    """B with B^T B the inverse of G, without its eigenvalues up to the tolerance.

    By Cholesky, which a GPU does in a twentieth of the time, where no eigenvalue is so small: none
    is below 1 / trace(G^-1).
    """
    triangle, info = torch.linalg.cholesky_ex(gram)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.solve_triangular(triangle, identity, upper=False)
    if bool((info == 0) & (tolerance * inverse.square().sum() < 1.0)):
        return inverse
    values, vectors = torch.linalg.eigh(gram)
    scale = torch.where(values > tolerance, values.clamp_min(tolerance).rsqrt(), 0.0)
    return (vectors * scale).T


def removal_errors(
    factor: torch.Tensor, weight: torch.Tensor, column_units: torch.Tensor, width: int
) -> torch.Tensor:
    """||residual @ W^T||_F when the first i units of an order are kept, i = 0..H.

    The residual of the best fit from the first i units has the Gram matrix R_i^T R_i, R_i the
    rows of R from unit order[i] on; the orthogonal factor drops out of the norm.

    Args:
        factor: R of shape (H * w, H * w) from `unit_factor`.
        weight: Consumer weight W of shape (D, H * w), columns in their original order.
        column_units: For each position in R the unit whose columns of W read it, shape (H,).
            The order itself for the true error.
        width: w.

    Returns:
        Errors of shape (H + 1,), on the CPU (`PivotedFactor.tail_norms`); the last one is 0.
    """
    read = factor @ weight.to(factor)[:, unit_columns(column_units, width)].T
    squares = read.square().sum(dim=1).view(-1, width).sum(dim=1).cpu()
    tails = squares.flip(0).cumsum(0).flip(0)
    return torch.cat([tails, tails.new_zeros(1)]).sqrt()


def removal_errors_from_activations(
    activations: torch.Tensor,
    order: torch.Tensor,
    weight: torch.Tensor,
    column_units: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """`removal_errors` by deflating the activations themselves, unit by unit.

    A plain QR would be wrong: for dependent columns it invents directions and counts them as kept.

    Args:
        activations: A of shape (n, H * w), float64.
        order: Unit indices, shape (H,).
        weight: As in `removal_errors`.
        column_units: As in `removal_errors`.
        width: w.
    """
    residual = activations[:, unit_columns(order, width)].clone()
    readers = weight.to(residual)[:, unit_columns(column_units, width)]
    # Directions below this length are rounding noise of the deflation.
    share = noise_share(QR_RTOL, residual.shape[1])
    noise = share * float(torch.linalg.matrix_norm(residual))
    errors = [torch.linalg.matrix_norm(residual @ readers.T)]
    for start in range(0, residual.shape[1], width):
        left, values, _ = torch.linalg.svd(residual[:, start : start + width], full_matrices=False)
        basis = left[:, values > noise]
        residual -= basis @ (basis.T @ residual)
        errors.append(torch.linalg.matrix_norm(residual @ readers.T))
    return torch.stack(errors)


def output_products(gram: torch.Tensor, weight: torch.Tensor, width: int) -> torch.Tensor:
    """P[a, b] = sum over tokens of (what unit a adds to the output) . (what unit b adds).

    Unit u adds A[:, u] W[:, u]^T, so P is G * (W^T W) summed over the columns of two units: the
    normal matrix of one factor per unit (mask tuning of Kwon et al. 2022, section 3.3).

    Args:
        gram: G of shape (H * w, H * w), float64.
        weight: Consumer weight W of shape (D, H * w).
        width: w.

    Returns:
        P of shape (H, H), float64.
    """
    w = weight.to(gram)
    units = gram.shape[0] // width
    return (gram * (w.T @ w)).view(units, width, units, width).sum(dim=(1, 3))


def unit_columns(units: torch.Tensor, width: int) -> torch.Tensor:
    """Indices of the columns that belong to some units, in their order, shape (len(units) * w,)."""
    offsets = torch.arange(width, device=units.device)
    return (units[:, None] * width + offsets).reshape(-1)
