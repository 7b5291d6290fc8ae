"""The figure of a number that a study varies, from made-up records."""

import copy
import itertools
import json
import math
from dataclasses import replace

import pytest
from made_up_records import PLAN, make_config, make_record
from matplotlib.figure import Figure as Drawing

from stat_repro.config import CalibrationConfig, PruningConfig
from stat_repro.reporting import detail_figures
from stat_repro.reporting.canvas import draw, log_axis
from stat_repro.reporting.figures import metric_figures
from stat_repro.reporting.outputs import study_outputs
from stat_repro.reporting.report_page import study_page
from stat_repro.reporting.variants import study_frame
from stat_repro.results import to_frame


def setting_figures(records):
    return detail_figures.setting_figures(study_frame(records))


def layer_figures(records):
    return detail_figures.layer_figures(study_frame(records))


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
    assert [one.label for one in series] == ["STAT, 50 % of MACs kept", "Fisher, 50 % of MACs kept"]
    assert "Mean of 1 to 2 calibration seeds" in figure.caption
    assert series[0].x == (16, 64, 256)
    assert series[0].y == pytest.approx((0.6, 0.2, 0.05))
    assert (series[0].low, series[0].high) == ((0.5, 0.1, 0.05), (0.7, 0.3, 0.05))
    assert series[1].y == pytest.approx((1.2, 0.4, 0.1))
    assert draw(figure).axes[0].get_yscale() == "log"


def test_the_range_of_a_single_point_is_drawn():
    """A band of one place has no width; `-m seed=0,1,2` gives one."""
    runs = to_frame([run(kl, seed=seed) for seed, kl in enumerate((0.1, 0.3))])
    (figure,) = [one for one in metric_figures(runs) if one.name.endswith("_kl")]
    (line,) = [one for one in figure.panels[0].lines if one.x]
    assert line.low != line.high
    (bars,) = draw(figure).axes[0].collections
    ((low, high),) = [segment[:, 1] for segment in bars.get_segments()]
    assert (low, high) == (line.low[0], line.high[0])
    bare = replace(figure.panels[0], lines=(replace(line, low=(), high=()),))
    assert not draw(replace(figure, panels=(bare,))).axes[0].collections


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


def test_exact_statistics_of_another_allocation_are_not_compared_with():
    sketch = {"statistics": "sketch", "sketch": "gaussian"}
    records = []
    for allocation, units in (("global", (1, 3)), ("uniform", (0, 2))):
        pruning = PruningConfig(allocation=allocation)
        records.append(run(0.02, kept=units, pruning=pruning))
        sizes = ({**sketch, "sketch_size": size} for size in (8, 16, 32))
        records += [run(0.09, kept=units, pruning=pruning, **one) for one in sizes]
    (figure,) = setting_figures(records)
    shared = figure.panels[1].lines
    assert len(shared) == 4
    assert {y for line in shared for y in line.y} == {100.0}


def test_a_sketch_without_exact_statistics_or_errors_beside_it_is_shown_by_what_there_is():
    sketch = {"statistics": "sketch", "sketch": "gaussian"}
    attention = PruningConfig(kinds="attention")
    sites = [{"layer": 0, "kind": "attention", "relative_error": 0.1}]
    records = [
        replace(run(0.1, pruning=attention, sketch_size=size, **sketch), site_errors=sites)
        for size in (8, 16, 32)
    ]
    (figure,) = setting_figures(records)
    assert [panel.title for panel in figure.panels] == ["KL from dense (nats)"]
    assert "pico on reviews: KL from dense (nats) against the rows of the sketch" in figure.caption
    assert len(draw(figure).axes) == 1


def test_units_of_which_none_is_kept_have_no_share_in_common():
    sketch = {"statistics": "sketch", "sketch": "gaussian"}
    records = [run(0.1, kept=(), error=None, sketch_size=size, **sketch) for size in (8, 16, 32)]
    (figure,) = setting_figures([run(0.1), *records])
    assert [panel.title for panel in figure.panels] == ["KL from dense (nats)"]


def test_a_task_without_kl_beside_one_that_has_it_makes_no_figure():
    config = make_config("regression")
    config.dataset.name = "scores"
    records = [run(0.1, examples=examples) for examples in (16, 32, 64)]
    for examples in (16, 32, 64):
        config.calibration = CalibrationConfig(examples=examples)
        scores = {"pearson": 0.8}
        records.append(make_record(scores, scores, config=config, fidelity={"mse_to_dense": 0.1}))
    (figure,) = setting_figures(records)
    assert figure.name == "figure_pico_reviews_kl_by_examples"


def test_a_layer_that_had_no_units_has_no_share_of_them():
    """As in a model that was pruned before, and lost all heads of a layer."""
    empty = {"heads": 0, "kept_heads": [], "neurons": 4, "kept_neurons": [1]}
    plan = {**PLAN, "layers": [*PLAN["layers"], empty]}
    records = [make_record(ratio=ratio, plan=plan) for ratio in (0.3, 0.5, 0.7)]
    (figure,) = layer_figures(records)
    assert [panel.title for panel in figure.panels] == ["STAT: neurons kept (%)"]


def test_an_error_is_of_the_runs_that_lose_something():
    records = []
    for ratio, seed in itertools.product((0.3, 0.5, 0.7), (0, 1)):
        error = None if (ratio, seed) == (0.3, 1) else ratio
        site = {"layer": 0, "kind": "ffn", "units": 4, "kept": 2, "relative_error": error}
        records.append(make_record(ratio=ratio, seed=seed, site_errors=[site]))
    errors = next(one for one in layer_figures(records) if one.name.endswith("_errors"))
    (line,) = errors.panels[0].lines
    assert line.y == (0.3, 0.5, 0.7)
    assert [len(runs) for runs in line.run_ids] == [1, 2, 2]


def test_what_is_not_finite_is_named_and_leaves_the_page_readable():
    kls = {16: 0.3, 32: math.inf, 64: 0.2, 128: math.nan}
    records = [run(kl, examples=examples) for examples, kl in kls.items()]
    outputs = study_outputs("made_up", records, {})
    (figure,) = (one for one in outputs.figures if one.name.endswith("_kl_by_examples"))
    (line,) = figure.panels[0].lines
    assert line.label == "STAT, 50 % of MACs kept; not finite at 32, 128"
    assert (line.x, line.y, line.low) == ((16, 64), (0.3, 0.2), (0.3, 0.2))
    assert len(line.run_ids) == 2
    json.dumps(study_page(outputs, records), allow_nan=False)
    (figure,) = setting_figures([run(math.inf, examples=examples) for examples in kls])
    assert figure.panels[0].lines[0].x == ()
    assert len(draw(figure).axes) == 1


def test_units_are_kept_by_what_the_ratio_is_a_share_of():
    for budget, words in (("macs", "MACs kept (%)"), ("latency", "time kept (%)")):
        records = [
            make_record(ratio=ratio, pruning=PruningConfig(budget=budget))
            for ratio in (0.3, 0.5, 0.7)
        ]
        assert {panel.y_label for panel in layer_figures(records)[0].panels} == {words}


def test_a_divergence_of_zero_is_drawn():
    configs = [make_config(calibration=CalibrationConfig(examples=n)) for n in (16, 32, 64)]
    records = [
        make_record(config=config, ratio=ratio, fidelity={"kl": ratio})
        for config in configs
        for ratio in (0.0, 0.5)
    ]
    (figure,) = setting_figures(records)
    assert draw(figure).axes[0].get_yscale() == "linear"


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
    axes = Drawing(figsize=(4, 4), layout="constrained").add_subplot()
    axes.plot([0, 1], [low, high])
    log_axis(axes)
    bottom, top = axes.get_ylim()
    shown = [tick for tick in axes.yaxis.get_majorticklocs() if bottom <= tick <= top]
    assert 3 <= len(shown) <= 13
