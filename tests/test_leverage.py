"""Ridge leverage scores of columns that are known."""

import pytest
import torch

from stat_repro.linalg.leverage_scores import ridge_leverage
from stat_repro.linalg.pivoting import LinAlgInputError


def gram_of(*columns):
    rows = torch.tensor(columns, dtype=torch.float64).T
    return rows.T @ rows


def test_independent_columns_have_one_and_equal_columns_share_it():
    found = ridge_leverage(gram_of((1, 0, 0), (0, 2, 0), (0, 2, 0), (0, 0, 0)), 1e-7)
    torch.testing.assert_close(
        found, torch.tensor([1.0, 0.5, 0.5, 0.0]).double(), atol=1e-6, rtol=0
    )


def test_short_columns_fall_behind_as_the_ridge_grows():
    gram = gram_of((10, 0, 0), (0, 1, 0))
    weak, strong = (ridge_leverage(gram, ridge) for ridge in (1e-8, 1.0))
    assert float(weak[1]) == pytest.approx(1.0, abs=1e-5)
    # The ridge is the mean square here: 50.5.
    torch.testing.assert_close(strong, torch.tensor([100 / 150.5, 1 / 51.5]).double())


def test_silence_and_no_columns_have_scores():
    zero = torch.zeros(3, 3, dtype=torch.float64)
    assert ridge_leverage(zero, 0.1).tolist() == [0.0] * 3
    assert ridge_leverage(zero[:0, :0], 0.1).shape == (0,)


def test_bad_input_is_refused():
    gram = gram_of((1, 0), (0, 1))
    for ridge in (0.0, -1.0, float("nan")):
        with pytest.raises(LinAlgInputError, match="expected > 0"):
            ridge_leverage(gram, ridge)
        with pytest.raises(LinAlgInputError, match="expected > 0"):
            ridge_leverage(gram[:0, :0], ridge)
    with pytest.raises(LinAlgInputError, match="expected a finite Gram matrix"):
        ridge_leverage(gram * float("nan"), 0.1)
