"""Measured costs: times in turns, their spread, and what a record says of them."""

import json

import pytest
import torch
from pico_models import (
    REPRESENTATIVES,
    pico_model,
)
from pico_project import sentence_overrides, text_overrides
from pico_runs import compose_here
from pico_surgery import pruned_of

from stat_repro import measure
from stat_repro.config import ConfigError, CostConfig
from stat_repro.cost import compare, latency
from stat_repro.cost.compare import measured_costs, timed_length
from stat_repro.cost.count import whole_model_macs
from stat_repro.cost.latency import spread, time_in_turns
from stat_repro.measure import processor_name
from stat_repro.run import pipeline
from stat_repro.run.sweep_cache import SweepCache

CPU = torch.device("cpu")


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
    monkeypatch.setattr(measure.platform, "processor", lambda: "")
    monkeypatch.setattr(measure.platform, "machine", lambda: "arm64")
    assert processor_name(CPU, tmp_path / "nowhere") == "arm64"
    monkeypatch.setattr(measure.platform, "processor", lambda: "Pico 2")
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
    assert timed_length(40, model, 99.0) == 40
    assert timed_length(None, model, 22.6) == 23
    with pytest.raises(ConfigError, match="has 40 positions; got 41 tokens"):
        timed_length(41, model, 5.0)
    overrides = [*sentence_overrides(tmp_path), "cost=measured", "cost.sequence_length=41"]
    cache = SweepCache()
    monkeypatch.setattr(cache, "calibrated", lambda config: pytest.fail("worked first"))
    with pytest.raises(ConfigError, match="40 positions"):
        pipeline.run_experiment(compose_here(overrides), cache)


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
    monkeypatch.setattr(
        pipeline.measure, "peak_memory", lambda device: order.append("memory") or {}
    )
    monkeypatch.setattr(pipeline, "measured_costs", lambda *given: order.append("costs") or [])
    config = compose_here([*sentence_overrides(tmp_path), "cost=measured"])
    record = pipeline.run_experiment(config, SweepCache()).record
    assert order == ["memory", "costs"]
    stages = list(record.timings)
    assert stages.index("evaluate_s") < stages.index("cost_s") < stages.index("total_s")
