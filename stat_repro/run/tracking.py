"""Copies of the records on Weights & Biases. The record on disk is the result, the copy a view.

The record is stored before it is copied, and nothing is ever read back, so whatever goes wrong here
costs a line in the log and no run.
"""

import logging
import os
import uuid
from pathlib import Path
from typing import Any
from unittest.mock import patch

from stat_repro.config import TrackingConfig
from stat_repro.entry import line_of
from stat_repro.paths import cache_dir, project_root
from stat_repro.results.record import RunRecord
from stat_repro.results.store import flatten

_LOG = logging.getLogger(__name__)

_INIT_SECONDS = 60.0


def mirror(record: RunRecord, config: TrackingConfig) -> None:
    """Write a stored record to W&B, as `config.mode` says.

    `disabled` does not even import wandb. `offline` writes `wandb/offline-run-*` in the project
    root, which `wandb sync` can send later; it needs no login and opens no connection. `online`
    sends to the account that wandb is logged in to. Written or sent are config, provenance and plan
    sizes, and as summary all numbers of metrics, costs, timings and memory; no code, no machine
    statistics, no name of the machine, no console output.

    Args:
        record: The record, already stored.
        config: Mode, project and entity.
    """
    if config.mode == "disabled":
        return
    parent = project_root()
    # Also variables that wandb sets are gone afterwards: they would tie child processes to the
    # service of this one.
    try:
        with patch.dict(os.environ, _variables(config.mode, parent)):
            _write(record, config, parent)
    # No failure of any type may touch the stored run.
    except Exception as err:
        _LOG.warning(
            "Weights & Biases (tracking.mode=%s) failed for %s, whose record is stored and "
            "unaffected: %s. tracking=disabled turns the mirror off.",
            config.mode,
            record.run_id,
            line_of(err),
        )


def mirrored_config(record: RunRecord) -> dict[str, Any]:
    """The run's configuration on W&B, nested as in the record."""
    return {
        "run_id": record.run_id,
        "study": record.study,
        "status": record.status,
        "config": record.config,
        "provenance": record.provenance,
        "protocol": record.metrics.get("protocol", {}),
        "kept_heads": [len(layer.kept_heads) for layer in record.layers],
        "kept_neurons": [len(layer.kept_neurons) for layer in record.layers],
    }


def mirrored_summary(record: RunRecord) -> dict[str, Any]:
    """The results on W&B: the numbers of the record under names like `pruned/accuracy`."""
    summary: dict[str, Any] = {
        "mac_kept_fraction": record.mac_kept_fraction,
        "param_kept_fraction": record.param_kept_fraction,
    }
    groups: dict[str, Any] = {k: v for k, v in record.metrics.items() if k != "protocol"}
    measured = {f"batch_{one['batch_size']}": one for one in record.costs.get("measured", ())}
    costs = {**record.costs, "measured": measured}
    groups |= {"timings": record.timings, "costs": costs, "memory": record.memory}
    summary |= flatten(groups, "", "/")
    if record.error is not None:
        summary["error"] = f"{record.error['type']}: {record.error['message']}"
    return {name: value for name, value in summary.items() if name == "error" or _counts(value)}


def _counts(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _write(record: RunRecord, config: TrackingConfig, parent: Path) -> None:
    # Imported here: wandb reads the environment when it is imported, and takes most of a second.
    import wandb

    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=_INIT_SECONDS,
        login_timeout=_INIT_SECONDS,
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host="",  # else the machine's name
    )
    mode: Any = config.mode  # checked by the schema
    run = wandb.init(
        mode=mode,
        project=config.project,
        entity=config.entity,
        dir=str(parent),
        id=uuid.uuid4().hex[:8],  # else WANDB_RUN_ID would make all points of a sweep one run
        name=record.run_id,
        group=record.study,
        tags=[record.method, record.model, record.dataset],
        config=mirrored_config(record),
        settings=settings,
        reinit="finish_previous",
    )
    run.summary.update(mirrored_summary(record))
    run.finish(exit_code=0 if record.status == "ok" else 1)


def _variables(mode: str, parent: Path) -> dict[str, str]:
    """The environment of wandb, whose folders are made."""
    cache = cache_dir() / "wandb"
    variables = {
        # The mode as a variable too: the argument alone does not stop telemetry threads.
        "WANDB_MODE": mode,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(parent),
        # By default all of these are in the home folder.
        "WANDB_CACHE_DIR": str(cache / "cache"),
        "WANDB_DATA_DIR": str(cache / "data"),
        "WANDB_ARTIFACT_DIR": str(cache / "artifacts"),
    }
    if mode == "offline":
        # Online, the login may be in the default settings folder.
        variables["WANDB_CONFIG_DIR"] = str(cache / "config")
    for key, path in variables.items():
        if key.endswith("_DIR"):
            Path(path).mkdir(parents=True, exist_ok=True)
    (parent / "wandb").mkdir(exist_ok=True)
    return variables
