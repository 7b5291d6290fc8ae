"""Invented records for the tests of results, reporting and tracking; never stored in results/."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

from stat_repro.config import (
    CostConfig,
    DatasetConfig,
    ModelConfig,
    PruningConfig,
    RunConfig,
    run_id,
)
from stat_repro.results import RunRecord

PLAN = {
    "plan_version": 1,
    "method": "stat",
    "details": {},
    "layers": [{"heads": 2, "kept_heads": [0], "neurons": 4, "kept_neurons": [1, 3]}],
}


def make_config(task: str = "classification", study: str = "made_up", **changes: Any) -> RunConfig:
    name = "prose" if task == "language_modeling" else "reviews"
    settings: dict[str, Any] = {
        "model": ModelConfig(name="pico", path="somewhere"),
        "dataset": DatasetConfig(name=name, task=task, source="table"),
        "study": study,
    }
    return RunConfig(**(settings | changes))


def make_record(
    pruned: dict[str, Any] | None = None,
    dense: dict[str, Any] | None = None,
    *,
    config: RunConfig | None = None,
    ratio: float = 0.5,
    seed: int = 0,
    pruning: PruningConfig | None = None,
    fidelity: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
    **changes: Any,
) -> RunRecord:
    config = copy.deepcopy(config) if config is not None else make_config()
    config.ratio, config.seed = ratio, seed
    if pruning is not None:
        config.pruning = pruning
    values: dict[str, Any] = {
        "run_id": run_id(config),
        "status": "ok",
        "model": config.model.name,
        "dataset": config.dataset.name,
        "method": config.pruning.method,
        "ratio": ratio,
        "seed": seed,
        "mac_kept_fraction": 1 - ratio - 0.01,
        "param_kept_fraction": 1 - ratio,
        "metrics": {
            "dense": {"accuracy": 0.9} if dense is None else dense,
            "pruned": {"accuracy": 0.8} if pruned is None else pruned,
            "fidelity": {"kl": 0.02, "agreement": 0.95} if fidelity is None else fidelity,
            "protocol": protocol or {"task": config.dataset.task, "split": "test", "join": "\n"},
        },
        "timings": {"compress_s": 12.5},
        "costs": {"prunable_macs": {"dense": 100, "pruned": 49}, "sequence_length": 128},
        "memory": {"peak_bytes": 1 << 30},
        "site_errors": [{"layer": 0, "kind": "ffn", "error": 0.1}],
        "plan": {**PLAN, "method": config.pruning.method},
        "config": asdict(config),
        "provenance": {"commit": "c0ffee", "dirty": False},
    }
    return RunRecord(**(values | changes))


def make_failure(**changes: Any) -> RunRecord:
    error = {"type": "ValueError", "message": "it broke\nhere", "traceback": "..."}
    nothing: dict[str, Any] = {"mac_kept_fraction": None, "param_kept_fraction": None}
    nothing |= {"metrics": {}, "timings": {}, "costs": {}, "plan": {}, "site_errors": []}
    return make_record(**({"status": "failed", "error": error} | nothing | changes))


def sweep(accuracies: dict[float, list[float]], **changes: Any) -> list[RunRecord]:
    """One record per ratio and seed."""
    return [
        make_record({"accuracy": value}, ratio=ratio, seed=seed, **changes)
        for ratio, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def language_record(perplexity: float, **changes: Any) -> RunRecord:
    config = make_config("language_modeling")
    return make_record({"perplexity": perplexity}, {"perplexity": 50.0}, config=config, **changes)


def cost_entry(kept: float, speedup: float, batch: int = 1, **changes: Any) -> dict[str, Any]:
    """A measurement of a model that keeps this share of its prunable MACs; dense takes 10 ms."""
    whole, prunable = 10e6, 8e6
    macs = {"dense": whole, "pruned": whole - (1 - kept) * prunable}
    return {
        "batch_size": batch,
        "sequence_length": 128,
        "warmup": 3,
        "repeats": 20,
        "threads": 2,
        "device": "cpu",
        "processor": "Pico 1",
        "dtype": "float32",
        "macs_per_token": macs,
        "prunable_macs_per_token": {"dense": prunable, "pruned": kept * prunable},
        "latency_s": {"dense": {"median": 0.01}, "pruned": {"median": 0.01 / speedup}},
        "tokens_per_s": {"dense": 12800.0 * batch, "pruned": 12800.0 * batch * speedup},
        "speedup": {"median": speedup, "q25": speedup - 0.1, "q75": speedup + 0.2},
        "peak_memory_bytes": {"dense": 9e7, "pruned": 7e7},
    } | changes


def measured_record(*entries: dict[str, Any], round_to: int = 1, **changes: Any) -> RunRecord:
    config = make_config(cost=CostConfig(enabled=True), round_to=round_to)
    costs = {
        "params": {"dense": 22_700_000, "pruned": 17_300_000},
        "size_bytes": {"dense": 90_800_000, "pruned": 69_200_000},
        "measured": list(entries),
    }
    kept = {"param_kept_fraction": 17_300_000 / 22_700_000}
    return make_record(config=config, costs=costs, **(kept | changes))
