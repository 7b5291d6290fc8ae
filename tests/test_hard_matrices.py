"""Matrices that factorisations have trouble with, and what holds for all matrices."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_matrices import FACTORISATIONS, activations, hard_matrices, kahan

from stat_repro.calibration.statistics import ActivationStatistics, GramStatistics
from stat_repro.linalg import gram as gram_sums
from stat_repro.linalg import interpolative, pivoting, units
from stat_repro.linalg.elimination import eliminate

HARD = hard_matrices()
seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=20, deadline=None)


def made(seed, tokens=30, features=10):
    """Random activations and a consumer of them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(features, generator=generator, dtype=torch.float64) + 0.1
    a = torch.randn(tokens, features, generator=generator, dtype=torch.float64) * lengths
    return a, torch.randn(4, features, generator=generator, dtype=torch.float64)


def distance(factor, gram):
    """Largest entry of R^T R - G, by the largest of G."""
    root = gram.diagonal().max().sqrt()
    rows = factor.factor / root
    return float((rows.T @ rows - gram[factor.order][:, factor.order] / root / root).abs().max())


@pytest.mark.parametrize("factorise", FACTORISATIONS)
@pytest.mark.parametrize("name", HARD)
def test_the_factor_of_a_hard_matrix_rebuilds_it(name, factorise):
    gram = HARD[name].T @ HARD[name]
    factor = factorise(gram)
    assert distance(factor, gram) < 1e-9
    assert sorted(factor.order.tolist()) == list(range(len(gram)))
    assert bool(torch.isfinite(factor.tail_norms).all())
    assert factor.rank <= pivoting.pivoted_qr(HARD[name]).rank
    overwritten = pivoting.pivoted_cholesky(gram.clone(), overwrite=True)
    torch.testing.assert_close(overwritten.factor, pivoting.pivoted_cholesky(gram).factor)


@pytest.mark.parametrize("factorise", FACTORISATIONS)
@pytest.mark.parametrize(("features", "angle"), [(60, 1.0), (60, 1.15), (90, 1.33)])
def test_errors_that_grow_from_pivot_to_pivot_are_noticed(features, angle, factorise):
    """A Cholesky factorisation alone ends at a negative diagonal entry, up to 2e-3 off."""
    a = kahan(features, angle)
    factor = factorise(a.T @ a)
    assert distance(factor, a.T @ a) < features * 2e-15
    assert factor.order[:15].tolist() == list(range(15))  # the later ones are not told by G
    torch.testing.assert_close(factor.magnitudes[:15], a.diagonal()[:15])


@pytest.mark.parametrize("name", HARD)
def test_a_hard_site_is_folded_as_well_as_from_its_activations(name):
    a = HARD[name]
    weight = made(0, features=a.shape[1])[1]
    kept = pivoting.pivoted_qr(a).order[: a.shape[1] // 2]
    norm = torch.linalg.matrix_norm(a @ weight.T)
    for ridge in (0.0, 1e-3):
        errors = []
        for statistics in (GramStatistics(a.T @ a, len(a)), ActivationStatistics(a)):
            folded = statistics.fold(weight, kept, ridge)
            assert bool(torch.isfinite(folded).all())
            errors.append(float(torch.linalg.matrix_norm(a[:, kept] @ folded.T - a @ weight.T)))
        assert abs(errors[0] - errors[1]) < 1e-6 * norm
        assert errors[0] < norm


def test_noise_grows_with_the_number_of_columns():
    eps = torch.finfo(torch.float64).eps
    assert pivoting.noise_share(1e-14, 10) == 1e-14
    assert pivoting.noise_share(1e-14, 11008) == 11008 * eps
    gram = torch.eye(100, dtype=torch.float64)
    gram[-1, -1] = 99 * eps  # above the share of a small matrix, below that of this one
    for factorise in FACTORISATIONS:
        assert factorise(gram).rank == 99


@given(seeds)
@quick
def test_columns_in_another_order_give_the_same_pivots(seed):
    a, weight = made(seed)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    usual, moved = (pivoting.pivoted_cholesky(x.T @ x) for x in (a, a[:, order]))
    assert order[moved.order].tolist() == usual.order.tolist()
    kept = usual.order[:4]
    places = torch.argsort(order)[kept]
    expected = interpolative.fold_from_gram(a.T @ a, weight, kept, 0.0)
    gram = (a.T @ a)[order][:, order]
    folded = interpolative.fold_from_gram(gram, weight[:, order], places, 0.0)
    torch.testing.assert_close(folded, expected)


@given(seeds, st.integers(-300, 300))
@quick
def test_scaling_changes_no_pivot_and_no_fit(seed, power):
    """By powers of two, so that nothing is rounded."""
    a, weight = made(seed)
    gram, scaled = a.T @ a, a.T @ a * 2.0 ** (2 * power)
    usual, other = pivoting.pivoted_cholesky(gram), pivoting.pivoted_cholesky(scaled)
    assert other.order.tolist() == usual.order.tolist()
    torch.testing.assert_close(other.factor * 2.0**-power, usual.factor, rtol=1e-12, atol=0)
    kept = usual.order[:5]
    for ridge in (0.0, 0.1):
        expected = interpolative.fold_from_gram(gram, weight, kept, ridge)
        folded = interpolative.fold_from_gram(scaled, weight, kept, ridge)
        torch.testing.assert_close(folded, expected, rtol=1e-12, atol=0)


@given(seeds, st.lists(st.integers(0, 30), max_size=4))
@quick
def test_how_tokens_are_split_into_batches_does_not_matter(seed, cuts):
    a, _ = made(seed)
    borders = [0, *sorted(cuts), 30]
    total = torch.zeros(10, 10, dtype=torch.float64)
    for start, end in pairwise(borders):
        gram_sums.rank_update(total, a[start:end])
    gram_sums.mirror(total)
    torch.testing.assert_close(total, a.T @ a, rtol=1e-12, atol=1e-12)
    assert torch.equal(total, total.T)


@given(seeds, st.permutations(range(10)))
@quick
def test_duplicates_of_kept_columns_cost_nothing(seed, order):
    a, weight = made(seed)
    copies = torch.cat([a, a[:, list(order)]], dim=1)
    weight = torch.cat([weight, weight.flip(0)], dim=1)
    gram = copies.T @ copies
    factor = pivoting.pivoted_cholesky(gram)
    assert factor.rank == 10
    kept = factor.order[:10]
    folded = interpolative.fold_from_gram(gram, weight, kept, 0.0)
    torch.testing.assert_close(copies[:, kept] @ folded.T, copies @ weight.T, rtol=1e-6, atol=1e-6)


@given(seeds, st.sampled_from([1, 2, 5]))
@quick
def test_errors_never_grow_with_the_number_of_kept_units(seed, width):
    a, weight = made(seed)
    statistics = GramStatistics(a.T @ a, len(a))
    order = statistics.pivot_units(width).order
    errors = statistics.removal_errors(order, weight, order, width)
    assert bool((errors[1:] <= errors[:-1] * (1 + 1e-9) + 1e-9).all())
    eliminated = eliminate(statistics.gram, weight, width, 1e-8).errors
    assert bool((eliminated[1:] <= eliminated[:-1]).all())
    tails = statistics.pivot_columns(torch.ones(10)).tail_norms
    assert bool((tails[1:] <= tails[:-1]).all())
    rebuilt = units.unit_factor(statistics.gram, torch.arange(10 // width), width)
    torch.testing.assert_close(rebuilt.T @ rebuilt, statistics.gram, rtol=1e-9, atol=1e-9)


def test_zero_tokens_and_zero_columns_have_no_pivots():
    for shape in ((0, 4), (4, 0)):
        assert pivoting.pivoted_qr(torch.zeros(shape, dtype=torch.float64)).rank == 0
    assert pivoting.pivoted_cholesky(activations(5, 0).T @ activations(5, 0)).rank == 0
