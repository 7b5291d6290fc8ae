"""Labels, looks and headlines of methods and tasks in tables and figures."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pandas as pd
import pytest
from made_up_records import make_record

from stat_repro import config as schema
from stat_repro import results
from stat_repro.config import PruningConfig
from stat_repro.reporting import styles
from stat_repro.reporting.figure_data import Line
from stat_repro.reporting.figures import metric_figures
from stat_repro.reporting.tables import summary_table
from stat_repro.results import RunRecord


def variants_shown(*records: RunRecord) -> list[Line]:
    """The lines of the figure of the metric, without that of the dense model."""
    figure = metric_figures(results.to_frame(records))[0]
    return [line for line in figure.panels[0].lines if line.style != styles.DENSE]


def test_one_variant_is_shown_with_any_version_of_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without columns are no dicts in pandas 2, and empty ones in pandas 3."""
    whole = pd.DataFrame.to_dict

    def to_dict(frame: pd.DataFrame, orient: str) -> list[dict]:
        return whole(frame, orient) if len(frame.columns) else []

    monkeypatch.setattr(pd.DataFrame, "to_dict", to_dict)
    assert [line.label for line in variants_shown(make_record())] == ["STAT"]


def test_a_method_keeps_its_look() -> None:
    (alone,) = variants_shown(make_record())
    uniform = make_record(pruning=PruningConfig(allocation="uniform"))
    both = variants_shown(uniform, make_record())
    assert [s.label for s in both] == ["STAT, global", "STAT, uniform"]
    assert both[0].style == alone.style
    assert both[0].style.colour != both[1].style.colour
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
    looks = [
        styles.variant_style(method, *form, False, ())
        for method in schema.METHODS
        for form in valid_forms(method)
    ]
    assert len(looks) == 10 + 6 + 6 * 15 + 1
    assert len({(look.colour, look.marker, look.line) for look in looks}) == len(looks)
    assert len({look.order for look in looks}) == len(looks)
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
    assert [series.label for series in variants_shown(*records)] == [
        "STAT",
        "FLAP",
        "ShortGPT",
    ]


def test_a_method_in_one_form_has_its_name_alone_if_that_is_the_form_of_its_paper() -> None:
    def labels(*prunings):
        records = [make_record(pruning=PruningConfig(**options)) for options in prunings]
        return [series.label for series in variants_shown(*records)]

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
    table = summary_table(results.to_frame([cola]))
    assert table["metric"].tolist() == ["Matthews correlation"]
    table = summary_table(results.to_frame([record]))
    assert table["metric"].tolist() == ["accuracy (%)"]


def test_zero_shot_accuracies_are_shown_in_percent() -> None:
    assert styles.quantity_style("piqa_acc").label == "piqa accuracy (%)"
    assert styles.quantity_style("arc_easy_acc_norm").label == "arc_easy normalised accuracy (%)"
    assert styles.quantity_style("piqa_acc").scale == 100
    assert styles.quantity_style("accuracy").label == "accuracy (%)"
    assert styles.quantity_style("other").scale == 1


def test_names_become_file_names() -> None:
    record = replace(make_record(), model="org/model 1.5b", dataset="movie_reviews")
    data = metric_figures(results.to_frame([record]))[0]
    assert data.name == "figure_org-model-1.5b_movie_reviews_accuracy"
    assert data.title == "org/model 1.5b on movie reviews"
