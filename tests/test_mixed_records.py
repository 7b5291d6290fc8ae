"""Runs of several dense models, data sets or devices are never put together unseen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_records import make_config, make_record, sweep

from stat_repro import results
from stat_repro.config import CalibrationConfig, DatasetConfig, FinetuneConfig, PruningConfig
from stat_repro.reporting.detail_figures import setting_figures
from stat_repro.reporting.figures import metric_figures
from stat_repro.reporting.outputs import study_outputs, write_outputs
from stat_repro.reporting.points import aggregate
from stat_repro.reporting.variants import ReportError, study_frame, with_variants
from stat_repro.results import RunRecord


def of_model(record: RunRecord, digit: str = "a", test: str = "f", **further: Any) -> RunRecord:
    hashes = {"calibration": f"{record.seed}", "test": test * 64}
    record.provenance.update(model_hash=digit * 64, data_hashes=hashes, **further)
    return record


def labels(records: list[RunRecord]) -> list[str]:
    return [str(label) for label in with_variants(results.to_frame(records))["variant"]]


def test_another_dense_model_is_another_variant_in_every_table() -> None:
    records = [of_model(one) for one in sweep({0.5: [0.8, 0.82, 0.87]})]
    assert set(labels(records)) == {"STAT"}
    of_model(records[2], "b")
    assert labels(records)[1:] == ["STAT, dense model aaaaaaaa", "STAT, dense model bbbbbbbb"]
    points = aggregate(results.to_frame(records))
    assert set(zip(points["variant"], points["n"], strict=True)) == {
        ("STAT, dense model aaaaaaaa", 2),
        ("STAT, dense model bbbbbbbb", 1),
    }


def test_other_data_are_another_variant_and_calibration_examples_are_not() -> None:
    records = [of_model(one) for one in sweep({0.5: [0.8, 0.82]})]
    of_model(records[1], test="0")
    assert all(label.startswith("STAT, data ") for label in labels(records))
    assert len(set(labels(records))) == 2


def test_contents_of_files_are_shown_where_files_of_one_name_differ() -> None:
    def of(*names: str) -> list[str]:
        files = [DatasetConfig(name="reviews", task="classification", train=one) for one in names]
        return labels([of_model(make_record(config=make_config(dataset=one))) for one in files])

    assert of("a.csv@0123456789", "b.csv@abcdefabcd") == [
        f"STAT, dataset.train={x}.csv" for x in "ab"
    ]
    # Older records say the name only.
    assert of("a.csv@0123456789", "a.csv") == ["STAT", "STAT"]
    assert of("a.csv@0123456789", "a.csv@abcdefabcd") == [
        "STAT, dataset.train=a.csv@0123456789",
        "STAT, dataset.train=a.csv@abcdefabcd",
    ]


def test_a_setting_that_makes_another_dense_model_is_shown_in_its_place() -> None:
    configs = [make_config(finetune=FinetuneConfig(seed=seed)) for seed in (0, 1)]
    records = [of_model(make_record(config=c), d) for c, d in zip(configs, "ab", strict=True)]
    assert labels(records) == ["STAT, finetune.seed=0", "STAT, finetune.seed=1"]


def test_a_text_that_cannot_be_seen_is_shown_as_json() -> None:
    """Else a line break would break the rows of every table."""
    records = []
    for join in ("\n", " ", "--"):
        config = make_config("language_modeling")
        config.dataset.join = join
        records.append(make_record({"perplexity": 9.0}, {"perplexity": 8.0}, config=config))
    labels = set(aggregate(results.to_frame(records))["variant"])
    assert labels == {f"STAT, dataset.join={text}" for text in ('"\\n"', '" "', "--")}


def test_a_line_joins_runs_of_one_dense_model_only() -> None:
    records = []
    for digit, examples in (("a", 16), ("a", 32), ("b", 64), ("b", 128)):
        config = make_config(calibration=CalibrationConfig(examples=examples))
        records.append(of_model(make_record(config=config), digit))
    # The number of calibration examples makes no other dense model.
    assert labels(records)[0] == "STAT, calibration.examples=16, dense model aaaaaaaa"
    (figure,) = setting_figures(study_frame(records))
    assert {line.label: line.x for line in figure.panels[0].lines} == {
        "STAT, dense model aaaaaaaa, 50 % of MACs kept": (16, 32),
        "STAT, dense model bbbbbbbb, 50 % of MACs kept": (64, 128),
    }


def test_seconds_of_several_devices_are_told() -> None:
    records = [of_model(one, device="cpu") for one in sweep({0.5: [0.8, 0.82]})]
    words = "seconds of reviews (pico) are of several devices, which do not compare: "
    for told in (False, True):
        outputs = study_outputs("made_up", records, {})
        assert all(any(words in note for note in one.notes) == told for one in outputs.tables)
        assert not any(words[1:] in one.caption for one in outputs.figures)  # they show no seconds
        of_model(records[1], device="cuda:0", gpu={"name": "Pico GPU 9"})
    assert f"{words}cpu; cuda:0, Pico GPU 9" in outputs.tables[0].notes


def test_two_runs_of_a_seed_are_refused_by_their_names() -> None:
    records = [make_record(run_id=name, seed=seed) for name, seed in (("x", 0), ("y", 1))]
    assert set(aggregate(results.to_frame(records))["n"]) == {2}
    records.append(make_record(run_id="z", seed=1))
    with pytest.raises(ReportError, match=r"seed: expected one run .* with seed 1; got y, z"):
        aggregate(results.to_frame(records))


def test_variants_with_one_ratio_each_are_side_by_side_only_where_it_is_the_same() -> None:
    stat, flap = sweep({0.5: [0.8]}), sweep({0.5: [0.7]}, pruning=PruningConfig(method="flap"))
    assert metric_figures(results.to_frame(stat + flap))[0].panels[0].kind == "rows"
    flap = sweep({0.7: [0.7]}, pruning=PruningConfig(method="flap"))
    (panel,) = metric_figures(results.to_frame(stat + flap))[0].panels
    assert (panel.kind, [tick for _, tick in panel.ticks]) == ("lines", ["50", "30"])


def test_files_of_an_earlier_build_go_and_others_stay(tmp_path: Path) -> None:
    outputs = study_outputs("made_up", [of_model(one) for one in sweep({0.5: [0.8]})], {})
    for name in ("table_comparison.md", "table_cost.sources.csv", "figure_gone.png", "notes.md"):
        (tmp_path / name).write_text("earlier")
    tables = write_outputs(outputs, tmp_path, figures=False)
    assert set(tmp_path.iterdir()) - set(tables) == {
        tmp_path / "figure_gone.png",
        tmp_path / "notes.md",
    }
    files = write_outputs(replace(outputs, figures=outputs.figures[:1]), tmp_path)
    assert set(tmp_path.iterdir()) - set(files) == {tmp_path / "notes.md"}


def test_a_share_of_time_is_not_called_one_of_macs() -> None:
    budgets = ("macs", "latency")
    made = [make_record(pruning=PruningConfig(budget=budget)) for budget in budgets]
    caption = metric_figures(results.to_frame(made))[0].caption
    assert " at 50 % of the prunable MACs or time of heads and neurons." in caption
