"""Whether a stored record agrees with itself: what was edited by hand must not reach a table."""

import math
from dataclasses import replace
from typing import Any

from stat_repro.config import run_id
from stat_repro.results.record import RunRecord, labels
from stat_repro.results.strict_json import RecordError

_DATA_FILES = ("train", "validation", "test", "path", "calibration_path")


def check_consistency(record: RunRecord) -> None:
    """Refuse a record whose keys, configuration, run id, plan and counts contradict each other.

    Raises:
        RecordError: Two of them differ; names the key.
        ConfigError: The configuration is not one of this version.
        PlanError: The plan contradicts itself.
    """
    for key, value in labels(record.typed_config).items():
        _same(key, value, getattr(record, key), "config")
    _check_run_id(record)
    if record.status == "ok":
        _check_plan(record)
        for key, counts in (
            ("mac_kept_fraction", "prunable_macs_per_token"),
            ("param_kept_fraction", "params"),
        ):
            if both := record.costs.get(counts):
                fraction = both["pruned"] / both["dense"]
                if not math.isclose(fraction, getattr(record, key), rel_tol=1e-9):
                    _same(key, fraction, getattr(record, key), f"costs.{counts}")


def _check_run_id(record: RunRecord) -> None:
    """The digest at its end counts only where the content of local files is known to the record.

    See `run.identity`: of those files only the model's folder leaves its hash in a record.
    """
    config = record.typed_config
    expected, got = run_id(config), record.run_id
    files = [getattr(config.dataset, key) for key in _DATA_FILES]
    if record.status == "failed" or any([*files, config.evaluation.zero_shot.include]):
        expected, got = (name.rpartition("-")[0] for name in (expected, got))
    if got == expected:
        return
    folder = replace(config.model, path=f"sha256:{record.provenance.get('base_model_hash')}")
    if got != run_id(replace(config, model=folder)):
        raise RecordError(f"run_id: expected {expected}, as in config; got {got}")


def _check_plan(record: RunRecord) -> None:
    layers = record.layers
    _same("plan.method", record.method, record.plan["method"], "method")
    if not layers:
        raise RecordError("plan.layers: expected an entry per layer; got none")
    kept = {"attention": [len(layer.kept_heads) for layer in layers]}
    kept["ffn"] = [len(layer.kept_neurons) for layer in layers]
    for site in record.site_errors:
        if "kept" in site:
            got = kept[site["kind"]][site["layer"]] if site["layer"] < len(layers) else None
            _same(f"plan.layers.{site['layer']}: {site['kind']}", site["kept"], got, "site_errors")


def _same(key: str, expected: Any, got: Any, other: str) -> None:
    if got != expected:
        raise RecordError(f"{key}: expected {expected}, as in {other}; got {got}")
