"""Tables and the numbers of figures."""

from __future__ import annotations

import io
import math
import statistics
from dataclasses import replace

import pandas as pd
import pytest
from made_up_records import language_record, make_config, make_failure, make_record, sweep

from stat_repro import results
from stat_repro.config import PruningConfig
from stat_repro.reporting import styles, task_table, variants
from stat_repro.reporting.canvas import draw
from stat_repro.reporting.figures import metric_figures
from stat_repro.reporting.points import aggregate, protocol_lines, record_lines
from stat_repro.reporting.tables import (
    Table,
    result_table,
    summary_table,
    to_document,
    to_latex,
    to_text,
)
from stat_repro.reporting.variants import ReportError


def test_seeds_are_put_together() -> None:
    values = [0.80, 0.82, 0.87]
    table = aggregate(results.to_frame(sweep({0.5: values, 0.3: [0.88]})))
    accuracy = table[table["quantity"] == "accuracy"].set_index("ratio")
    assert list(accuracy.index) == [0.3, 0.5]
    point = accuracy.loc[0.5]
    assert point["n"] == 3
    assert point["mean"] == pytest.approx(statistics.mean(values))
    assert point["std"] == pytest.approx(statistics.stdev(values))
    assert (point["low"], point["high"], point["dense"]) == (0.80, 0.87, 0.9)
    assert point["mac_kept"] == pytest.approx(0.49)
    assert math.isnan(accuracy.loc[0.3]["std"])


def test_variants_are_told_apart_and_labelled_by_what_differs() -> None:
    prunings = {
        "STAT, global, min_units=1": PruningConfig(),
        "STAT, global, min_units=0": PruningConfig(min_units=0),
        "STAT, uniform, min_units=1": PruningConfig(allocation="uniform"),
        "STAT, authors' script": PruningConfig(authors_compat=True, min_units=0),
    }
    records = [make_record(pruning=p, seed=seed) for p in prunings.values() for seed in (0, 1)]
    frame = variants.with_variants(results.to_frame(records))
    assert frame["variant"].tolist() == [label for label in prunings for _ in range(2)]
    table = aggregate(results.to_frame(records))
    assert set(table["n"]) == {2}


def test_one_variant_needs_no_settings_in_its_label() -> None:
    records = sweep({0.3: [0.8], 0.5: [0.7]})
    # Where and how fast a run went does not make another variant.
    records[0].config["device"], records[0].config["evaluation"]["batch_size"] = "cuda", 7
    assert set(variants.with_variants(results.to_frame(records))["variant"]) == {"STAT"}


def test_neutral_settings_are_those_of_the_run_id() -> None:
    neutral = variants.neutral_columns()
    frame = results.to_frame([make_record()])
    assert neutral <= set(frame.columns)
    same = {"study", "device", "tracking.mode", "calibration.batch_size", "ratio", "seed"}
    assert {f"config.{key}" for key in same} <= neutral
    telling = {"dtype", "calibration.examples", "pruning.ridge", "finetune.epochs", "model.path"}
    assert not {f"config.{key}" for key in telling} & neutral


def test_other_protocol_is_another_variant_unless_a_setting_explains_it() -> None:
    first = make_record(protocol={"examples": 10})
    changed = make_record(seed=1, protocol={"examples": 20})
    labels = variants.with_variants(results.to_frame([first, changed]))["variant"]
    assert labels.nunique() == 2
    assert all(label.startswith("STAT, protocol ") for label in labels)
    fewer = make_config()
    fewer.evaluation.max_examples = 20
    explained = make_record(config=fewer, protocol={"examples": 20})
    labels = variants.with_variants(results.to_frame([first, explained]))["variant"]
    assert labels.tolist() == [
        "STAT, evaluation.max_examples=none",
        "STAT, evaluation.max_examples=20",
    ]


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ReportError, match="at least one record"):
        aggregate(results.to_frame([]))
    with pytest.raises(ReportError, match="failed ones: pico"):
        aggregate(results.to_frame([make_failure()]))
    with pytest.raises(ReportError, match="accuracy: expected fractions"):
        aggregate(results.to_frame([make_record({"accuracy": 83.5})]))


def test_result_table_cells() -> None:
    records = sweep({0.3: [0.8, 0.9], 0.5: [0.7]}) + sweep(
        {0.5: [0.6]}, pruning=PruningConfig(allocation="uniform")
    )
    table = result_table(results.to_frame(records)).cells
    rows = table.set_index(["variant", "quantity"])
    spread = 100 * statistics.stdev([0.8, 0.9])
    row = rows.loc[("STAT, global", "accuracy (%)")]
    assert row["dense"] == "90.00"
    assert row["ratio 0.3"] == f"85.00 ± {spread:.2f} (n=2)"
    assert row["ratio 0.5"] == "70.00 (n=1)"
    row = rows.loc[("STAT, uniform", "accuracy (%)")]
    assert (row["ratio 0.3"], row["ratio 0.5"]) == ("-", "60.00 (n=1)")
    assert rows.loc[("STAT, global", "KL from dense (nats)")]["dense"] == "-"
    assert table["quantity"].iloc[0] == "accuracy (%)"


def test_values_that_are_not_finite_are_shown_and_not_averaged_away() -> None:
    records = [language_record(p, seed=i) for i, p in enumerate((60.0, math.inf))]
    records += [language_record(math.inf, ratio=0.7), language_record(math.nan, ratio=0.8)]
    table = result_table(results.to_frame(records)).cells
    row = table.set_index("quantity").loc["token perplexity"]
    assert row["ratio 0.5"] == "inf in 1 of 2"
    assert row["ratio 0.7"] == "inf (n=1)"
    assert row["ratio 0.8"] == "nan (n=1)"
    assert row["dense"] == "50.00"


def test_a_dense_score_that_is_undefined_was_measured() -> None:
    table = result_table(results.to_frame([make_record(dense={"accuracy": math.nan})]))
    assert table.cells["dense"].tolist()[:2] == ["nan", "-"]
    lines = [line for line in table.csv().splitlines() if "accuracy" in line or ",kl," in line]
    assert [line.split(",")[12] for line in lines] == ["nan", ""]


def test_value_that_was_not_measured_is_missing() -> None:
    record = make_record(fidelity={"kl": None, "agreement": 0.5})
    table = result_table(results.to_frame([record])).cells
    assert "KL from dense (nats)" not in set(table["quantity"])
    summary = summary_table(results.to_frame([record]))
    assert summary.iloc[0]["KL"] == "-"


def test_summary_has_the_columns_of_the_demo() -> None:
    records = [*sweep({0.3: [0.8, 0.9]}), language_record(61.5)]
    table = summary_table(results.to_frame(records))
    assert "variant" not in table.columns
    first, second = table.to_dict("records")
    assert second == {
        "model": "pico",
        "task": "reviews",
        "ratio": "0.3",
        "MACs kept": "69.00 %",
        "params kept": "70.00 %",
        "metric": "accuracy (%)",
        "dense": "90.00",
        "pruned": "85.00",
        "agreement": "95.00 %",
        "KL": "0.0200",
        "compress": "12.5 s",
        "runs": "2",
    }
    assert (first["task"], first["metric"], first["pruned"]) == (
        "prose",
        "token perplexity",
        "61.50",
    )
    lines = to_text(table).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("-----")
    assert len({line.index("reviews") for line in lines if "reviews" in line}) == 1


def test_csv_holds_the_numbers() -> None:
    frame = results.to_frame([*sweep({0.3: [0.8, 0.9]}), language_record(math.inf)])
    notes = ["protocol of reviews: x, y", "record abc"]
    text = replace(result_table(frame), notes=notes).csv()
    assert text.startswith("# protocol of reviews: x, y\n# record abc\nmodel,")
    read = pd.read_csv(io.StringIO(text), comment="#").set_index(["dataset", "quantity"])
    assert read.loc[("reviews", "accuracy")]["mean"] == pytest.approx(0.85)
    assert read.loc[("prose", "perplexity")]["mean"] == math.inf
    assert read.loc[("prose", "perplexity")]["dense"] == 50.0


def test_markdown_and_latex_spell_the_same_cells() -> None:
    table = pd.DataFrame([["m_1", "d|e", "v&w", "accuracy (%)", "8 ± 1"]])
    table.columns = ["model", "dataset", "variant", "quantity", "ratio 0.3"]
    spelled = Table("table", "title", table, ["note"], table, table)
    markdown = to_document(spelled)
    assert "| m_1 | d\\|e | v&w | accuracy (%) | 8 ± 1 |\n" in markdown
    assert markdown.startswith("# title\n")
    assert markdown.endswith("\n- note\n")
    latex = to_latex(spelled)
    assert r"m\_1 & d|e & v\&w & accuracy (\%) & 8 $\pm$ 1 \\" in latex
    assert latex.startswith("% title\n% note\n\\begin{tabular}{llllr}\n\\toprule\n")


def test_notes_name_protocol_and_records() -> None:
    records = [make_record(), language_record(60.0)]
    frame = results.to_frame(records)
    lines = protocol_lines(frame)
    assert lines == [
        'all: join="\\n", split="test"',
        'prose (pico): task="language_modeling"',
        'reviews (pico): task="classification"',
    ]
    assert protocol_lines(results.to_frame(records[:1])) == [
        'reviews (pico): join="\\n", split="test", task="classification"'
    ]
    ids = record_lines(frame)
    assert ids[0].startswith("2 records, sha256 of their sorted ids ")
    assert ids[1:] == [f"record {r.run_id}" for r in sorted(records, key=lambda r: r.run_id)]
    other = results.to_frame([records[0], language_record(60.0, seed=1)])
    assert record_lines(other)[0] != ids[0]


def test_figure_numbers() -> None:
    records = sweep({0.5: [0.7, 0.8], 0.3: [0.85, 0.87]})
    figures = metric_figures(results.to_frame(records))
    assert [figure.name.removeprefix("figure_pico_reviews_") for figure in figures] == [
        "accuracy",
        "kl",
    ]
    data = figures[0]
    assert data.title == "pico on reviews"
    assert 'split="test"' in data.caption
    assert "Mean of 2 calibration seeds" in data.caption
    (panel,) = data.panels
    assert panel.y_label == "accuracy (%)"
    assert not panel.log
    dense, series = panel.lines
    assert (dense.x, dense.y) == ((), (90.0,))
    assert set(dense.run_ids[0]) == {record.run_id for record in records}
    assert series.label == "STAT"
    assert series.x == pytest.approx((49.0, 69.0))
    assert series.y == pytest.approx((75.0, 86.0))
    assert series.low == pytest.approx((70.0, 85.0))
    assert series.high == pytest.approx((80.0, 87.0))
    assert [len(ids) for ids in series.run_ids] == [2, 2]
    assert set(series.run_ids[1]) == {r.run_id for r in records if r.ratio == 0.3}
    rows = data.table().set_index("series").loc["STAT"]
    assert rows["y"].tolist() == pytest.approx([75.0, 86.0])


def test_figure_of_perplexity_is_logarithmic_and_tells_what_it_leaves_out() -> None:
    records = [language_record(p, ratio=r) for p, r in ((60.0, 0.1), (90.0, 0.3), (math.inf, 0.5))]
    data = metric_figures(results.to_frame(records))[0]
    assert data.name == "figure_pico_prose_perplexity"
    assert "One calibration seed" in data.caption
    (panel,) = data.panels
    assert panel.log
    assert panel.lines[1].x == pytest.approx((69.0, 89.0))
    figure = draw(data)
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_title() == "pico on prose"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "dense",
        "STAT; not finite at 50 %",
    ]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["50", "70", "90"]
    dense = axes.get_lines()[0]
    assert list(dense.get_ydata()) == [50.0, 50.0]


def test_divergence_of_zero_is_drawn_on_a_linear_axis() -> None:
    records = [make_record(fidelity={"kl": kl}, ratio=r) for kl, r in ((0.0, 0.0), (0.1, 0.5))]
    data = metric_figures(results.to_frame(records))[1]
    assert data.name.endswith("_kl")
    (panel,) = data.panels
    assert not panel.log
    assert all(line.style != styles.DENSE for line in panel.lines)


def test_several_data_sets_of_a_model_share_a_figure_and_a_table() -> None:
    records = [*sweep({0.3: [0.8, 0.9]}), language_record(61.5, ratio=0.3)]
    figures = metric_figures(results.to_frame(records))
    assert [f.name for f in figures] == [f"figure_pico_{q}" for q in ("metric", "kl")]
    assert [panel.title for panel in figures[0].panels] == ["prose", "reviews"]
    assert [panel.y_label for panel in figures[0].panels] == ["token perplexity", "accuracy (%)"]
    points = task_table.task_points(results.to_frame(records))
    spelled = task_table.task_table(points)
    table = spelled.cells
    assert table[task_table.GROUP].tolist() == ["100", "70"]
    assert table["method"].tolist() == ["dense", "STAT"]
    assert table["reviews (accuracy)"].tolist() == ["90.0", "85.0 ± 7.1"]
    assert "another model" in spelled.notes[1]
    assert task_table.task_points(results.to_frame(records[:2])).empty
    latex = to_latex(replace(spelled, title="t", notes=[]))
    assert latex.startswith("% t\n\\begin{tabular}{lllrr}")
    assert latex.count("\\midrule") == 2
