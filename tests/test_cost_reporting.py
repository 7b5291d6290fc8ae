"""Measured costs in tables and figures, from invented records."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_up_records import cost_entry, make_record, measured_record

from stat_repro import results
from stat_repro.reporting import styles
from stat_repro.reporting.canvas import draw, save
from stat_repro.reporting.costs import cost_points, cost_table, measured_runs
from stat_repro.reporting.figures import cost_figures
from stat_repro.results import RunRecord


def measured(*records: RunRecord) -> pd.DataFrame:
    return measured_runs(results.to_frame(records))


def test_a_row_says_how_close_time_comes_to_the_macs() -> None:
    frame = measured(measured_record(cost_entry(0.5, 1.25), cost_entry(0.5, 1.6, batch=32)))
    table = cost_table(frame).cells
    first, second = table.to_dict("records")
    assert first == {
        "model": "pico",
        "dataset": "reviews",
        "variant": "STAT",
        "device": "Pico 1, 2 threads",
        "ratio": "0.5",
        "batch": "1",
        "tokens": "128",
        "params (M)": "22.70 / 17.30",
        "size (MB)": "90.8 / 69.2",
        "MMACs per token": "10.00 / 6.00",
        "latency (ms)": "10.00 / 8.00",
        "tokens/s": "12800 / 16000",
        "peak memory (MB)": "90.0 / 70.0",
        "speed-up": "1.25 (1.15 to 1.45)",
        "ideal": "1.67",
        "bound": "2.00",
        "time / MACs removed (%)": "20 / 40",
        "runs": "1",
    }
    assert (second["batch"], second["speed-up"]) == ("32", "1.60 (1.50 to 1.80)")
    notes = cost_table(frame).notes
    assert "each model: 3 passes to warm up, then 20 timed" in notes


def test_runs_of_a_point_are_put_together_and_conditions_kept_apart() -> None:
    gpu = {"device": "cuda:0", "threads": 8, "processor": "Pico GPU"}
    elsewhere = {"processor": "Pico 2"}
    records = [
        measured_record(cost_entry(0.5, 1.2)),
        measured_record(cost_entry(0.5, 1.4), seed=1),
        measured_record(cost_entry(0.5, 3.0, **gpu), seed=2),
        measured_record(cost_entry(0.5, 1.5, **elsewhere), seed=3),
    ]
    points = cost_points(measured(*records)).set_index("device")
    together = points.loc["Pico 1, 2 threads"]
    assert together["n"] == 2
    assert together["speedup"] == pytest.approx(1.3)
    assert together["speedup_low"] == pytest.approx(1.1)
    assert together["speedup_high"] == pytest.approx(1.6)
    assert points.loc["Pico GPU"]["speedup"] == 3.0
    assert points.loc["Pico 2, 2 threads"]["speedup"] == 1.5


def test_csv_holds_the_numbers_in_the_units_of_the_record() -> None:
    table = cost_table(measured(measured_record(cost_entry(0.5, 1.25))))
    text = replace(table, notes=["a note"]).csv()
    assert text.startswith("# a note\nmodel,dataset,variant,ratio,")
    (row,) = pd.read_csv(io.StringIO(text), comment="#").to_dict("records")
    assert row["latency_s_pruned"] == pytest.approx(0.008)
    assert row["size_bytes_dense"] == 90_800_000
    assert row["ideal"] == pytest.approx(1 / 0.6)
    assert (row["warmup"], row["repeats"], row["prunable_share"]) == (3, 20, 0.8)


def test_figure_has_a_panel_per_condition_and_a_look_per_variant() -> None:
    records = [
        measured_record(
            cost_entry(1 - r, 1 + r), cost_entry(1 - r, 1 + r, 32), ratio=r, round_to=step
        )
        for r in (0.6, 0.3)
        for step in (1, 8)
    ]
    (data,) = cost_figures(measured(*records))
    assert data.name == "figure_pico_reviews_speedup"
    assert [panel.title for panel in data.panels] == [
        "batch 1, 128 tokens\nPico 1, 2 threads",
        "batch 32, 128 tokens\nPico 1, 2 threads",
    ]
    assert data.title == "Speed-up of pico"
    plain, rounded = data.panels[0].lines[2:]
    assert [plain.label, rounded.label] == ["STAT, round_to=1", "STAT, round_to=8"]
    assert plain.x == pytest.approx((52.0, 76.0))
    assert plain.y == pytest.approx((1.6, 1.3))
    assert plain.low == pytest.approx((1.5, 1.2))
    assert plain.high == pytest.approx((1.8, 1.5))
    # Without rounding it is what other studies show as STAT.
    assert plain.style == styles.variant_style("stat", "global", "lstsq", False, ())
    assert rounded.style.colour == plain.style.colour
    assert rounded.style.line != plain.style.line
    figure = draw(data)
    axes = figure.axes
    assert len(axes) == 2
    ideal, bound = axes[1].get_lines()[:2]
    assert ideal.get_ydata()[0] == pytest.approx(1 / 0.52)
    assert bound.get_ydata()[0] == pytest.approx(1 / 0.4)
    assert (ideal.get_ydata()[-1], bound.get_ydata()[-1]) == pytest.approx((1, 1))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[2:] == ["STAT, round_to=1", "STAT, round_to=8"]


def test_figure_is_the_same_every_time(tmp_path: Path) -> None:
    frame = measured(measured_record(cost_entry(0.5, 1.25)))
    for folder in ("a", "b"):
        (data,) = cost_figures(frame)
        save(draw(data), tmp_path / folder / data.name, data.records)
    for ending in ("pdf", "png"):
        name = f"figure_pico_reviews_speedup.{ending}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_records_of_before_have_no_measured_costs() -> None:
    assert measured(make_record()).empty
    assert len(measured(make_record(), measured_record(cost_entry(0.5, 1.2)))) == 1
