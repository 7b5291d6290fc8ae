from __future__ import annotations

import io
import math
import statistics
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_up_records import language_record, make_config, make_failure, make_record, sweep

from stat_repro import config as schema
from stat_repro import reporting, results
from stat_repro.config import PruningConfig
from stat_repro.reporting import ReportError, styles, variants

ROOT = Path(__file__).parents[1]

# Aggregation


def test_seeds_are_put_together() -> None:
    values = [0.80, 0.82, 0.87]
    table = reporting.aggregate(results.to_frame(sweep({0.5: values, 0.3: [0.88]})))
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
    table = reporting.aggregate(results.to_frame(records))
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
        reporting.aggregate(results.to_frame([]))
    with pytest.raises(ReportError, match="failed ones: pico"):
        reporting.aggregate(results.to_frame([make_failure()]))
    with pytest.raises(ReportError, match="accuracy: expected fractions"):
        reporting.aggregate(results.to_frame([make_record({"accuracy": 83.5})]))


# Tables


def test_result_table_cells() -> None:
    records = sweep({0.3: [0.8, 0.9], 0.5: [0.7]}) + sweep(
        {0.5: [0.6]}, pruning=PruningConfig(allocation="uniform")
    )
    table = reporting.result_table(results.to_frame(records))
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
    table = reporting.result_table(results.to_frame(records))
    row = table.set_index("quantity").loc["token perplexity"]
    assert row["ratio 0.5"] == "inf in 1 of 2"
    assert row["ratio 0.7"] == "inf (n=1)"
    assert row["ratio 0.8"] == "nan (n=1)"
    assert row["dense"] == "50.00"


def test_value_that_was_not_measured_is_missing() -> None:
    record = make_record(fidelity={"kl": None, "agreement": 0.5})
    table = reporting.result_table(results.to_frame([record]))
    assert "KL from dense (nats)" not in set(table["quantity"])
    summary = reporting.summary_table(results.to_frame([record]))
    assert summary.iloc[0]["KL"] == "-"


def test_summary_has_the_columns_of_the_demo() -> None:
    records = [*sweep({0.3: [0.8, 0.9]}), language_record(61.5)]
    table = reporting.summary_table(results.to_frame(records))
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
    lines = reporting.to_text(table).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("-----")
    assert len({line.index("reviews") for line in lines if "reviews" in line}) == 1


def test_csv_holds_the_numbers() -> None:
    frame = results.to_frame([*sweep({0.3: [0.8, 0.9]}), language_record(math.inf)])
    text = reporting.to_csv(frame, ["protocol of reviews: x, y", "record abc"])
    assert text.startswith("# protocol of reviews: x, y\n# record abc\nmodel,")
    read = pd.read_csv(io.StringIO(text), comment="#").set_index(["dataset", "quantity"])
    assert read.loc[("reviews", "accuracy")]["mean"] == pytest.approx(0.85)
    assert read.loc[("prose", "perplexity")]["mean"] == math.inf
    assert read.loc[("prose", "perplexity")]["dense"] == 50.0


def test_markdown_and_latex_spell_the_same_cells() -> None:
    table = pd.DataFrame([["m_1", "d|e", "v&w", "accuracy (%)", "8 ± 1"]])
    table.columns = ["model", "dataset", "variant", "quantity", "ratio 0.3"]
    markdown = reporting.to_markdown(table, "title", ["note"])
    assert "| m_1 | d\\|e | v&w | accuracy (%) | 8 ± 1 |\n" in markdown
    assert markdown.startswith("# title\n")
    assert markdown.endswith("\n- note\n")
    latex = reporting.to_latex(table, "title", ["note"])
    assert r"m\_1 & d|e & v\&w & accuracy (\%) & 8 $\pm$ 1 \\" in latex
    assert latex.startswith("% title\n% note\n\\begin{tabular}{llllr}\n\\toprule\n")


def test_notes_name_protocol_and_records() -> None:
    records = [make_record(), language_record(60.0)]
    frame = results.to_frame(records)
    lines = reporting.protocol_lines(frame)
    assert lines == [
        'prose (pico): join="\\n", split="test", task="language_modeling"',
        'reviews (pico): join="\\n", split="test", task="classification"',
    ]
    ids = reporting.record_lines(frame)
    assert ids[0].startswith("2 records, sha256 of their sorted ids ")
    assert ids[1:] == [f"record {r.run_id}" for r in sorted(records, key=lambda r: r.run_id)]
    other = results.to_frame([records[0], language_record(60.0, seed=1)])
    assert reporting.record_lines(other)[0] != ids[0]


# Figures


def test_figure_numbers() -> None:
    records = sweep({0.5: [0.7, 0.8], 0.3: [0.85, 0.87]})
    data = reporting.figure_data(results.to_frame(records), "pico", "reviews", "accuracy")
    assert data is not None
    assert data.dense == (90.0,)
    assert data.y_label == "accuracy (%)\nsplit=test"
    assert not data.log
    (series,) = data.series
    assert series.label == "STAT"
    assert series.x == pytest.approx((49.0, 69.0))
    assert series.y == pytest.approx((75.0, 86.0))
    assert series.low == pytest.approx((70.0, 85.0))
    assert series.high == pytest.approx((80.0, 87.0))
    assert (series.ratios, series.n) == ((0.5, 0.3), (2, 2))
    assert reporting.figure_data(results.to_frame(records), "pico", "reviews", "f1") is None


def test_figure_of_perplexity_is_logarithmic_and_tells_what_it_leaves_out() -> None:
    records = [language_record(p, ratio=r) for p, r in ((60.0, 0.1), (90.0, 0.3), (math.inf, 0.5))]
    data = reporting.figure_data(results.to_frame(records), "pico", "prose", "perplexity")
    assert data is not None
    assert data.log
    assert data.series[0].ratios == (0.3, 0.1)
    assert data.series[0].left_out == (0.5,)
    axes = reporting.draw(data).axes[0]
    assert axes.get_yscale() == "log"
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        "dense",
        "STAT (n=1); not finite at 0.5",
    ]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["90\n(0.1)", "70\n(0.3)", "50\n(0.5)"]
    dense = axes.get_lines()[0]
    assert list(dense.get_ydata()) == [50.0, 50.0]


def test_divergence_of_zero_is_drawn_on_a_linear_axis() -> None:
    records = [make_record(fidelity={"kl": kl}, ratio=r) for kl, r in ((0.0, 0.0), (0.1, 0.5))]
    data = reporting.figure_data(results.to_frame(records), "pico", "reviews", "kl")
    assert data is not None
    assert not data.log
    assert data.dense == ()


def test_a_method_keeps_its_look() -> None:
    alone = reporting.figure_data(results.to_frame([make_record()]), "pico", "reviews", "accuracy")
    uniform = make_record(pruning=PruningConfig(allocation="uniform"))
    frame = results.to_frame([uniform, make_record()])
    both = reporting.figure_data(frame, "pico", "reviews", "accuracy")
    assert alone is not None
    assert both is not None
    assert [s.label for s in both.series] == ["STAT, global", "STAT, uniform"]
    assert both.series[0].style == alone.series[0].style
    assert both.series[0].style.colour != both.series[1].style.colour
    plain = styles.variant_style("stat", "global", "lstsq", False, ())
    other = styles.variant_style("stat", "global", "lstsq", False, ("min_units=0",))
    assert other.colour == plain.colour
    assert other.line != plain.line
    new = styles.variant_style("magnitude", "global", "none", False, ())
    assert new == styles.variant_style("magnitude", "global", "none", False, ())
    assert new.order > plain.order


def valid_forms(method: str) -> list[tuple[str, str]]:
    forms = []
    for allocation in schema.ALLOCATIONS:
        for correction in schema.CORRECTIONS:
            options = {**schema.METHOD_DEFAULTS[method]}
            options |= {"allocation": allocation, "correction": correction}
            with suppress(schema.ConfigError):
                PruningConfig(method=method, **options)
                forms.append((allocation, correction))
    return forms


def test_every_form_of_every_method_has_a_look_of_its_own() -> None:
    assert list(styles.METHOD_LABELS) == list(schema.METHODS)
    looks = [
        styles.variant_style(method, *form, False, ())
        for method in schema.METHODS
        for form in valid_forms(method)
    ]
    assert len(looks) == 10 + 6 + 6 * 15 + 1
    assert len({(look.colour, look.marker, look.line) for look in looks}) == len(looks)
    assert len({look.order for look in looks}) == len(looks)
    assert max(look.order for look in looks) < styles._OTHER_ORDER
    own = {
        method: styles.variant_style(
            method,
            schema.METHOD_DEFAULTS[method].get("allocation", "global"),
            schema.METHOD_DEFAULTS[method].get("correction", "lstsq"),
            False,
            (),
        )
        for method in schema.METHODS
    }
    assert len({look.colour for look in own.values()}) == len(own)
    assert len({look.marker for look in own.values()}) == len(own)
    assert {look.line for look in own.values()} == {"-"}


def test_whole_blocks_are_labelled_by_their_name_alone() -> None:
    blocks = PruningConfig(method="shortgpt", **schema.METHOD_DEFAULTS["shortgpt"])
    flap = PruningConfig(method="flap", correction="bias")
    records = [make_record(), make_record(pruning=blocks), make_record(pruning=flap)]
    data = reporting.figure_data(results.to_frame(records), "pico", "reviews", "accuracy")
    assert data is not None
    assert [series.label for series in data.series] == [
        "STAT",
        "FLAP",
        "ShortGPT",
    ]


def test_a_method_in_one_form_has_its_name_alone_if_that_is_the_form_of_its_paper() -> None:
    def labels(*prunings):
        records = [make_record(pruning=PruningConfig(**options)) for options in prunings]
        data = reporting.figure_data(results.to_frame(records), "pico", "reviews", "accuracy")
        return [series.label for series in data.series]

    flap = {"method": "flap", "correction": "bias"}
    plus = {"method": "stat_plus", "correction": "affine", "refit": True}
    assert labels({}, flap, plus) == ["STAT", "STAT+", "FLAP"]
    assert labels({}, {**flap, "correction": "affine"}) == ["STAT", "FLAP, affine"]
    assert labels({}, plus, {**plus, "refit": False}) == [
        "STAT",
        "STAT+",
        "STAT+, refit=false",
    ]
    fisher = {**plus, "curvature": "fisher"}
    assert labels({}, flap, plus, fisher) == ["STAT", "STAT+", "STAT+, curvature=fisher", "FLAP"]
    assert labels(plus, {**plus, "refit": False}) == ["STAT+", "STAT+, refit=false"]


def test_every_task_has_a_headline_with_a_style() -> None:
    assert set(styles.HEADLINE) == set(schema.TASKS)
    assert set(styles.HEADLINE.values()) <= set(styles.QUANTITIES)


def test_a_benchmark_says_which_of_its_metrics_comes_first() -> None:
    record = make_record()
    protocol = {**record.metrics["protocol"], "benchmark_metrics": ["matthews"]}
    scores = {key: {"accuracy": 0.8, "matthews": 0.5} for key in ("dense", "pruned")}
    cola = replace(record, metrics={**record.metrics, **scores, "protocol": protocol})
    table = reporting.summary_table(results.to_frame([cola]))
    assert table["metric"].tolist() == ["Matthews correlation"]
    table = reporting.summary_table(results.to_frame([record]))
    assert table["metric"].tolist() == ["accuracy (%)"]


def test_zero_shot_accuracies_are_shown_in_percent() -> None:
    assert styles.quantity_style("piqa_acc").label == "piqa accuracy (%)"
    assert styles.quantity_style("arc_easy_acc_norm").label == "arc_easy normalised accuracy (%)"
    assert styles.quantity_style("piqa_acc").scale == 100
    assert styles.quantity_style("accuracy").label == "accuracy (%)"
    assert styles.quantity_style("other").scale == 1


def test_names_become_file_names() -> None:
    record = replace(make_record(), model="org/model 1.5b", dataset="movie_reviews")
    frame = results.to_frame([record])
    data = reporting.figure_data(frame, "org/model 1.5b", "movie_reviews", "accuracy")
    assert data is not None
    assert data.name == "figure_org-model-1.5b_movie_reviews_accuracy"
