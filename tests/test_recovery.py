"""Recovery: the pruned model is trained, its sizes stay, and a killed one goes on."""

import copy
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from pico_models import pico_batches, pico_model, pico_outputs, random_plan, selection_edits
from pico_project import sentence_overrides, similarity_overrides, text_overrides
from pico_runs import compose_here, run_one, save_one
from torch.nn import functional
from transformers import AutoModelForCausalLM

from stat_repro.config import ConfigError, RecoveryConfig
from stat_repro.finetune import recovery
from stat_repro.finetune.loop import TrainingError
from stat_repro.finetune.recovery import recover
from stat_repro.run.identity import identify
from stat_repro.run.sweep_cache import SweepCache
from stat_repro.surgery.edit import prune_model

pytestmark = pytest.mark.usefixtures("own_cache")
CONFIG = RecoveryConfig(method="distill", steps=30, batch_size=4, learning_rate=1e-2)
METHODS = [
    "distill",
    "finetune",
    pytest.param(
        "lora",
        marks=pytest.mark.skipif(
            find_spec("peft") is None, reason="PEFT is one of the optional clients"
        ),
    ),
]


def pair(name, empty=(), head=None):
    """A dense model, the half of it, and batches with labels."""
    dense = pico_model(name, head)
    plan = random_plan(dense, empty=empty)
    batches = pico_batches(dense)
    if name == "bert" and head is None:
        batches = [{**batch, "labels": torch.tensor([0, 1, 1, 0])} for batch in batches]
    return dense, prune_model(dense, plan, selection_edits(dense, plan)), batches


def inputs_of(batch):
    return {key: value for key, value in batch.items() if key != "labels"}


def logits(model, batches):
    with torch.no_grad():
        return torch.cat([pico_outputs(model, inputs_of(batch)) for batch in batches])


def divergence(dense, model, batches):
    """Mean KL over the classes, or over the next tokens."""

    def rows(one):
        outputs = [(one(**inputs_of(b)).logits, b) for b in batches]
        return torch.cat(
            [out[b["attention_mask"].bool()] if out.ndim == 3 else out for out, b in outputs]
        )

    with torch.no_grad():
        p, q = (rows(one).log_softmax(-1) for one in (dense, model))
    return float(functional.kl_div(q, p, reduction="batchmean", log_target=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_no_steps_change_nothing(name, method):
    dense, pruned, batches = pair(name)
    before = logits(pruned, batches)
    facts = recover(dense, pruned, batches, "", replace(CONFIG, method=method, steps=0))
    assert facts["steps"] == facts["tokens"] == 0
    torch.testing.assert_close(logits(pruned, batches), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2", "llama_grouped"])
@pytest.mark.parametrize("empty", [(), [(1, "attention"), (2, "ffn")]])
def test_distilled_models_are_closer_and_as_small(name, empty):
    dense, pruned, batches = pair(name, empty)
    weights, shapes = dense.state_dict(), {k: v.shape for k, v in pruned.state_dict().items()}
    weights = {key: value.clone() for key, value in weights.items()}
    before = divergence(dense, pruned, batches)
    facts = recover(dense, pruned, batches, "", CONFIG)
    assert divergence(dense, pruned, batches) < 0.5 * before
    assert {k: v.shape for k, v in pruned.state_dict().items()} == shapes
    for key, value in dense.state_dict().items():
        assert torch.equal(value, weights[key])
    assert not any(module.training for module in pruned.modules())
    assert facts["steps"] == 30
    assert facts["examples"] == 30 * 4
    assert facts["tokens"] == 10 * sum(int(b["attention_mask"].sum()) for b in batches)


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_labels_are_learned(name, method):
    dense, pruned, batches = pair(name)
    shapes = {k: v.shape for k, v in pruned.state_dict().items()}
    labels = [batch.get("labels", batch["input_ids"]) for batch in batches]

    def loss():
        with torch.no_grad():
            pairs = zip(batches, labels, strict=True)
            return sum(float(pruned(**{**b, "labels": wanted}).loss) for b, wanted in pairs)

    before = loss()
    recover(dense, pruned, batches, "", replace(CONFIG, method=method))
    assert loss() < 0.9 * before
    assert {k: v.shape for k, v in pruned.state_dict().items()} == shapes
    assert all(parameter.requires_grad for parameter in pruned.parameters())


def test_merged_adapters_give_what_they_gave(monkeypatch):
    pytest.importorskip("peft")
    dense, pruned, batches = pair("llama_grouped")
    train, unmerged = recovery._train, []

    def and_look(dense, model, *more):
        facts = train(dense, model, *more)
        unmerged.append(logits(model, batches))
        return facts

    monkeypatch.setattr(recovery, "_train", and_look)
    before = logits(pruned, batches)
    recover(dense, pruned, batches, "", replace(CONFIG, method="lora"))
    torch.testing.assert_close(logits(pruned, batches), unmerged[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(unmerged[0], before, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_recovery_goes_on_where_it_was(method, monkeypatch, own_cache):
    config = replace(CONFIG, method=method)
    dense, whole, batches = pair("llama_grouped")
    expected = recover(dense, whole, batches, "", config)
    monkeypatch.setattr(recovery, "SAVE_SECONDS", 0.0)
    step, taken = recovery.Optimization.step, []

    def killed(self, loss, place):
        if len(taken) == 12:
            raise KeyboardInterrupt
        taken.append(place)
        return step(self, loss, place)

    dense, parts, batches = pair("llama_grouped")
    monkeypatch.setattr(recovery.Optimization, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        recover(dense, parts, batches, "", config)
    monkeypatch.setattr(recovery.Optimization, "step", step)
    assert len(list((own_cache / "recovery").iterdir())) == 1
    dense, parts, batches = pair("llama_grouped")
    monkeypatch.setattr(recovery, "SAVE_SECONDS", 1000.0)
    facts = recover(dense, parts, batches, "", config)
    torch.testing.assert_close(logits(parts, batches), logits(whole, batches), rtol=0, atol=0)
    for key in ("steps", "examples", "tokens"):
        assert facts[key] == expected[key]
    recovery.forget(facts["state"])
    assert not list((own_cache / "recovery").iterdir())


def test_a_state_of_other_labels_or_a_damaged_one_is_not_gone_on_with(
    monkeypatch, own_cache, caplog
):
    config = replace(CONFIG, method="finetune")
    monkeypatch.setattr(recovery, "SAVE_SECONDS", 0.0)
    dense, pruned, batches = pair("bert")
    start = copy.deepcopy(pruned.state_dict())
    recovery.forget(recover(dense, pruned, batches, "", config)["state"])
    expected = logits(pruned, batches)
    others = [{**batch, "labels": 1 - batch["labels"]} for batch in batches]

    def cut(content):
        return content[:50]

    def flipped(content):
        return content[:-9] + bytes([content[-9] ^ 64]) + content[-8:]

    for first, damage in ((others, None), (batches, cut), (batches, flipped)):
        pruned.load_state_dict(start)
        step = recovery.Optimization.step

        def stopped(self, *args, step=step):
            if self.done == 12:
                raise KeyboardInterrupt
            return step(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(recovery.Optimization, "step", stopped)
            with pytest.raises(KeyboardInterrupt):
                recover(dense, pruned, first, "", config)
        for kept in (own_cache / "recovery").iterdir() if damage else ():
            kept.write_bytes(damage(kept.read_bytes()))
        pruned.load_state_dict(start)
        recovery.forget(recover(dense, pruned, batches, "", config)["state"])
        assert torch.equal(logits(pruned, batches), expected)
    assert caplog.text.count("its state is damaged") == 2


def test_a_state_that_cannot_be_written_does_not_end_it(monkeypatch, own_cache, caplog):
    monkeypatch.setattr(recovery, "SAVE_SECONDS", 0.0)
    dense, pruned, batches = pair("bert")
    (own_cache / "recovery").parent.mkdir(parents=True, exist_ok=True)
    (own_cache / "recovery").write_text("a file in place of the folder")
    assert recover(dense, pruned, batches, "", replace(CONFIG, steps=3))["steps"] == 3
    assert "its state cannot be written" in caplog.text


def test_answers_are_distilled_without_their_padding():
    dense, pruned, batches = pair("bert", head="ForQuestionAnswering")
    before = logits(pruned, batches) - logits(dense, batches)
    recover(dense, pruned, batches, "", CONFIG)
    assert (logits(pruned, batches) - logits(dense, batches)).norm() < 0.7 * before.norm()


def test_numbers_are_distilled_as_they_are_whatever_the_temperature():
    wanted, got, mask = torch.tensor([[1.0]]), torch.tensor([[1.5]]), torch.ones(1, 2).bool()
    for temperature in (1.0, 4.0):
        assert float(recovery._divergence(wanted, got, mask, temperature)) == 0.25


def test_hidden_states_have_to_count_where_there_is_nothing_else():
    dense, pruned, batches = pair("bert", head="Model")
    with pytest.raises(ConfigError, match=r"recovery\.hidden_weight: expected more than 0"):
        recover(dense, pruned, batches, "", replace(CONFIG, hidden_weight=0.0))


def test_a_loss_that_is_not_finite_ends_it():
    dense, pruned, batches = pair("bert")
    with pytest.raises(TrainingError, match=r"got nan in step .* of the recovery \(learning_rate"):
        recover(dense, pruned, batches, "", replace(CONFIG, learning_rate=1e30))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("overrides", [sentence_overrides, text_overrides])
def test_a_run_records_both_sides_of_it(overrides, method, tmp_path):
    small = [f"recovery={method}", "recovery.steps=3", "recovery.batch_size=8"]
    arguments = [*overrides(tmp_path), f"save_to={tmp_path / 'models'}"]
    plain = run_one(compose_here(arguments))
    record, folder = save_one(compose_here([*arguments, *small]))
    before = plain.metrics["pruned"] | plain.metrics["fidelity"]
    assert record.metrics["before_recovery"] == before
    assert record.metrics["pruned"] | record.metrics["fidelity"] != before
    assert record.layers == plain.layers
    assert record.costs["recovery"]["steps"] == 3
    assert record.costs["recovery"]["examples"] <= 24
    assert record.timings["recover_cpu_s"] > 0
    assert 0 < record.timings["recover_s"] < record.timings["total_s"]
    assert f"(recovery `{method}`): 3 steps" in (folder / "README.md").read_text()
    if overrides is text_overrides:
        AutoModelForCausalLM.from_pretrained(folder)


def test_pairs_are_distilled(tmp_path):
    arguments = [*similarity_overrides(tmp_path), "recovery=distill", "recovery.steps=3"]
    assert run_one(compose_here(arguments)).metrics["before_recovery"]


def test_settings_of_no_recovery_name_no_other_run(tmp_path):
    arguments = sentence_overrides(tmp_path)
    assert identify(compose_here(arguments)) == identify(
        compose_here([*arguments, "recovery.steps=7"])
    )
    assert identify(compose_here(arguments)) != identify(
        compose_here([*arguments, "recovery=distill"])
    )


def test_batches_are_as_large_as_those_of_the_calibration(tmp_path):
    for overrides, size in ((sentence_overrides, 32), (text_overrides, 4)):
        config = compose_here([*overrides(tmp_path), "recovery=distill"])
        assert config.recovery.batch_size == config.dataset.calibration_batch_size == size


def test_bfloat16_that_would_do_nothing_is_refused(tmp_path):
    asked = [*text_overrides(tmp_path), "recovery=distill", "recovery.bfloat16=true"]
    assert compose_here(asked).recovery.bfloat16
    with pytest.raises(ConfigError, match=r"recovery\.bfloat16=true: expected dtype=float32"):
        compose_here([*asked, "dtype=float64"])


def test_adapters_need_their_package(monkeypatch, tmp_path):
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "peft", None)
    config = compose_here([*sentence_overrides(tmp_path), "recovery=lora"])
    monkeypatch.setattr(SweepCache, "dense", lambda *_: pytest.fail("after a head was trained"))
    with pytest.raises(ConfigError, match=r"expected the package peft; got none .* pip install"):
        run_one(config)
    monkeypatch.delitem(modules, "peft")
    (tmp_path / "peft.py").write_text("from transformers import HybridCache")  # a peft of 2025
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"got none that works .*HybridCache.* install --upgrade"):
        recovery.check_recovery(replace(CONFIG, method="lora"))
