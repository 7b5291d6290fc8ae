"""Sums of activations on the CPU: float32 products where that is safe, float64 everywhere else."""

import pytest
import torch
from pico_models import pico_model

from stat_repro.calibration import collectors
from stat_repro.calibration.collectors import (
    FLOAT32_BUFFER_ROWS,
    FLOAT32_SHARE,
    FLOAT64_ROWS,
    GramSum,
)
from stat_repro.linalg.gram import are_independent
from stat_repro.linalg.pivoting import pivoted_cholesky
from stat_repro.models.adapter import adapter_for

SITE = adapter_for(pico_model("bert")).site(0, "ffn")
CPU = torch.device("cpu")


def activations(rows=FLOAT64_ROWS + 3 * FLOAT32_BUFFER_ROWS + 17, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.logspace(-3, 3, SITE.columns)
    return (torch.randn(rows, SITE.columns, generator=generator) * lengths + lengths).to(dtype)


def summed(rows, part=700):
    collector = GramSum(SITE, CPU)
    for piece in rows.split(part):
        collector.add(piece)
    return collector.finish()


def by_lengths(error, rows):
    lengths = rows.double().norm(dim=0)
    return float((error / lengths[:, None] / lengths).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_independent_columns_are_added_up_in_float32(dtype):
    rows = activations(dtype=dtype)
    found = summed(rows)
    error = by_lengths(found.gram - rows.double().T @ rows.double(), rows)
    assert 0 < error < FLOAT32_SHARE / 10
    assert found.gram.dtype is torch.float64
    torch.testing.assert_close(found.sums, rows.double().sum(dim=0), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("case", ["twice", "nearly", "constant", "dead", "few", "float64"])
def test_whatever_is_near_the_noise_is_added_up_in_float64(case):
    rows = activations(dtype=torch.float64 if case == "float64" else torch.float32)
    if case == "twice":
        rows[:, 3] = rows[:, 5]
    elif case == "nearly":  # a hundredth of the squares that float32 products need
        noise = torch.randn(len(rows), generator=torch.Generator().manual_seed(1))
        rows[:, 3] = rows[:, 5] * (1 + 0.1 * FLOAT32_SHARE**0.5 * noise)
    elif case == "constant":  # all but its mean is in the last digits of float32 products
        noise = torch.randn(len(rows), generator=torch.Generator().manual_seed(1))
        rows[:, 3] = 1.0 + 0.01 * noise
    elif case == "dead":
        rows[:, 3] = 0.0
    elif case == "few":
        rows = rows[:FLOAT64_ROWS]
    found, exact = summed(rows).gram, rows.double().T @ rows.double()
    assert by_lengths(found - exact, torch.where(rows == 0, 1.0, rows)) < 1e-14


def test_how_rows_are_batched_does_not_matter():
    rows = activations()
    expected = summed(rows)
    for part in (1, 256, 1024, 5000, 10**6):
        torch.testing.assert_close(summed(rows, part).gram, expected.gram, rtol=1e-12, atol=0.0)


def test_pivots_of_float32_sums_are_those_of_float64_sums(monkeypatch):
    rows = activations()
    found = pivoted_cholesky(summed(rows).gram)
    monkeypatch.setattr(collectors, "FLOAT32_SHARE", 2.0)
    exact = pivoted_cholesky(summed(rows).gram)
    assert torch.equal(found.order, exact.order)
    torch.testing.assert_close(found.magnitudes, exact.magnitudes, rtol=1e-6, atol=0.0)
    assert not torch.equal(found.magnitudes, exact.magnitudes)


def test_float32_precision_that_a_user_lowered_is_not_used():
    rows = activations()
    expected = summed(rows).gram
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = summed(rows).gram
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, expected)


def test_independence_is_that_of_columns_of_unit_length():
    lengths = torch.logspace(-4, 4, 9, dtype=torch.float64)
    gram = torch.outer(lengths, lengths) * (torch.full((9, 9), 0.5) + 0.5 * torch.eye(9)).double()
    upper = gram.triu() + torch.full((9, 9), torch.nan).double().tril(-1)  # below nothing is read
    assert are_independent(upper, 0.499)  # the smallest eigenvalue is 1/2
    assert not are_independent(upper, 0.501)
    gram[2, 2] = 0.0
    assert not are_independent(gram, 1e-30)
