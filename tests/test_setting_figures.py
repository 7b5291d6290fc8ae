"""The figure of a number that a study varies, from made-up records."""

import copy

import pytest
from made_up_records import PLAN, make_config, make_record

from stat_repro.config import CalibrationConfig, PruningConfig
from stat_repro.reporting.canvas import canvas, draw, log_axis
from stat_repro.reporting.detail_figures import setting_figures


def run(kl, *, seed=0, kept=(1, 3), error=0.1, pruning=None, **calibration):
    plan = copy.deepcopy(PLAN)
    plan["layers"][0]["kept_neurons"] = list(kept)
    return make_record(
        config=make_config(calibration=CalibrationConfig(**calibration)),
        fidelity={"kl": kl, "agreement": 0.9},
        seed=seed,
        pruning=pruning,
        plan=plan,
        site_errors=[
            {"layer": 0, "kind": "attention", "relative_error": 9.0},
            {"layer": 0, "kind": "ffn", "relative_error": error},
        ],
    )


def test_seeds_are_put_together_along_the_setting_and_methods_kept_apart():
    records = [
        run(kl * factor, seed=seed, examples=examples, pruning=PruningConfig(method=method))
        for method, factor in (("stat", 1.0), ("fisher", 2.0))
        for examples, kls in ((64, [0.1, 0.3]), (16, [0.5, 0.7]), (256, [0.05]))
        for seed, kl in enumerate(kls)
    ]
    (figure,) = setting_figures(records)
    assert figure.name == "figure_pico_reviews_kl_by_examples"
    (panel,) = figure.panels
    assert panel.x_label == "calibration examples"
    assert panel.y_label == "KL from dense (nats)"
    assert panel.log
    series = panel.lines
    assert [one.label for one in series] == ["STAT, 50 % of MACs", "Fisher, 50 % of MACs"]
    assert "Mean of 1 to 2 calibration seeds" in figure.caption
    assert series[0].x == (16, 64, 256)
    assert series[0].y == pytest.approx((0.6, 0.2, 0.05))
    assert (series[0].low, series[0].high) == ((0.5, 0.1, 0.05), (0.7, 0.3, 0.05))
    assert series[1].y == pytest.approx((1.2, 0.4, 0.1))
    assert draw(figure).axes[0].get_yscale() == "log"


def test_a_sketch_is_shown_beside_the_exact_statistics():
    sketch = {"statistics": "sketch", "sketch": "gaussian"}
    records = [
        run(0.02, kept=(1, 3), error=0.4),
        run(0.09, kept=(0, 2), error=0.1, **sketch, sketch_size=8),
        run(0.05, kept=(1, 2), error=0.2, **sketch, sketch_size=16),
        run(0.03, kept=(1, 3), error=0.3, **sketch, sketch_size=32),
        run(0.03, kept=(1, 3), error=0.3, seed=1, **sketch, sketch_size=32),
    ]
    (figure,) = setting_figures(records)
    assert figure.name.endswith("_kl_by_sketch_size")
    kl, shared, error = (panel.lines for panel in figure.panels)
    by_kind = {one.x: one for one in kl}
    assert by_kind[()].y == (0.02,)
    assert by_kind[8, 16, 32].y == pytest.approx((0.09, 0.05, 0.03))
    # The second seed has no exact statistics beside it.
    assert {one.x: one.y for one in shared} == {(): (100.0,), (8, 16, 32): (0.0, 50.0, 100.0)}
    assert {one.x: one.y for one in error}[()] == (0.4,)
    assert {one.x: one.y for one in error}[8, 16, 32] == pytest.approx((0.1, 0.2, 0.3))
    assert len(draw(figure).axes) == 3


def test_a_ridge_of_zero_has_its_place():
    records = [
        run(kl, pruning=PruningConfig(ridge=ridge))
        for ridge, kl in ((0.0, 0.3), (0.001, 0.2), (0.1, 0.4))
    ]
    (figure,) = setting_figures(records)
    axes = draw(figure).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.001", "0.1"]


def test_two_values_make_no_figure():
    assert setting_figures([run(0.1, examples=n) for n in (16, 64)]) == []
    assert setting_figures([make_record(fidelity={"agreement": 1.0})]) == []


@pytest.mark.parametrize(("low", "high"), [(0.11, 0.29), (0.02, 1.5), (4e-5, 0.5), (1.0, 900.0)])
def test_a_logarithmic_axis_has_some_numbers_and_not_too_many(low, high):
    with canvas(4, 4) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [low, high])
        log_axis(axes)
        bottom, top = axes.get_ylim()
        shown = [tick for tick in axes.yaxis.get_majorticklocs() if bottom <= tick <= top]
    assert 3 <= len(shown) <= 13
