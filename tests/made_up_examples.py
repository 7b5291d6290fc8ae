"""Invented runs with values per example, for the tests of comparisons; never stored in results/."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from made_up_records import make_config, make_record
from safetensors.numpy import load

from stat_repro import results
from stat_repro.config import METHOD_DEFAULTS, PruningConfig
from stat_repro.reporting.comparison import Comparison
from stat_repro.reporting.comparison import compare as compare_runs
from stat_repro.reporting.variants import study_frame
from stat_repro.results import RunRecord, example_files

# Two layers of four heads and a hundred neurons; shares of the MACs of one of each.
HEADS, NEURONS, HEAD, NEURON = 4, 100, 0.05, 0.003
HASHES = {"test": "t", "calibration": "c"}


def plan(heads: tuple[int, int], neurons: tuple[int, int], **details: Any) -> dict[str, Any]:
    """A plan that keeps so many units per layer."""
    return {
        "plan_version": 1,
        "method": "stat",
        "details": details,
        "layers": [
            {
                **{"heads": HEADS, "kept_heads": list(range(h))},
                **{"neurons": NEURONS, "kept_neurons": list(range(n))},
            }
            for h, n in zip(heads, neurons, strict=True)
        ],
    }


def run(
    values: dict[str, np.ndarray],
    method: str = "stat",
    *,
    heads: tuple[int, int] = (2, 2),
    neurons: tuple[int, int] = (50, 50),
    seed: int = 0,
    ratio: float = 0.5,
    task: str = "classification",
    model_hash: str = "m",
    hashes: dict[str, str] = HASHES,
    details: dict[str, Any] | None = None,
    pruning: dict[str, Any] | None = None,
    study: str = "made_up",
    **changes: Any,
) -> tuple[RunRecord, bytes]:
    """A run of a method that kept these units, and its values per example as a file."""
    data = example_files.encode_examples(values)
    options = METHOD_DEFAULTS[method] | (pruning or {})
    record = make_record(
        config=make_config(task, study),
        pruning=PruningConfig(method=method, **options),
        ratio=ratio,
        seed=seed,
        mac_kept_fraction=HEAD * sum(heads) + NEURON * sum(neurons),
        plan={**plan(heads, neurons, **(details or {})), "method": method},
        provenance={
            **{"model_hash": model_hash, "data_hashes": {**hashes, "calibration": f"c{seed}"}},
            "examples": example_files.describe_examples(data),
        }
        | changes.pop("provenance", {}),
        **changes,
    )
    return record, data


def sentences(seed: int, accuracy: float, kl: float, count: int = 400) -> dict[str, np.ndarray]:
    """Values of sentences; the same seed gives the same difficulty of every sentence."""
    hard = np.random.default_rng(0).random(count)
    noise = np.random.default_rng(seed + 1)
    return {
        "kl": (kl * (0.2 + hard) * noise.gamma(2.0, size=count) / 1.4).astype(np.float32),
        "correct": (hard + 0.1 * noise.normal(size=count) < accuracy).astype(np.uint8),
        "dense_correct": (hard < 0.85).astype(np.uint8),
        "agree": (noise.random(count) > kl).astype(np.uint8),
    }


def decoded(data: bytes) -> dict[str, np.ndarray]:
    """Values of an example file."""
    return load(data)


def frame(runs: list[tuple[RunRecord, bytes]]) -> pd.DataFrame:
    """One row per run."""
    return results.to_frame([record for record, _ in runs])


def compare(*runs: tuple[RunRecord, bytes], **options: Any) -> list[Comparison]:
    """Compare runs by their values per example."""
    values = {record.run_id: decoded(data) for record, data in runs}
    frame = study_frame([record for record, _ in runs])
    return compare_runs(frame, values, resamples=500, **options)
