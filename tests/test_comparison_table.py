"""Tables and figures of comparisons."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import made_up_examples as made
import numpy as np
import pandas as pd
from made_up_examples import compare, sentences

from stat_repro.config import METHOD_DEFAULTS
from stat_repro.reporting import bootstrap
from stat_repro.reporting.canvas import draw
from stat_repro.reporting.comparison import Comparison
from stat_repro.reporting.comparison_table import comparison_table
from stat_repro.reporting.figures import metric_figures


def test_cells_and_numbers_of_a_comparison() -> None:
    estimate = bootstrap.Estimate
    one = Comparison(
        **{"model": "pico", "dataset": "reviews", "task": "classification"},
        **{"reference": "STAT", "variant": "FLAP", "ratio": 0.5, "seeds": (0, 1)},
        **{"examples": 1605, "macs": -0.0004, "metric": estimate(-0.01234, -0.02, -0.001)},
        fidelity=estimate(0.012345, -0.001, 0.03),
        fidelity_ratio=estimate(1.25, 0.9, 1.5),
        agreement=estimate(0.0, 0.0, 0.0),
    )
    text = replace(
        one,
        **{"dataset": "prose", "task": "language_modeling", "agreement": None},
        metric=estimate(math.log(2), 0.0, math.log(4)),
    )
    left_out = replace(one, metric=None, fidelity=None, fidelity_ratio=None, left_out="why")
    table = comparison_table([one, text, left_out]).cells
    first, second, third = table.to_dict("records")
    assert first == {
        **{"model": "pico", "dataset": "reviews", "variant": "FLAP", "ratio": "0.5"},
        **{"seeds": "2", "examples": "1605", "MACs kept (points)": "-0.04"},
        **{"metric": "accuracy (%)", "difference": "-1.23 [-2.00, -0.10]*"},
        "KL difference": "+0.0123 [-0.00100, +0.0300]",
        "KL ratio": "1.25 [0.900, 1.50]",
        "agreement (points)": "+0.00 [+0.00, +0.00]",
        "left out": "-",
        "perplexity ratio": "-",
    }
    assert second["difference"] == "+0.693 [+0.00, +1.39]"
    assert second["perplexity ratio"] == "2.00 [1.00, 4.00]"
    assert second["agreement (points)"] == "-"
    assert (third["difference"], third["left out"]) == ("-", "why")
    noted = replace(comparison_table([one, text, left_out]), notes=["a, b"])
    read = pd.read_csv(io.StringIO(noted.csv()), comment="#")
    assert read["metric"].tolist() == ["accuracy", "nll", "accuracy"]
    assert read["metric_difference"].tolist()[:2] == [-0.01234, 0.693147]
    assert read["distance_ratio_high"].tolist()[:2] == [1.5, 1.5]
    assert math.isnan(read["metric_difference_low"][2])
    assert read["left_out"].tolist()[2] == "why"


def test_regression_is_compared_by_squared_errors() -> None:
    values = {
        name: np.array(v, dtype=np.float32)
        for name, v in (("squared_difference", [1, 2]), ("squared_error", [2, 4]))
    }
    worse = {**values, "squared_error": np.array([3, 5], dtype=np.float32)}
    runs = made.run(values, task="regression"), made.run(worse, "flap", task="regression")
    row = comparison_table(compare(*runs)).cells.iloc[0]
    assert row["metric"] == "squared error"
    assert row["difference"] == "+1.00 [+1.00, +1.00]*"
    assert row["squared difference ratio"] == "1.00 [1.00, 1.00]"
    assert "agreement (points)" not in row


def test_methods_of_one_study_stay_apart_in_figures() -> None:
    """Many variants: every series with its own look, and KL on a logarithmic axis."""
    runs = [
        made.run(sentences(i, 0.8, 0.05), method, ratio=ratio, fidelity={"kl": (i + 1) * ratio})
        for i, method in enumerate(METHOD_DEFAULTS)
        for ratio in (0.3, 0.5)
    ]
    runs += [made.run(sentences(9, 0.8, 0.05), pruning={"allocation": "uniform"})]
    frame = made.frame(runs)
    (data,) = (f for f in metric_figures(frame) if f.name == "figure_pico_reviews_kl")
    (panel,) = data.panels
    assert panel.log
    looks = {(s.style.colour, s.style.marker, s.style.line) for s in panel.lines}
    assert len(looks) == len(panel.lines) == len(METHOD_DEFAULTS) + 1
    figure = draw(data)
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(METHOD_DEFAULTS) + 1
    figure.draw_without_rendering()
    shown = legend.get_window_extent()
    assert shown.y1 < axes.get_window_extent().y0  # so that it hides no series
    assert shown.x0 >= figure.bbox.x0
    assert shown.x1 <= figure.bbox.x1
