"""One experiment in process: its record, values per example and saved model."""

import hashlib
import itertools
import weakref

import numpy as np
import pytest
from pico_project import save_checkpoint, sentence_overrides, text_overrides, write_table
from pico_runs import compose_here, run_one, save_one
from transformers import AutoModelForSequenceClassification

from stat_repro.reporting.comparison import compare
from stat_repro.reporting.variants import study_frame
from stat_repro.results import (
    find_record,
    load_records,
    read_examples,
    read_record,
    save_record,
)
from stat_repro.run.identity import identify
from stat_repro.run.pipeline import failed_record, run_experiment
from stat_repro.run.sweep_cache import SweepCache


@pytest.mark.parametrize("overrides", [sentence_overrides, text_overrides])
def test_values_per_example_belong_to_the_record(overrides, tmp_path):
    config = compose_here(overrides(tmp_path), "ratio=0.5")
    experiment = run_experiment(config, SweepCache())
    record, data = experiment.record, experiment.examples
    path = save_record(record, tmp_path / "results", data)
    values = read_examples(read_record(path), path)
    named = record.provenance["examples"]
    assert named["sha256"] == hashlib.sha256(data).hexdigest()
    assert named["values"] == sorted(values)
    assert named["count"] == len(values["kl"])
    protocol = record.metrics["protocol"]
    assert named["count"] == protocol.get("examples", protocol.get("windows"))
    fidelity = {"kl": values["kl"].mean(), "agreement": values["agree"].mean()}
    assert fidelity == pytest.approx(record.metrics["fidelity"], rel=1e-6)
    again = run_experiment(config, SweepCache())
    assert again.examples == data


@pytest.mark.parametrize(
    ("overrides", "metric"), [(sentence_overrides, "accuracy"), (text_overrides, "nll")]
)
def test_comparison_of_methods_agrees_with_their_records(overrides, metric, tmp_path):
    arguments, cache, root = overrides(tmp_path), SweepCache(), tmp_path / "results"
    for options in itertools.product(("pruning=stat", "pruning=flap"), ("seed=0", "seed=1")):
        experiment = run_experiment(compose_here(arguments, *options, "ratio=0.4"), cache)
        save_record(experiment.record, root, experiment.examples)
    records = load_records(root, "local")
    values = {r.run_id: read_examples(r, find_record(root, "local", r.run_id)) for r in records}
    (found,) = compare(study_frame(records), values, resamples=100)
    assert (found.left_out, found.seeds) == (None, (0, 1))

    def mean(method, group, name):
        return np.mean([r.metrics[group][name] for r in records if r.method == method])

    for estimate, group, name in (
        (found.metric, "pruned", metric),
        (found.fidelity, "fidelity", "kl"),
        (found.agreement, "fidelity", "agreement"),
    ):
        expected = mean("flap", group, name) - mean("stat", group, name)
        assert estimate.value == pytest.approx(expected, abs=1e-6)
        assert estimate.low <= estimate.value <= estimate.high
    ratio = mean("flap", "fidelity", "kl") / mean("stat", "fidelity", "kl")
    assert found.fidelity_ratio.value == pytest.approx(ratio, rel=1e-5)


def test_values_per_example_can_be_switched_off(tmp_path):
    arguments = sentence_overrides(tmp_path)
    config = compose_here(arguments, "evaluation.keep_examples=false")
    assert identify(config) == identify(compose_here(arguments))
    experiment = run_experiment(config, SweepCache())
    assert experiment.examples is None
    assert experiment.record.provenance["examples"] is None
    path = save_record(experiment.record, tmp_path / "results", experiment.examples)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_saved_model_of_a_run_has_the_pruned_metrics(tmp_path):
    config = compose_here(sentence_overrides(tmp_path), f"save_to={tmp_path / 'models'}")
    record, folder = save_one(config)
    again = compose_here(
        sentence_overrides(tmp_path / "second" if (tmp_path / "second").mkdir() is None else None),
        f"model.path={folder}",
        "ratio=0",
    )
    reloaded = run_one(again)
    assert reloaded.metrics["dense"] == record.metrics["pruned"]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.num_parameters() == record.costs["params"]["pruned"]


def test_record_names_data_model_and_calibration(tmp_path):
    record = run_one(compose_here(sentence_overrides(tmp_path)), SweepCache())
    provenance = record.provenance
    assert {"train", "test", "calibration"} <= set(provenance["data_hashes"])
    assert len(provenance["model_hash"]) == 64
    assert provenance["finetuned"] is False
    assert provenance["dtypes"]["factorisation"] == "float64"
    assert record.costs["calibration_examples"] == 40
    assert len(record.site_errors) == 6


def test_failed_record_keeps_config_and_traceback(tmp_path):
    config = compose_here(sentence_overrides(tmp_path))
    try:
        raise RuntimeError("it broke")
    except RuntimeError as error:
        record = failed_record(config, "name", error)
    assert record.status == "failed"
    assert record.run_id == "name"
    assert record.error["message"] == "it broke"
    assert "test_pipeline" in record.error["traceback"]


def test_regression_from_a_bare_encoder(tmp_path, monkeypatch):
    """Fine-tuning, Pearson and Spearman, and the distance to the dense predictions."""
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))
    arguments = sentence_overrides(tmp_path)
    bare = save_checkpoint(tmp_path / "bare", "bert", head="Model")
    for name in ("train", "test"):
        table = tmp_path / f"{name}.csv"
        table.write_text(table.read_text().replace(",up", ",1.5").replace(",down", ",-0.5"))
    config = compose_here(
        arguments, f"model.path={bare}", "dataset.task=regression", "finetune.epochs=1"
    )
    record = run_one(config)
    assert set(record.metrics["pruned"]) == {"pearson", "spearman"}
    assert record.metrics["fidelity"]["mse_to_dense"] > 0
    assert record.provenance["finetuned"] is True
    assert record.provenance["model_hash"] != record.provenance["base_model_hash"]


def test_statistics_go_before_a_head_is_trained(tmp_path, monkeypatch, own_cache):
    arguments = sentence_overrides(tmp_path)
    bare = save_checkpoint(tmp_path / "bare", "bert", head="Model")
    arguments += [f"model.path={bare}", "finetune.epochs=1"]
    cache = SweepCache()
    kept = cache.calibrated(compose_here(arguments)).calibration
    other = write_table(tmp_path / "other.csv", 20, seed=2)
    same_head = compose_here(arguments, f"dataset.test={other}")
    assert cache.calibrated(same_head).calibration is kept
    gone = weakref.ref(kept)
    del kept
    trained = []

    def train(*args):
        trained.append(gone())
        return [0.0]

    monkeypatch.setattr("stat_repro.finetune.recipe.train", train)
    cache.dense(compose_here(arguments, f"dataset.train={other}"))
    assert trained == [None]
