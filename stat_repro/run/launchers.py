"""Hydra's launchers: clear messages if one is not installed or does not fit."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

# For every launcher of Hydra in `conf/launcher`: its package, and our extra that installs it.
_PLUGINS = {
    "joblib": ("hydra-joblib-launcher", "joblib"),
    "submitit_slurm": ("hydra-submitit-launcher", "slurm"),
    "submitit_local": ("hydra-submitit-launcher", "slurm"),
    "ray": ("hydra-ray-launcher", "ray"),
}
_MISSING = "missing launcher "
_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def offer_missing() -> None:
    """Let launchers that are not installed compose, so that `check` can say what they need."""
    for launcher, (package, _) in _PLUGINS.items():
        try:
            version(package)
        except PackageNotFoundError:
            node = {"_target_": f"{_MISSING}{launcher}"}
            ConfigStore.instance().store(group="hydra/launcher", name=launcher, node=node)


def check(config: DictConfig) -> None:
    """Refuse a sweep whose launcher cannot work.

    Args:
        config: Composed, with `hydra.launcher`.

    Raises:
        SystemExit: With the message.
    """
    target = config.hydra.launcher._target_
    if target.startswith(_MISSING):
        launcher = target.removeprefix(_MISSING)
        package, extra = _PLUGINS[launcher]
        # Ray's plugin replaces cloudpickle by one that the lock file's joblib does not accept.
        place = "a separate environment" if launcher == "ray" else "this environment"
        raise SystemExit(
            f"the launcher {launcher} needs {package}, which is not installed: "
            f"pip install -e '.[{extra}]' in {place}"
        )
    if several_processes() and target != _BASIC:
        raise SystemExit(
            "launcher: expected basic, because torchrun started several processes, which work on "
            f"one point together; got {target}"
        )


def several_processes() -> bool:
    """Whether torchrun, or something that sets its variables, started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
