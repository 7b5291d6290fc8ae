"""One experiment in process: sharing, provenance, refusals."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import torch
from pico_project import save_checkpoint, sentence_overrides, text_overrides
from test_config import compose_run
from transformers import AutoModelForSequenceClassification

from stat_repro.allocation.costs import BudgetError
from stat_repro.calibration.capture import collect_statistics
from stat_repro.config import METHODS, ConfigError
from stat_repro.data.errors import DataError
from stat_repro.models.adapter import UnsupportedModelError
from stat_repro.models.loading import ModelLoadError
from stat_repro.reporting import compare
from stat_repro.results import (
    find_record,
    load_records,
    read_examples,
    read_record,
    save_record,
)
from stat_repro.run.identity import identify
from stat_repro.run.pipeline import failed_record, output_folder, run_experiment, save_model
from stat_repro.run.sweep_cache import SweepCache


def compose_here(overrides, *more):
    return compose_run(*[o for o in overrides if not o.startswith("hydra.")], *more)


def run_one(config, session=None):
    return run_experiment(config, session or SweepCache()).record


def save_one(config):
    """Run and save as the command line does; the record and the folder."""
    experiment = run_experiment(config, SweepCache())
    folder = output_folder(config, experiment.record.run_id)
    save_model(config, experiment, folder)
    return experiment.record, folder


def findings(record):
    """What a record found, without what differs between two executions."""
    data = record.to_dict()
    return {key: data[key] for key in ("metrics", "plan", "costs", "mac_kept_fraction", "run_id")}


@pytest.mark.parametrize("overrides", [sentence_overrides, text_overrides])
def test_a_shared_session_finds_what_separate_runs_find(overrides, tmp_path):
    arguments = overrides(tmp_path)
    configs = [
        compose_here(arguments, f"ratio={r}", f"seed={s}") for s in (0, 1) for r in (0.2, 0.4)
    ]
    session = SweepCache()
    shared = [findings(run_one(config, session)) for config in configs]
    alone = [findings(run_one(config)) for config in configs]
    assert shared == alone
    assert len({str(found["plan"]) for found in shared}) == len(configs)


def test_sentences_longer_than_a_given_checkpoint_reads_are_refused_before_the_work(tmp_path):
    overrides = sentence_overrides(tmp_path)
    with pytest.raises(DataError, match=r"dataset.max_length: expected at most 40"):
        run_one(compose_here(overrides, "dataset.max_length=41"))


@pytest.mark.parametrize(
    ("overrides", "change"),
    [
        (sentence_overrides, "pruning.recipe=decoder"),
        (sentence_overrides, "pruning.balance_factor=50"),
        (sentence_overrides, "pruning.min_units=2"),
        (sentence_overrides, "pruning=stat_uniform"),
        (sentence_overrides, "pruning=stat_authors"),
        (sentence_overrides, "pruning.neuron_mac_share=0.9"),
        (sentence_overrides, "calibration.examples=9"),
        (sentence_overrides, "calibration.replacement=true"),
        (text_overrides, "pruning.recipe=encoder"),
        (text_overrides, "pruning.head_bonus=50"),
    ],
)
def test_options_that_move_the_plan(overrides, change, tmp_path):
    arguments = [*overrides(tmp_path), "ratio=0.5"]
    session = SweepCache()
    base = run_one(compose_here(arguments), session)
    changed = run_one(compose_here(arguments, change), session)
    assert changed.run_id != base.run_id
    assert changed.plan["layers"] != base.plan["layers"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("overrides", [sentence_overrides, text_overrides])
def test_every_method_runs_from_its_option(overrides, method, tmp_path):
    arguments = overrides(tmp_path)
    config = compose_here(arguments, f"pruning={method}", "ratio=0.3")
    if method == "shortgpt" and overrides is sentence_overrides:
        with pytest.raises(UnsupportedModelError, match="norms before"):
            run_one(config)
        return
    record = run_one(config)
    assert record.method == record.plan["method"] == method
    assert record.run_id.split("-")[2] == method
    assert record.mac_kept_fraction == pytest.approx(
        2 / 3 if method == "shortgpt" else 0.7, abs=0.01
    )
    assert record.metrics["fidelity"]["kl"] > 0
    json.dumps(record.to_dict(), allow_nan=False)


def test_a_session_over_methods_finds_what_separate_runs_find(tmp_path, monkeypatch):
    """Statistics are taken once, and the labels of one method are not seen by another."""
    calls = []
    monkeypatch.setattr(
        "stat_repro.api.collect_statistics",
        lambda *a, **k: calls.append(1) or collect_statistics(*a, **k),
    )
    arguments = [*sentence_overrides(tmp_path), "ratio=0.4"]
    names = ("flap", "random", "fisher", "magnitude", "stat")
    configs = [compose_here(arguments, f"pruning={name}") for name in names]
    session = SweepCache()
    shared = [findings(run_one(config, session)) for config in configs]
    assert len(calls) == 1
    assert shared == [findings(run_one(config)) for config in configs]


def test_random_units_follow_the_seed_of_the_run(tmp_path):
    arguments = [*sentence_overrides(tmp_path), "pruning=random", "ratio=0.5"]
    plans = [run_one(compose_here(arguments, f"seed={s}")).plan["layers"] for s in (0, 1, 0)]
    assert plans[0] == plans[2] != plans[1]


def test_labels_are_the_outputs_that_the_model_has_for_the_classes(tmp_path):
    """The checkpoint numbers the classes the other way round than the data."""
    arguments = sentence_overrides(tmp_path)
    names = {"id2label": {0: "up", 1: "down"}, "label2id": {"up": 0, "down": 1}}
    swapped = save_checkpoint(tmp_path / "swapped", "bert", **names)
    sets = []
    for path in (tmp_path / "bert", swapped):
        config = compose_here(arguments, f"model.path={path}", "pruning=fisher")
        sets.append(SweepCache().calibrated(config).examples)
    for batch, other in zip(*sets, strict=True):
        assert torch.equal(batch["input_ids"], other["input_ids"])
        assert torch.equal(batch["labels"], 1 - other["labels"])
    rows = SweepCache().dense(compose_here(arguments)).workload
    drawn = {}
    for batch in sets[0]:
        for ids, mask, label in zip(
            batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        ):
            drawn[tuple(ids[mask.bool()].tolist())] = int(label)
    part = rows.data.split("train")
    for text, label in zip(part["text"], part["label"], strict=True):
        ids = tuple(rows.tokenizer(text, truncation=True, max_length=16)["input_ids"])
        assert drawn.get(ids, label) == label
    assert len(drawn) > 30
    assert set(drawn.values()) == {0, 1}


def test_without_a_floor_a_layer_may_lose_its_attention(tmp_path):
    arguments = [*text_overrides(tmp_path), "ratio=0.75"]
    with pytest.raises(BudgetError, match="min_units=1"):
        run_one(compose_here(arguments), SweepCache())
    record = run_one(compose_here(arguments, "pruning=stat_no_floor"), SweepCache())
    assert 0 in [len(layer["kept_heads"]) for layer in record.plan["layers"]]
    assert record.metrics["pruned"]["perplexity"] > 1


@pytest.mark.parametrize(
    "change", ["pruning.ridge=0.1", "pruning.correction=none", "dataset.max_length=4"]
)
def test_options_that_move_the_result(change, tmp_path):
    arguments = sentence_overrides(tmp_path)
    base = run_one(compose_here(arguments), SweepCache())
    changed = run_one(compose_here(arguments, change), SweepCache())
    assert changed.metrics["fidelity"]["kl"] != base.metrics["fidelity"]["kl"]


@pytest.mark.parametrize("overrides", [sentence_overrides, text_overrides])
def test_a_run_with_a_sketch(overrides, tmp_path):
    """Repeatable with its seed; another kind, size or seed is another sketch."""
    arguments = [*overrides(tmp_path), "calibration.statistics=sketch", "ratio=0.4"]
    session = SweepCache()
    base = run_one(compose_here(arguments), session)
    assert findings(run_one(compose_here(arguments))) == findings(base)
    assert base.costs["calibration_tokens"] > 2 * 36  # tokens, not rows of a sketch
    errors = {str(base.site_errors)}
    for change in ("calibration.sketch=countsketch", "calibration.sketch_size=30"):
        record = run_one(compose_here(arguments, change), session)
        assert record.run_id != base.run_id
        errors.add(str(record.site_errors))
    assert len(errors) == 3


@pytest.mark.parametrize("change", ["calibration.statistics=exact", "calibration.batch_size=3"])
def test_options_that_must_not_move_the_plan(change, tmp_path):
    arguments = [*sentence_overrides(tmp_path), "dtype=float64"]
    base = run_one(compose_here(arguments), SweepCache())
    changed = run_one(compose_here(arguments, change), SweepCache())
    assert changed.plan["layers"] == base.plan["layers"]
    kl = base.metrics["fidelity"]["kl"]
    assert changed.metrics["fidelity"]["kl"] == pytest.approx(kl, rel=1e-4)


def test_evaluation_options(tmp_path):
    arguments = [*text_overrides(tmp_path), "dtype=bfloat16", "device=cpu"]
    config = compose_here(arguments, "evaluation.max_examples=3", "evaluation.batch_size=2")
    record = run_one(config)
    assert record.metrics["protocol"]["windows"] == 3
    assert record.provenance["dtypes"]["model"] == "bfloat16"
    validation = [*sentence_overrides(tmp_path / "s"), f"dataset.validation={tmp_path}/s/test.csv"]
    record = run_one(compose_here(validation, "evaluation.split=validation"), SweepCache())
    assert record.metrics["protocol"]["split"] == "validation"


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
    arguments, session, root = overrides(tmp_path), SweepCache(), tmp_path / "results"
    for options in itertools.product(("pruning=stat", "pruning=flap"), ("seed=0", "seed=1")):
        experiment = run_experiment(compose_here(arguments, *options, "ratio=0.4"), session)
        save_record(experiment.record, root, experiment.examples)
    records = load_records(root, "local")
    values = {r.run_id: read_examples(r, find_record(root, "local", r.run_id)) for r in records}
    (found,) = compare(records, values, resamples=100)
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


def test_code_in_a_model_folder_runs_only_when_asked_for(tmp_path):
    """A pruned folder under a foreign model type: refused, then loaded with trust_remote_code."""
    arguments = [*sentence_overrides(tmp_path), f"save_to={tmp_path / 'models'}"]
    _, folder = save_one(compose_here(arguments))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"stat_bert"', '"foreign_bert"'))
    code = folder / "modeling_stat.py"
    code.write_text(code.read_text().replace('"stat_bert"', '"foreign_bert"'))
    again = [*arguments, f"model.path={folder}", "save_to=null"]
    with pytest.raises(ModelLoadError, match="trust_remote_code"):
        SweepCache().dense(compose_here(again))
    dense = SweepCache().dense(compose_here(again, "model.trust_remote_code=true"))
    assert dense.loaded.model.config.model_type == "foreign_bert"


def test_session_calibrates_once_per_seed(tmp_path, monkeypatch):
    import stat_repro.run.sweep_cache as module

    calls = []
    original = module.calibrate
    monkeypatch.setattr(module, "calibrate", lambda *a, **k: calls.append(1) or original(*a, **k))
    session = SweepCache()
    arguments = sentence_overrides(tmp_path)
    for seed in (0, 1):
        for ratio in (0.2, 0.3, 0.4):
            run_one(compose_here(arguments, f"ratio={ratio}", f"seed={seed}"), session)
    assert len(calls) == 2


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


def test_a_bare_encoder_without_finetuning_is_refused(tmp_path):
    arguments = sentence_overrides(tmp_path)
    bare = save_checkpoint(tmp_path / "bare", "bert", head="Model")
    config = compose_here(arguments, f"model.path={bare}", "finetune=none")
    with pytest.raises(ConfigError, match="finetune=none"):
        SweepCache().dense(config)


def test_an_encoder_is_refused_for_perplexity(tmp_path):
    arguments = text_overrides(tmp_path)
    encoder = save_checkpoint(tmp_path / "encoder", "bert")
    with pytest.raises(ConfigError, match="no causal language model"):
        SweepCache().dense(compose_here(arguments, f"model.path={encoder}"))


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


def test_running_text_has_no_validation_part(tmp_path):
    with pytest.raises(ConfigError, match="only a test part"):
        compose_here(text_overrides(tmp_path), "evaluation.split=validation")


def test_a_folder_without_a_model_is_told(tmp_path):
    config = compose_here(sentence_overrides(tmp_path), f"model.path={tmp_path}")
    with pytest.raises(ModelLoadError, match=r"found no config\.json"):
        SweepCache().dense(config)


def test_a_moved_file_is_the_same_run(tmp_path):
    arguments = sentence_overrides(tmp_path)
    name = identify(compose_here(arguments))
    moved = tmp_path / "moved.csv"
    (tmp_path / "train.csv").rename(moved)
    assert identify(compose_here(arguments, f"dataset.train={moved}")) == name
    moved.write_text(moved.read_text() + "w1 w2,up\n")
    assert identify(compose_here(arguments, f"dataset.train={moved}")) != name


def test_a_missing_evaluation_part_is_told_first(tmp_path):
    config = compose_here(sentence_overrides(tmp_path), "evaluation.split=validation")
    with pytest.raises(ValueError, match="validation"):
        SweepCache().dense(config)


def test_pickled_weights_are_not_loaded(tmp_path):
    arguments = sentence_overrides(tmp_path)
    folder = tmp_path / "bert"
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="safetensors"):
        SweepCache().dense(compose_here(arguments))
