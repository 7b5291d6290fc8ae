"""Backward elimination against removing units one by one and fitting anew."""

import pytest
import torch

from stat_repro.linalg import elimination
from stat_repro.linalg.elimination import eliminate
from stat_repro.linalg.pivoting import LinAlgInputError

RIDGE = 1e-3


def problem(columns, rows=5, tokens=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    activations = torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return activations.T @ activations, weight


def error(gram, weight, kept, ridge=RIDGE):
    """Output error of the damped fit to the kept columns, written out."""
    damped = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    gone = [j for j in range(len(gram)) if j not in kept]
    kept, gone = torch.tensor(kept, dtype=torch.int64), torch.tensor(gone, dtype=torch.int64)
    cross = damped[gone][:, kept]
    schur = damped[gone][:, gone] - cross @ torch.linalg.solve(damped[kept][:, kept], cross.T)
    return float((weight[:, gone] @ schur @ weight[:, gone].T).trace())


def columns_of(units, width):
    return [u * width + i for u in units for i in range(width)]


@pytest.mark.parametrize(("units", "width"), [(9, 1), (7, 1), (4, 3), (1, 1), (1, 4)])
@pytest.mark.parametrize("panel", [3, 64])
def test_every_step_is_the_best_one(units, width, panel, monkeypatch):
    monkeypatch.setattr(elimination, "PANEL", panel)
    gram, weight = problem(units * width)
    found = eliminate(gram, weight, width, RIDGE)
    left = list(range(units))
    for kept in range(units, 0, -1):
        assert float(found.errors[kept]) == pytest.approx(
            error(gram, weight, columns_of(left, width)), rel=1e-8, abs=1e-8
        )
        assert sorted(found.order[:kept].tolist()) == sorted(left)
        after = {
            u: error(gram, weight, columns_of([x for x in left if x != u], width)) for u in left
        }
        left.remove(min(after, key=after.get))
    assert float(found.errors[0]) == pytest.approx(error(gram, weight, []))
    assert bool((found.errors.diff() <= 0).all())


def test_copies_of_a_column_go_first_and_cost_nothing():
    gram, weight = problem(6)
    double = [0, 1, 2, 3, 4, 5, 2, 4]  # columns 6 and 7 repeat 2 and 4
    found = eliminate(gram[double][:, double], weight[:, double], 1, 1e-9)
    assert {*found.order[6:].tolist()} in ({2, 4}, {2, 7}, {6, 4}, {6, 7})
    assert float(found.errors[6]) < 1e-6 * float(found.errors[0])


def test_a_unit_that_nothing_reads_goes_first():
    gram, weight = problem(12)
    weight[:, 6:9] = 0.0
    found = eliminate(gram, weight, 3, RIDGE)
    assert found.order[-1] == 2
    assert float(found.errors[3]) == pytest.approx(0.0, abs=1e-9)


def test_silent_sites_and_sites_without_units():
    silent = eliminate(torch.zeros(4, 4, dtype=torch.float64), torch.ones(2, 4), 2, RIDGE)
    assert sorted(silent.order.tolist()) == [0, 1]
    none = eliminate(torch.zeros(0, 0, dtype=torch.float64), torch.ones(2, 0), 1, RIDGE)
    assert none.order.tolist() == []
    assert none.errors.tolist() == [0.0]


def test_input_that_cannot_be_used_is_named():
    gram, weight = problem(4)
    with pytest.raises(LinAlgInputError, match="ridge of the elimination: expected > 0"):
        eliminate(gram, weight, 1, 0.0)
    gram[1, 1] = torch.nan
    with pytest.raises(LinAlgInputError, match="expected a finite Gram matrix"):
        eliminate(gram, weight, 1, RIDGE)
