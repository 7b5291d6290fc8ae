"""The factorisations against scipy's pivoted QR and against cases with a known answer."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_matrices import FACTORISATIONS, activations

from stat_repro.calibration.statistics import ActivationStatistics, GramStatistics
from stat_repro.linalg import gram as gram_sums
from stat_repro.linalg import interpolative, pivoting, units
from stat_repro.linalg.blocked_cholesky import blocked_cholesky


def both_statistics(a):
    return [GramStatistics(a.T @ a, len(a)), ActivationStatistics(a)]


@pytest.mark.parametrize("factorise", FACTORISATIONS)
@pytest.mark.parametrize("shape", [(200, 24), (24, 24), (10, 24)])
def test_pivots_and_factor_equal_scipy_pivoted_qr(factorise, shape):
    a = activations(*shape)
    r, pivots = scipy.linalg.qr(a.numpy(), mode="r", pivoting=True)
    rank = min(shape)
    factor = factorise(a.T @ a)
    assert factor.rank == rank
    assert factor.order[:rank].tolist() == pivots[:rank].tolist()
    np.testing.assert_allclose(
        factor.magnitudes[:rank], np.abs(np.diag(r))[:rank], rtol=1e-7, atol=0
    )
    signs = np.sign(np.diag(r)[:rank])[:, None]
    columns = np.argsort(pivots)
    mine = factor.factor[:, torch.argsort(factor.order)].numpy()
    np.testing.assert_allclose(mine, (signs * r[:rank])[:, columns], atol=1e-8)


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_factor_rebuilds_any_gram_matrix(features, tokens, seed):
    a = torch.from_numpy(np.random.RandomState(seed).randn(tokens, features))
    gram = a.T @ a
    for factorise in FACTORISATIONS:
        factor = factorise(gram)
        rebuilt = factor.factor.T @ factor.factor
        expected = gram[factor.order][:, factor.order]
        assert torch.allclose(rebuilt, expected, atol=1e-9 * float(gram.diagonal().max()))
        assert sorted(factor.order.tolist()) == list(range(features))
        assert factor.rank <= min(tokens, features)


@pytest.mark.parametrize("features", [1, 5, 384, 500])
def test_rank_updates_add_up_to_the_gram_matrix(features):
    a, b = activations(7, features), activations(300, features, seed=1)
    total = torch.zeros(features, features, dtype=torch.float64)
    gram_sums.rank_update(total, a)
    gram_sums.rank_update(total, b)
    gram_sums.rank_update(total, b[:0])
    gram_sums.mirror(total)
    torch.testing.assert_close(total, a.T @ a + b.T @ b, rtol=1e-12, atol=1e-12)
    assert torch.equal(total, total.T)


def test_quadratic_form_is_the_sum_over_rows():
    a = activations(features=500)
    d = torch.randn(3, 500, dtype=torch.float64)
    expected = (a @ d.T).square().sum()
    torch.testing.assert_close(gram_sums.quadratic_form(a.T @ a, d), expected)


@pytest.mark.parametrize("panel", [1, 8, 60, 128, 300])
def test_panels_find_the_pivots_of_lapack(panel, device):
    """Matrices of different ranks take their steps together; the Schur complement is compacted."""
    sides = [activations(400, 200, decades=3.0), activations(90, 200, 1), activations(400, 200, 2)]
    grams = torch.stack([a.T @ a for a in sides])
    tolerance = 1e-12 * grams.diagonal(dim1=1, dim2=2).amax(dim=1)
    orders, factors = blocked_cholesky(grams.to(device, copy=True), tolerance.to(device), panel)
    for gram, order, factor in zip(grams, orders.cpu(), factors, strict=True):
        whole = pivoting.pivoted_cholesky(gram, 1e-12)
        rank = whole.rank
        assert order[:rank].tolist() == whole.order[:rank].tolist()
        assert sorted(order.tolist()) == list(range(200))
        assert factor.shape == (rank, 200)
        torch.testing.assert_close(factor.cpu().abs(), whole.factor.abs()[:, _places(whole, order)])


def _places(factor, order):
    """Positions in a factor's order of the columns of another order."""
    return torch.argsort(factor.order)[order]


def test_equal_columns_are_taken_in_the_order_of_lapack(device):
    """The first of equal ones, where LAPACK's exchanges have put it."""
    a = (4 * activations(60, 40, decades=0.0)).round()
    copies = torch.cat([a, a.flip(1), torch.zeros(60, 3).double()], dim=1)
    gram = copies.T @ copies
    whole = pivoting.pivoted_cholesky(gram)
    factor = pivoting.pivoted_choleskies([gram.to(device)])[0]
    assert factor.rank == whole.rank == 40
    assert factor.order[:40].tolist() == whole.order[:40].tolist()


def test_matrices_factored_together_are_those_factored_alone(device):
    grams = [a.T @ a for a in (activations(features=24), activations(10, 24), torch.zeros(9, 24))]
    grams = [gram.double().to(device) for gram in grams]
    before = [gram.clone() for gram in grams]
    for gram, factor in zip(grams, pivoting.pivoted_choleskies(grams), strict=True):
        alone = pivoting.pivoted_cholesky(gram)
        assert factor.rank == alone.rank
        assert torch.equal(factor.order[: factor.rank], alone.order[: factor.rank])
        torch.testing.assert_close(factor.tail_norms, alone.tail_norms)
    assert all(torch.equal(*pair) for pair in zip(grams, before, strict=True))


def test_a_matrix_that_may_be_overwritten_gives_the_same_factor():
    a = activations()
    gram = a.T @ a
    usual = pivoting.pivoted_cholesky(gram)
    assert torch.equal(gram, a.T @ a)  # not touched unless allowed
    kept = gram.clone()
    again = pivoting.pivoted_cholesky(kept, overwrite=True)
    assert torch.equal(again.order, usual.order)
    assert torch.equal(again.factor, usual.factor)
    assert kept.data_ptr() == again.factor.data_ptr()


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_matrices_gathered_in_parts_fold_the_same(ridge, monkeypatch):
    a = activations()
    gram = a.T @ a
    weight = torch.randn(5, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept = torch.randperm(24, generator=torch.Generator().manual_seed(2))[:11]
    usual = interpolative.fold_from_gram(gram, weight, kept, ridge)
    monkeypatch.setattr(interpolative, "_PANEL", 4)
    parts = interpolative.fold_from_gram(gram, weight, kept, ridge)
    torch.testing.assert_close(parts, usual, rtol=1e-12, atol=1e-12)


def test_tail_norms_are_the_residuals_of_the_best_fit():
    a = activations(features=8)
    for statistics in both_statistics(a):
        factor = statistics.pivot_columns(torch.ones(8))
        for k in range(9):
            kept = factor.order[:k]
            fit = torch.linalg.lstsq(a[:, kept], a).solution if k else torch.zeros(0, 8)
            residual = torch.linalg.matrix_norm(a - a[:, kept] @ fit.double())
            assert float(factor.tail_norms[k]) == pytest.approx(float(residual), abs=1e-7)


def test_duplicate_and_dead_columns_end_the_factorisation():
    a = activations(features=6)
    a = torch.cat([a, a[:, :2], torch.zeros(len(a), 1)], dim=1)
    for factorise in FACTORISATIONS:
        factor = factorise(a.T @ a)
        assert factor.rank == 6
        assert 8 not in factor.order[:6].tolist()
    assert pivoting.pivoted_qr(a).rank == 6


def test_no_energy_has_rank_zero():
    factor = pivoting.pivoted_cholesky(torch.zeros(4, 4, dtype=torch.float64))
    assert factor.rank == 0
    assert factor.magnitudes.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.float64), "square float64"),
        (torch.zeros(3, 3), "square float64"),
        (torch.full((2, 2), float("nan"), dtype=torch.float64), "4 NaN or infinite"),
    ],
)
def test_bad_gram_matrices_are_refused(gram, message):
    with pytest.raises(pivoting.LinAlgInputError, match=message):
        pivoting.pivoted_cholesky(gram)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
def test_interpolation_is_the_ridge_least_squares_fit(ridge):
    a = activations(features=10)
    kept = torch.tensor([7, 0, 3, 5])
    damping = ridge * a.square().sum(0).mean()
    left = a[:, kept]
    expected = torch.linalg.solve(left.T @ left + damping * torch.eye(4).double(), left.T @ a)
    for statistics in both_statistics(a):
        t = statistics.interpolation(kept, ridge)
        torch.testing.assert_close(t, expected, rtol=1e-8, atol=1e-10)
        if ridge == 0:
            assert torch.equal(t[:, kept], torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("kept", [[7, 0, 3, 5], [0, 2, 10, 11], [], list(range(12))])
def test_fold_is_the_weight_times_the_interpolation(kept, ridge):
    a = activations(features=10)
    a = torch.cat([a, a[:, :1], torch.zeros(len(a), 1)], dim=1)  # a repeated and a dead column
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kept = torch.tensor(kept, dtype=torch.int64)
    for statistics in both_statistics(a):
        expected = interpolative.fold(weight, statistics.interpolation(kept, ridge))
        torch.testing.assert_close(statistics.fold(weight, kept, ridge), expected)


def test_duplicated_columns_are_rebuilt_exactly():
    a = activations(features=5)
    doubled = torch.cat([a, 3.0 * a], dim=1)
    weight = torch.randn(4, 10, dtype=torch.float64)
    kept = torch.arange(5)
    for statistics in both_statistics(doubled):
        folded = interpolative.fold(weight, statistics.interpolation(kept, 0.0))
        torch.testing.assert_close(a @ folded.T, doubled @ weight.T)


def test_kept_columns_that_depend_on_each_other_stay_harmless():
    a = activations(features=5)
    a = torch.cat([a, a[:, :1]], dim=1)  # column 5 repeats column 0; both are kept
    kept = torch.tensor([0, 1, 5])
    weight = torch.randn(4, 6, dtype=torch.float64)
    best = torch.linalg.lstsq(a[:, [0, 1]], a).solution
    for statistics in both_statistics(a):
        t = statistics.interpolation(kept, 0.0)
        assert bool(torch.isfinite(t).all())
        torch.testing.assert_close(a[:, kept] @ t, a[:, [0, 1]] @ best)
        folded = interpolative.fold(weight, t)
        assert float(folded.abs().max()) < 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_of_the_models_precision_is_not_fitted(dtype):
    """Columns of exact rank 12, computed in low precision: no coefficient explodes."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(400, 12, generator=generator) @ torch.randn(12, 24, generator=generator)
    a = (exact * torch.logspace(0, -3, 24)).to(dtype)
    kept = torch.arange(20)
    gram = GramStatistics(a.double().T @ a.double(), len(a), dtype)
    for statistics in (gram, ActivationStatistics(a)):
        t = statistics.interpolation(kept, 0.0)
        fit = a[:, kept].double() @ t
        error = torch.linalg.vector_norm(fit - a.double(), dim=0)
        assert float((error / torch.linalg.vector_norm(a.double(), dim=0)).max()) < 0.02
        # Relative to the lengths of the columns, which span three decades.
        lengths = torch.linalg.vector_norm(a.double(), dim=0)
        relative = t * lengths[kept, None] / lengths
        assert float(relative.abs().max()) < 20


def test_fewer_tokens_than_kept_columns_fit_the_calibration_data():
    a = activations(n=6, features=12)
    kept = torch.arange(9)
    for statistics in both_statistics(a):
        t = statistics.interpolation(kept, 0.0)
        torch.testing.assert_close(a[:, kept] @ t, a, atol=1e-6, rtol=0)


def test_unit_gram_is_the_gram_of_units_as_columns():
    a = activations(n=50, features=12)
    view = a.view(50, 3, 4).transpose(1, 2).reshape(200, 3)
    torch.testing.assert_close(units.unit_gram(a.T @ a, 4), view.T @ view)
    for statistics in both_statistics(a):
        assert statistics.pivot_units(4).order.tolist() == pivoting.pivoted_qr(view).order.tolist()


@pytest.mark.parametrize("duplicate_head", [False, True])
def test_removal_errors_are_the_realised_output_errors(duplicate_head):
    a = activations(n=100, features=12)
    if duplicate_head:
        a = torch.cat([a[:, :8], a[:, :4]], dim=1)
    weight = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([2, 0, 1])
    realised = []
    for i in range(4):
        kept = (order[:i, None] * 4 + torch.arange(4)).reshape(-1)
        fit = np.linalg.lstsq(a[:, kept].numpy(), a.numpy(), rcond=1e-10)[0]
        residual = a - a[:, kept] @ torch.from_numpy(fit)
        realised.append(float(torch.linalg.matrix_norm(residual @ weight.T)))
    for statistics in both_statistics(a):
        errors = statistics.removal_errors(order, weight, order, 4)
        np.testing.assert_allclose(errors.numpy(), realised, atol=1e-6)


def test_output_error_is_the_norm_of_the_difference():
    a = activations(features=6)
    difference = torch.randn(3, 6, dtype=torch.float64)
    expected = float(torch.linalg.matrix_norm(a @ difference.T))
    for statistics in both_statistics(a):
        assert statistics.output_error(difference) == pytest.approx(expected)
