"""One experiment in process: sharing, and what every option changes."""

import json
from unittest.mock import Mock

import pytest
import torch
from pico_project import save_checkpoint, sentence_overrides, text_overrides, write_text
from pico_runs import compose_here, findings, run_one

from stat_repro.allocation.costs import BudgetError
from stat_repro.calibration.capture import collect_statistics
from stat_repro.config import METHODS, ConfigError
from stat_repro.finetune import recovery
from stat_repro.run import pipeline, sweep_cache
from stat_repro.run.identity import identify
from stat_repro.run.sweep_cache import SweepCache


@pytest.mark.parametrize("overrides", [sentence_overrides, text_overrides])
def test_a_shared_cache_gives_what_separate_runs_give(overrides, tmp_path):
    arguments = overrides(tmp_path)
    configs = [
        compose_here(arguments, f"ratio={r}", f"seed={s}") for s in (0, 1) for r in (0.2, 0.4)
    ]
    cache = SweepCache()
    shared = [findings(run_one(config, cache)) for config in configs]
    alone = [findings(run_one(config)) for config in configs]
    assert shared == alone
    assert len({str(found["plan"]) for found in shared}) == len(configs)


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
    cache = SweepCache()
    base = run_one(compose_here(arguments), cache)
    changed = run_one(compose_here(arguments, change), cache)
    assert changed.run_id != base.run_id
    assert changed.plan["layers"] != base.plan["layers"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("overrides", [sentence_overrides, text_overrides])
def test_every_method_runs_from_its_option(overrides, method, tmp_path):
    arguments = overrides(tmp_path)
    config = compose_here(arguments, f"pruning={method}", "ratio=0.3")
    record = run_one(config)
    assert record.method == record.plan["method"] == method
    assert record.run_id.split("-")[2] == method
    assert record.mac_kept_fraction == pytest.approx(
        2 / 3 if method == "shortgpt" else 0.7, abs=0.01
    )
    assert record.metrics["fidelity"]["kl"] > 0
    json.dumps(record.to_dict(), allow_nan=False)


def taken_statistics(monkeypatch):
    """A list that grows by one each time statistics are taken."""
    calls = []
    monkeypatch.setattr(
        "stat_repro.api.collect_statistics",
        lambda *a, **k: calls.append(1) or collect_statistics(*a, **k),
    )
    return calls


def test_a_cache_over_evaluated_texts_takes_statistics_once(tmp_path, monkeypatch):
    calls = taken_statistics(monkeypatch)
    arguments = [*text_overrides(tmp_path), "ratio=0.4"]
    tests = [write_text(tmp_path / f"test{seed}.txt", 200, seed) for seed in (7, 8)]
    configs = [compose_here(arguments, f"dataset.test={test}") for test in tests]
    configs.append(compose_here(arguments, f"dataset.train={tests[0]}", "calibration.examples=9"))
    cache = SweepCache()
    shared = [findings(run_one(config, cache)) for config in configs]
    assert len(calls) == 2
    assert shared == [findings(run_one(config)) for config in configs]
    assert len(calls) == 5


def test_a_cache_over_methods_gives_what_separate_runs_give(tmp_path, monkeypatch):
    """Statistics are taken once, and the labels of one method are not seen by another."""
    calls = taken_statistics(monkeypatch)
    arguments = [*sentence_overrides(tmp_path), "ratio=0.4"]
    names = ("flap", "random", "fisher", "magnitude", "stat")
    configs = [compose_here(arguments, f"pruning={name}") for name in names]
    cache = SweepCache()
    shared = [findings(run_one(config, cache)) for config in configs]
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
        sets.append(SweepCache().calibrated(config).examples.batches)
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
    assert 0 in [len(layer.kept_heads) for layer in record.layers]
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
    cache = SweepCache()
    base = run_one(compose_here(arguments), cache)
    assert findings(run_one(compose_here(arguments))) == findings(base)
    assert base.costs["calibration_tokens"] > 2 * 36  # tokens, not rows of a sketch
    errors = {str(base.site_errors)}
    for change in ("calibration.sketch=countsketch", "calibration.sketch_size=30"):
        record = run_one(compose_here(arguments, change), cache)
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


def test_the_cache_calibrates_once_per_seed(tmp_path, monkeypatch):
    import stat_repro.run.sweep_cache as module

    calls = []
    original = module.calibrate
    monkeypatch.setattr(module, "calibrate", lambda *a, **k: calls.append(1) or original(*a, **k))
    cache = SweepCache()
    arguments = sentence_overrides(tmp_path)
    for seed in (0, 1):
        for ratio in (0.2, 0.3, 0.4):
            run_one(compose_here(arguments, f"ratio={ratio}", f"seed={seed}"), cache)
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "bert/config.json"])
def test_files_that_change_during_a_sweep_are_read_again(name, tmp_path):
    config, cache = compose_here(sentence_overrides(tmp_path)), SweepCache()
    dense = cache.dense(config)
    assert cache.dense(config) is dense
    file = tmp_path / name
    file.write_text(file.read_text().replace("w1", "w2") + "\n")
    again = cache.dense(config)
    if name.endswith("csv"):
        part = name.removesuffix(".csv")
        assert again.workload.fingerprint[part] != dense.workload.fingerprint[part]
    else:
        assert again.base_hash != dense.base_hash


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "bert/model.safetensors"])
def test_files_that_change_while_a_run_reads_them_are_not_stored_under_its_name(
    name, tmp_path, monkeypatch
):
    config = compose_here(sentence_overrides(tmp_path))

    def change(*arguments):
        content = bytearray((tmp_path / name).read_bytes())
        content[12 if name.endswith("csv") else -3] ^= 1  # a word, or a weight
        (tmp_path / name).write_bytes(content)
        return read(*arguments)

    before = "load_data" if name.endswith("csv") else "within_positions"
    read = getattr(sweep_cache, before)
    monkeypatch.setattr(sweep_cache, before, change)
    with pytest.raises(ConfigError, match=r"expected files .* that stay as they are .* once more"):
        run_one(config)


def test_files_that_change_after_a_run_has_read_them_change_nothing(tmp_path, monkeypatch):
    config, rest = compose_here(sentence_overrides(tmp_path)), pipeline._compressed
    whole = run_one(config)

    def change(*arguments):
        for file in tmp_path.glob("*.csv"):
            file.write_text("\n".join(file.read_text().splitlines()[:-5]))
        return rest(*arguments)

    monkeypatch.setattr(pipeline, "_compressed", change)
    record = run_one(config)
    assert findings(record) == findings(whole)
    assert record.config == whole.config


def test_a_run_that_is_killed_after_its_recovery_does_not_train_again(
    tmp_path, monkeypatch, own_cache
):
    monkeypatch.setattr(recovery, "SAVE_SECONDS", 0.0)
    small = ["recovery=distill", "recovery.steps=3", "recovery.batch_size=8"]
    config, steps = compose_here([*sentence_overrides(tmp_path), *small]), []
    whole, step = run_one(config), recovery.Optimization.step
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_costs", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_one(config)
    monkeypatch.setattr(recovery.Optimization, "step", lambda *a: steps.append(1) or step(*a))
    record = run_one(config)
    assert not steps
    assert findings(record) == findings(whole)
    assert not list((own_cache / "recovery").iterdir())


def test_a_moved_file_is_the_same_run(tmp_path):
    arguments = sentence_overrides(tmp_path)
    name = identify(compose_here(arguments))
    moved = tmp_path / "moved.csv"
    (tmp_path / "train.csv").rename(moved)
    assert identify(compose_here(arguments, f"dataset.train={moved}")) == name
    moved.write_text(moved.read_text() + "w1 w2,up\n")
    assert identify(compose_here(arguments, f"dataset.train={moved}")) != name
