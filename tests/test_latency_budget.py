"""`pruning.budget=latency`: sizes that meet a share of the time, by tables that are made up."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from pico_models import pico_batches, pico_model

import stat_repro
from stat_repro.allocation.costs import BudgetError
from stat_repro.allocation.latency import LatencyTable
from stat_repro.config import ConfigError, PruningConfig, RunConfig, run_id
from stat_repro.cost import latency_table as measuring
from stat_repro.models.adapter import adapter_for
from stat_repro.plan import PruningPlan

METHODS = ("stat", "stat_plus", "flap", "fisher", "magnitude")


def compressed(ratio, method="stat", name="bert", **options):
    model = pico_model(name, dtype=torch.float64)
    batches = [
        {**batch, "labels": torch.arange(len(batch["input_ids"])) % 2}
        for batch in pico_batches(model, count=3)
    ]
    return stat_repro.compress(model, batches, ratio=ratio, method=method, **options)


def table(heads=lambda n: 6.0 * n, neurons=lambda n: float(n), rest=50.0, name="bert"):
    """One with these seconds for every number of units."""
    adapter = adapter_for(pico_model(name))
    whole = [adapter.site(0, kind).units for kind in ("attention", "ffn")]
    curves = [
        tuple((n, curve(n)) for n in range(units + 1))
        for units, curve in zip(whole, (heads, neurons), strict=True)
    ]
    units_s = adapter.num_layers * sum(points[-1][1] for points in curves)
    return LatencyTable(*curves, rest + units_s, {"processor": "made up"})


def time_of(result, times):
    return times.seconds(result.plan.head_counts, result.plan.neuron_counts)


@pytest.mark.parametrize("method", METHODS)
def test_a_table_in_proportion_to_the_macs_gives_the_plan_of_the_macs(method):
    usual = compressed(0.4, method)
    adapter = adapter_for(pico_model("bert"))
    length = usual.report.sequence_length
    head, neuron = (adapter.site(0, kind).unit_macs(length) for kind in ("attention", "ffn"))
    times = table(lambda n: 1e-9 * head * n, lambda n: 1e-9 * neuron * n)
    assert compressed(0.4, method, budget="latency", latency=times).plan.layers == usual.plan.layers


@pytest.mark.parametrize("kinds", ["all", "attention", "ffn"])
@pytest.mark.parametrize("method", METHODS)
def test_the_target_is_met_within_a_unit_where_times_have_steps_and_bends(method, kinds):
    # Neurons by fours, and the first head of a layer takes most of its time.
    times = table(lambda n: 20.0 * (n > 0) + 4.0 * n, lambda n: 4.0 * ((n + 3) // 4))
    result = compressed(0.3, method, budget="latency", latency=times, kinds=kinds, min_units=0)
    whole = times.seconds(*([site.units for site in adapter_for(pico_model("bert")).of_kind(kind)]
                            for kind in ("attention", "ffn")))  # fmt: skip
    assert 0 <= 0.7 * whole - time_of(result, times) < 28.0
    told = result.plan.details["latency"]
    assert told["target"] == pytest.approx((50.0 + 0.7 * whole) / (50.0 + whole))
    assert told["predicted"] == pytest.approx((50.0 + time_of(result, times)) / (50.0 + whole))
    assert told["measured_on"] == {"processor": "made up"}
    assert PruningPlan.from_json(result.plan.to_json()) == result.plan


def test_what_is_slow_goes_first():
    def plan(price):
        times = table(lambda n: price * n)
        return compressed(0.4, "stat_plus", budget="latency", latency=times).plan

    macs, slow, quick = compressed(0.4, "stat_plus").plan, plan(60.0), plan(0.5)
    assert sum(slow.neuron_counts) > sum(macs.neuron_counts) > sum(quick.neuron_counts)
    assert sum(quick.head_counts) > sum(macs.head_counts) >= sum(slow.head_counts)


def test_nothing_goes_at_ratio_0_and_too_much_is_told():
    assert compressed(0.0, budget="latency", latency=table()).report.mac_kept_fraction == 1.0
    with pytest.raises(BudgetError, match=r"ratio=0.99 with budget=latency: expected units that"):
        compressed(0.99, budget="latency", latency=table(), min_units=2)


def test_the_engine_of_layers_follows_the_same_table():
    times = table()
    plans = [
        compressed(0.4, budget="latency", latency=times, engine=engine).plan.layers
        for engine in ("model", "layers")
    ]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "gpt2", "modernbert"])
def test_the_table_is_measured_once_per_shape_and_the_model_stays(name, monkeypatch, tmp_path):
    """With a clock that counts the weights that are there: the numbers are exact."""
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path))
    model = pico_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    runs = []

    def clock(forwards, device, warmup, repeats):
        runs.append(forwards[0]())
        return [[1e-3 * model.num_parameters()] * repeats]

    monkeypatch.setattr(measuring, "time_in_turns", clock)
    adapter = adapter_for(model)
    times = measuring.latency_table(model, 2, 9, round_to=2)
    for kind, points in (("attention", times.heads), ("ffn", times.neurons)):
        site = adapter.site(1, kind)
        assert points[0] == (0, 0.0)
        assert points[-1][0] == site.units
        for units, seconds in points:
            assert seconds == pytest.approx(1e-3 * units * site.params_per_unit)
    assert times.dense_s == pytest.approx(1e-3 * model.num_parameters())
    assert times.measured_on["sequence_length"] == 9
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    done = len(runs)
    again = measuring.latency_table(model, 2, 9, round_to=2)
    assert (again, len(runs)) == (times, done)
    measuring.latency_table(model, 3, 9, round_to=2)
    assert len(runs) > done


def test_the_table_is_that_of_the_model_in_evaluation(monkeypatch, tmp_path):
    """And of its own shapes and windows; the model keeps its mode, and torch its random numbers."""
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path))
    runs = []

    def clock(forwards, device, warmup, repeats):
        forwards[0]()
        return [[1.0] * repeats]

    monkeypatch.setattr(measuring, "time_in_turns", clock)
    monkeypatch.setattr(measuring, "_TURNS", 1)
    model = pico_model("bert", "ForMultipleChoice").train()
    model.bert.encoder.register_forward_hook(lambda module, *_: runs.append(module.training))
    state = torch.random.get_rng_state()
    measuring.latency_table(model, 2, 9)
    assert (set(runs), model.training) == ({False}, True)
    assert torch.equal(torch.random.get_rng_state(), state)
    shape = {"head_dim": 12, "num_attention_heads": 3}  # so many units, as wide for the consumers
    for number, (name, changes) in enumerate([
        ("llama_grouped", {}),
        ("llama_grouped", shape),
        ("mistral", {}),
        ("mistral", {"sliding_window": 2}),
    ], start=2):  # fmt: skip
        measuring.latency_table(pico_model(name, **changes), 1, 9)
        assert len([*(tmp_path / "latency").glob("latency-????????????????")]) == number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": ()}, r"latency\.heads: expected units and seconds that rise from \(0, 0\) to"),
        ({"heads": ((0, 0.0), (2, 12.0))}, "largest layer's 4 units; got .*; choose a table of"),
        ({"heads": ((1, 0.0), (4, 12.0))}, r"latency\.heads: expected .*; got \(\(1, 0.0\),"),
        ({"neurons": ((0, 0.0), (20, float("nan")))}, r"latency\.neurons: expected .*20 units"),
        ({"neurons": ((0, 0.0), (20, 2.0), (10, 3.0))}, r"latency\.neurons: expected units"),
        ({"neurons": ((0, 0.0), (10, 2.0), (20, 1.0))}, r"latency\.neurons: expected units"),
        ({"dense_s": 0.0}, r"latency\.dense_s: expected seconds above 0; got 0\.0"),
    ],
)
def test_a_table_that_does_not_cover_the_model_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        compressed(0.3, budget="latency", latency=dataclasses.replace(table(), **change))


def test_widths_are_as_plans_have_them():
    assert measuring._grid(1536, 1, "ffn") == [0, 193, 385, 577, 769, 1153, 1536]
    assert measuring._grid(1536, 64, "ffn") == [0, 192, 384, 576, 768, 1152, 1536]
    assert measuring._grid(3, 1, "attention") == [0, 1, 2, 3]
    assert measuring._grid(5, 64, "ffn") == [0, 5]
    assert measuring._grid(0, 1, "attention") == [0]


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match="expected latency where latency_batch or"):
        PruningConfig(latency_batch=8)
    with pytest.raises(ConfigError, match="macs where authors_compat or neuron_mac_share"):
        PruningConfig(budget="latency", neuron_mac_share=0.5)
    with pytest.raises(ConfigError, match="budget=macs; got budget=latency"):
        PruningConfig(method="shortgpt", correction="none", min_units=0, budget="latency")
    with pytest.raises(ConfigError, match="latency: expected budget=latency beside a table"):
        compressed(0.4, latency=table())
    with pytest.raises(ConfigError, match=r"pruning\.latency_length: the model has \d+ positions"):
        compressed(0.4, budget="latency", latency_length=100_000)
    usual = RunConfig()
    timed = dataclasses.replace(usual, pruning=PruningConfig(budget="latency"))
    assert run_id(timed) != run_id(usual)


def test_stored_models_take_the_time_that_was_asked_for():
    """Within 5 %, on the machine that measured them; docs/findings.md prints both."""
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / "findings.md").read_text(encoding="utf-8")
    stored = [
        json.loads(path.read_text())
        for study in ("latency_minilm", "latency_smollm2")
        for path in sorted((root / "results" / study).glob("*.json"))
    ]
    shown = {}
    for record in stored:
        budget = record["config"]["pruning"]["budget"]
        heads, neurons = (
            sum(layer[f"kept_{kind}"] for layer in record["plan"]["layers"])
            for kind in ("heads", "neurons")
        )
        (measured,) = record["costs"]["measured"]
        share = 1 / measured["speedup"]["median"]
        asked = "-"
        if budget == "latency":
            target = record["plan"]["details"]["latency"]["target"]
            assert abs(share / target - 1) < 0.05, record["run_id"]
            asked = f"{100 * target:.1f} %"
        name = {"minilm": "MiniLM", "smollm2": "SmolLM2"}[record["model"]]
        by = "latency" if budget == "latency" else "MACs"
        shares = f"{100 * share:.1f} % | {100 * record['mac_kept_fraction']:.1f} %"
        row = f"| {name}, {100 * record['ratio']:g} % by {by} | {asked} | {shares} | "
        row += f"{heads} | {neurons:,} |"
        assert row in page, row
        shown[record["model"], record["ratio"], budget] = heads, neurons
    assert shown["smollm2", 0.2, "latency"] != shown["smollm2", 0.2, "macs"]
