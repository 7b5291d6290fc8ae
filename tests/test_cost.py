"""Counted and measured costs: oracles for MACs, bytes and memory; arithmetic of times."""

import json
import struct

import pytest
import torch
from pico_models import (
    LLAMA_NAMES,
    PICO_HEADS,
    REPRESENTATIVES,
    pico_model,
    random_plan,
    selection_edits,
)
from pico_project import sentence_overrides, text_overrides
from test_pipeline import compose_here
from torch import nn
from torch.profiler import ProfilerActivity, profile

from stat_repro.allocation.costs import prunable_costs
from stat_repro.config import ConfigError, CostConfig
from stat_repro.cost import compare, latency
from stat_repro.cost.compare import counted_costs, measured_costs, timed_length
from stat_repro.cost.count import size_bytes, whole_model_macs
from stat_repro.cost.latency import processor_name, spread, time_in_turns
from stat_repro.cost.memory import forward_bytes
from stat_repro.models.adapter import adapter_for
from stat_repro.run import pipeline
from stat_repro.run.sweep_cache import SweepCache
from stat_repro.surgery.edit import prune_model

CPU = torch.device("cpu")
VARIANTS = [
    *((name, head) for name, head in PICO_HEADS if head != "ForMultipleChoice"),
    *((name, "ForCausalLM") for name in LLAMA_NAMES),
]


def pruned_of(model, **choice):
    plan = random_plan(model, **choice)
    return prune_model(model, plan, selection_edits(model, plan))


# MACs


def linear_macs(model, length, once=()):
    """By hand: every Linear reads every token, except those of `once`, which read one position."""
    total = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            total += module.weight.numel() * (1 / length if name.endswith(once) else 1)
    return total


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [1, 23.6])
@pytest.mark.parametrize(
    ("name", "head", "once"),
    [
        ("bert", "ForSequenceClassification", ("pooler.dense", "classifier")),
        ("bert", "ForQuestionAnswering", ("none",)),
        ("distilbert", "ForSequenceClassification", ("pre_classifier", "classifier")),
        ("llama_grouped", "ForCausalLM", ("none",)),
        ("llama_tied", "ForCausalLM", ("none",)),
        ("mistral", "ForCausalLM", ("none",)),
        ("qwen2_mixed", "ForCausalLM", ("none",)),
        ("opt", "ForCausalLM", ("none",)),
        ("opt_post_norm", "ForCausalLM", ("none",)),
    ],
)
def test_whole_model_macs_are_those_counted_by_hand(name, head, once, length, attention):
    dense = pico_model(name, head, attention=attention)
    for model in (dense, pruned_of(dense)):
        products = sum(
            2 * site.columns * length for site in adapter_for(model).of_kind("attention")
        )
        expected = linear_macs(model, length, once) + products
        assert whole_model_macs(model, length) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "head"), VARIANTS)
def test_what_pruning_removes_from_the_whole_is_what_it_removes_from_the_prunable_part(name, head):
    dense = pico_model(name, head)
    pruned = pruned_of(dense, empty=[(1, "attention"), (2, "ffn")])
    whole = [whole_model_macs(model, 21.25) for model in (dense, pruned)]
    part = [prunable_costs(adapter_for(model), 21.25).macs for model in (dense, pruned)]
    assert whole[0] - whole[1] == pytest.approx(part[0] - part[1], rel=1e-12)
    assert whole[1] >= part[1]


def test_counted_costs_agree_with_the_plan():
    dense = pico_model("llama_grouped")
    plan = random_plan(dense, empty=[(0, "attention")])
    pruned = prune_model(dense, plan, selection_edits(dense, plan))
    costs = counted_costs(dense, pruned, 12.5)
    adapter = adapter_for(dense)
    for name, wanted in (("dense", None), ("pruned", plan)):
        prunable = prunable_costs(adapter, 12.5, wanted)
        assert costs["prunable_macs_per_token"][name] == prunable.macs
        assert costs["prunable_params"][name] == prunable.params
    assert costs["params"] == {"dense": dense.num_parameters(), "pruned": pruned.num_parameters()}
    assert costs["size_bytes"]["pruned"] < costs["size_bytes"]["dense"]


# Bytes


@pytest.mark.parametrize("name", ["bert", "distilbert", "llama_grouped", "llama_tied", "opt"])
@pytest.mark.parametrize("head", [None, "tied"])
def test_size_is_that_of_the_saved_file_without_its_header(name, head, tmp_path):
    head = {"bert": "ForMaskedLM", "distilbert": "ForMaskedLM"}.get(name) if head else None
    model = pico_model(name, head, dtype=torch.bfloat16)
    for which, one in (("dense", model), ("pruned", pruned_of(model))):
        one.save_pretrained(tmp_path / which)
        (path,) = (tmp_path / which).glob("*.safetensors")
        with path.open("rb") as file:
            (header,) = struct.unpack("<Q", file.read(8))
        assert size_bytes(one) == path.stat().st_size - 8 - header


class Known(nn.Module):
    """x (B, 8) to (B, 100), its relu, and back to (B, 8)."""

    def __init__(self):
        super().__init__()
        self.wide, self.back = nn.Linear(8, 100), nn.Linear(100, 8)

    def forward(self, x):
        return self.back(torch.relu(self.wide(x)))


def test_memory_of_a_pass_is_the_activations_that_live_together():
    model, x = Known(), torch.ones(5, 8)
    with torch.inference_mode():
        # The wide layer's output and its relu; the first is gone when the result is made.
        assert forward_bytes(lambda: model(x), CPU) == 2 * 5 * 100 * 4
        # Views and operations in place take nothing.
        assert forward_bytes(lambda: model.wide(x).relu_().view(-1)[7:].t(), CPU) == 5 * 100 * 4
        held = []
        assert forward_bytes(lambda: held.append(x + 1), CPU) == 5 * 8 * 4


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_memory_of_a_pass_agrees_with_the_allocator(name):
    model = pico_model(name)
    tokens = torch.ones(4, 16, dtype=torch.int64)

    @torch.inference_mode()
    def forward():
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens))

    forward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        forward()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert peak > 0
    # The allocator also sees what an operation takes for itself, which is little.
    assert forward_bytes(forward, CPU) == pytest.approx(peak, rel=0.03)


def test_memory_on_cuda_is_the_peak_of_the_allocator_above_what_was_there(monkeypatch):
    steps = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: steps.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda d: steps.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1234)
    assert forward_bytes(lambda: steps.append("forward"), torch.device("cuda:0")) == 234
    assert steps == ["wait", "reset", "forward", "wait"]


# Times


class Clock:
    """A clock that passes move on."""

    def __init__(self, monkeypatch):
        self.now = 50.0
        self.passes = []
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)

    def model(self, name, *seconds):
        """Passes that take these times in turn, again and again."""

        def forward():
            number = sum(1 for other in self.passes if other == name)
            self.passes.append(name)
            self.now += seconds[number % len(seconds)]

        return forward


def test_models_take_turns_and_warm_up_untimed(monkeypatch):
    clock = Clock(monkeypatch)
    models = [clock.model("dense", 9.0, 2.0, 4.0, 6.0), clock.model("pruned", 8.0, 1.0, 1.5, 2.0)]
    assert time_in_turns(models, CPU, warmup=1, repeats=3) == [[2.0, 4.0, 6.0], [1.0, 1.5, 2.0]]
    assert clock.passes == ["dense", "pruned"] * 4


def test_the_queue_of_an_accelerator_belongs_to_the_pass_that_filled_it(monkeypatch):
    clock = Clock(monkeypatch)
    queue = [5.0]  # work of before

    def wait(device):
        assert device.type == "cuda"
        clock.now += sum(queue)
        queue.clear()

    monkeypatch.setattr(latency, "synchronize", wait)
    times = time_in_turns([lambda: queue.append(3.0)], torch.device("cuda:0"), 0, 2)
    assert times == [[3.0, 3.0]]


def test_the_processor_that_was_timed_has_its_name(tmp_path, monkeypatch):
    described = tmp_path / "cpuinfo"
    described.write_text(
        "processor\t: 0\nmodel name\t: Pico: 1\nprocessor\t: 1\nmodel name\t: Pico: 1\n"
    )
    assert processor_name(CPU, described) == "Pico: 1"
    monkeypatch.setattr(latency.platform, "processor", lambda: "")
    monkeypatch.setattr(latency.platform, "machine", lambda: "arm64")
    assert processor_name(CPU, tmp_path / "nowhere") == "arm64"
    monkeypatch.setattr(latency.platform, "processor", lambda: "Pico 2")
    assert processor_name(CPU, tmp_path / "nowhere") == "Pico 2"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Pico {device}")
    assert processor_name(torch.device("cuda:1")) == "Pico cuda:1"


def test_spread_is_median_quartiles_and_minimum():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == {"median": 3.0, "q25": 2.0, "q75": 4.0, "min": 1.0}
    assert spread([2.0]) == {"median": 2.0, "q25": 2.0, "q75": 2.0, "min": 2.0}


def test_speedup_is_the_median_of_the_turns_with_its_quartiles(monkeypatch):
    # The ratio of the medians, 3, would be outside of the quartiles.
    times = [[4.0, 6.0, 8.0], [2.0, 2.0, 4.0]]
    monkeypatch.setattr(compare, "time_in_turns", lambda *arguments: times)
    dense = pico_model("bert")
    config = CostConfig(enabled=True, batch_sizes=[3], sequence_length=10, repeats=3)
    (entry,) = measured_costs(dense, pruned_of(dense), config, 99.0)
    # Turns: 2, 3, 2.
    assert entry["speedup"] == {"median": 2.0, "q25": 2.0, "q75": 2.5}
    assert entry["tokens_per_s"] == {"dense": 3 * 10 / 6.0, "pruned": 3 * 10 / 2.0}
    assert entry["latency_s"]["dense"] == {"median": 6.0, "q25": 5.0, "q75": 7.0, "min": 4.0}


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_measured_costs_say_under_what_conditions(name):
    dense = pico_model(name)
    pruned = pruned_of(dense)
    config = CostConfig(enabled=True, batch_sizes=[1, 4], warmup=1, repeats=3)
    entries = measured_costs(dense, pruned, config, 17.4)
    assert [entry["batch_size"] for entry in entries] == [1, 4]
    weights = {"dense": dense.get_memory_footprint(), "pruned": pruned.get_memory_footprint()}
    for entry in entries:
        conditions = {"sequence_length": 17, "warmup": 1, "repeats": 3, "threads": 1}
        conditions |= {"device": "cpu", "dtype": "float32", "processor": processor_name(CPU)}
        assert conditions.items() <= entry.items()
        assert entry["macs_per_token"]["dense"] == whole_model_macs(dense, 17)
        for which in ("dense", "pruned"):
            times = entry["latency_s"][which]
            assert 0 < times["min"] <= times["q25"] <= times["median"] <= times["q75"]
            held = entry["forward_memory_bytes"][which]
            assert entry["peak_memory_bytes"][which] == weights[which] + held
        held = entry["forward_memory_bytes"]
        assert 0 < held["pruned"] <= held["dense"]
        speedup = entry["speedup"]
        assert 0 < speedup["q25"] <= speedup["median"] <= speedup["q75"]
    assert entries[1]["forward_memory_bytes"]["dense"] > 2 * held["dense"] / 4


def test_a_length_beyond_the_positions_is_refused_before_the_work(tmp_path, monkeypatch):
    model = pico_model("bert")  # 40 positions
    assert timed_length(CostConfig(sequence_length=40), model, 99.0) == 40
    assert timed_length(CostConfig(), model, 22.6) == 23
    with pytest.raises(ConfigError, match="has 40 positions; got 41 tokens"):
        timed_length(CostConfig(sequence_length=41), model, 5.0)
    overrides = [*sentence_overrides(tmp_path), "cost=measured", "cost.sequence_length=41"]
    session = SweepCache()
    monkeypatch.setattr(session, "calibrated", lambda config: pytest.fail("worked first"))
    with pytest.raises(ConfigError, match="40 positions"):
        pipeline.run_experiment(compose_here(overrides), session)


# Records


def test_every_record_counts_and_only_an_asked_one_measures(tmp_path):
    config = compose_here([*sentence_overrides(tmp_path), "ratio=0.5"])
    record = pipeline.run_experiment(config, SweepCache()).record
    costs = record.costs
    assert "measured" not in costs
    for key in ("macs_per_token", "prunable_macs_per_token", "params", "size_bytes"):
        assert costs[key]["pruned"] < costs[key]["dense"]
    kept = costs["prunable_macs_per_token"]["pruned"] / costs["prunable_macs_per_token"]["dense"]
    assert kept == pytest.approx(record.mac_kept_fraction)
    whole = costs["macs_per_token"]
    assert whole["pruned"] / whole["dense"] > record.mac_kept_fraction
    assert whole["dense"] > costs["prunable_macs_per_token"]["dense"]


def test_a_measured_record_is_json_and_another_run(tmp_path):
    arguments = [*text_overrides(tmp_path), "ratio=0.3"]
    measured = ["cost=measured", "cost.batch_sizes=[1,2]", "cost.repeats=2", "cost.warmup=0"]
    config = compose_here(arguments, *measured)
    record = pipeline.run_experiment(config, SweepCache()).record
    entries = json.loads(record.to_json())["costs"]["measured"]
    assert [(e["batch_size"], e["sequence_length"]) for e in entries] == [(1, 16), (2, 16)]
    assert entries[0]["macs_per_token"] == record.costs["macs_per_token"]
    assert record.timings["cost_s"] > 0
    plain = pipeline.run_experiment(compose_here(arguments), SweepCache()).record
    assert record.run_id != plain.run_id
    assert record.metrics == plain.metrics


def test_measuring_comes_after_the_run_and_its_peak_memory(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(pipeline, "peak_memory", lambda device: order.append("memory") or {})
    monkeypatch.setattr(pipeline, "measured_costs", lambda *given: order.append("costs") or [])
    config = compose_here([*sentence_overrides(tmp_path), "cost=measured"])
    record = pipeline.run_experiment(config, SweepCache()).record
    assert order == ["memory", "costs"]
    stages = list(record.timings)
    assert stages.index("evaluate_s") < stages.index("cost_s") < stages.index("total_s")
