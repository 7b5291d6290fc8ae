"""The figures of recovery, from made-up records."""

import pytest
from made_up_records import language_record, make_config, make_record

from stat_repro.config import PruningConfig, RecoveryConfig
from stat_repro.reporting.canvas import draw
from stat_repro.reporting.figures import healing_figures
from stat_repro.reporting.outputs import study_outputs
from stat_repro.reporting.variants import with_variants
from stat_repro.results import to_frame


def healed(method, steps, after, *, recovery="distill", before=0.6, ratio=0.5, seconds=10.0):
    record = make_record(
        {"accuracy": after},
        config=make_config(recovery=RecoveryConfig(method=recovery, steps=steps)),
        pruning=PruningConfig(method=method),
        ratio=ratio,
        fidelity={"kl": 1 - after, "agreement": after},
        timings={"compress_s": 2.0, "recover_s": seconds},
    )
    record.metrics["before_recovery"] = {"accuracy": before, "kl": 1 - before}
    return record


def test_lines_go_from_the_pruned_model_through_the_budgets():
    records = [
        healed("stat", 40, 0.8, seconds=40.0),
        healed("stat", 10, 0.7),
        healed("random", 10, 0.4, before=0.1),
        healed("stat", 10, 0.75, recovery="finetune"),
        healed("stat", 10, 0.5, ratio=0.7),
    ]
    accuracy, kl = healing_figures(to_frame(records))
    assert accuracy.name == "figure_pico_reviews_accuracy_by_time"
    half, more = accuracy.panels
    assert (half.title, more.title) == ("50 % of MACs removed", "70 % of MACs removed")
    lines = {line.label: line for line in half.lines}
    assert sorted(lines) == ["STAT, distill", "STAT, finetune", "dense", "random, distill"]
    line = lines["STAT, distill"]
    assert line.x == (2, 12, 42)
    assert line.y == pytest.approx((60, 70, 80))
    assert [len(ids) for ids in line.run_ids] == [2, 1, 1]
    assert lines["STAT, finetune"].style.line != line.style.line
    assert lines["random, distill"].style.colour != line.style.colour
    assert lines["random, distill"].y == pytest.approx((10, 40))
    assert kl.panels[0].log
    assert {one.label for one in kl.panels[0].lines} == set(lines) - {"dense"}
    assert len(draw(accuracy).axes) == 2


def test_their_captions_say_where_seconds_do_not_compare():
    records = [healed("stat", 10, 0.7), healed("stat", 40, 0.8)]
    words = "Seconds of reviews (pico) are of several devices, which do not compare: cpu; cuda:0."
    for told, device in ((False, "cpu"), (True, "cuda:0")):
        for record, where in zip(records, ("cpu", device), strict=True):
            record.provenance["device"] = where
        assert all((words in one.caption) == told for one in healing_figures(to_frame(records)))


def test_a_study_of_recovery_has_them_in_place_of_those_by_macs():
    outputs = study_outputs("made_up", [healed("stat", 10, 0.7)], {})
    assert [figure.name.removeprefix("figure_pico_reviews_") for figure in outputs.figures] == [
        "accuracy_by_time",
        "kl_by_time",
    ]
    assert healing_figures(to_frame([make_record()])) == []


def test_another_learning_rate_is_another_line():
    records = [healed("stat", 10, 0.7), healed("stat", 10, 0.8)]
    records[1].config["recovery"]["learning_rate"] = 0.5
    accuracy, _ = healing_figures(to_frame(records))
    lines = {line.label: line.y[-1] for line in accuracy.panels[0].lines if line.x}
    assert lines.pop("STAT, recovery.learning_rate=0.5, distill") == pytest.approx(80)
    assert list(lines.values()) == pytest.approx([70])


def test_a_task_without_kl_beside_one_that_has_it_has_no_figure_of_it():
    scores = {"pearson": 0.8}
    recovery = RecoveryConfig(method="distill", steps=10)
    times = {"compress_s": 2.0, "recover_s": 9.0}
    config = make_config("regression", recovery=recovery)
    config.dataset.name = "scores"
    other = make_record(
        scores, scores, config=config, fidelity={"mse_to_dense": 0.1}, timings=times
    )
    other.metrics["before_recovery"] = {"pearson": 0.7, "mse_to_dense": 0.2}
    names = [one.name for one in healing_figures(to_frame([healed("stat", 10, 0.7), other]))]
    assert names == [
        *(f"figure_pico_reviews_{name}_by_time" for name in ("accuracy", "kl")),
        "figure_pico_scores_pearson_by_time",
    ]


def test_a_divergence_of_zero_has_its_place():
    _, kl = healing_figures(to_frame([healed("stat", 10, 0.7, before=1.0, ratio=0.0)]))
    assert not kl.panels[0].log
    assert kl.panels[0].lines[0].y == pytest.approx((0.0, 0.3))


def test_data_without_a_recovery_keep_their_figures():
    records = [healed("stat", 10, 0.7), language_record(61.5)]
    names = [figure.name for figure in study_outputs("made_up", records, {}).figures]
    assert names == [
        *(f"figure_pico_reviews_{name}_by_time" for name in ("accuracy", "kl")),
        *(f"figure_pico_prose_{name}" for name in ("perplexity", "kl")),
    ]


def test_what_belongs_to_a_kind_of_recovery_is_not_said_beside_it():
    runs = [
        healed("stat", steps, 0.7, recovery=kind)
        for kind in ("distill", "lora")
        for steps in (1, 2)
    ]
    for run in runs:
        run.config["recovery"]["learning_rate"] = {"distill": 1e-4, "lora": 1e-3}[
            run.config["recovery"]["method"]
        ]
    labels = set(with_variants(to_frame(runs))["variant"])
    assert labels == {
        f"STAT, {kind}, recovery.steps={steps}" for kind in ("distill", "lora") for steps in (1, 2)
    }
