"""Hydra's launchers: clear messages if one is not installed or does not fit."""

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from stat_repro.config.torchrun import several_processes

# For every launcher of Hydra in `conf/launcher`: its package.
_PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}
_MISSING = "missing launcher "
_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def offer_missing() -> None:
    """Let launchers that are not installed compose, so that `check` can say what they need."""
    for launcher, package in _PLUGINS.items():
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
        package = _PLUGINS[launcher]
        # Ray's plugin replaces cloudpickle by one that the lock file's joblib does not accept.
        place = "a separate environment" if launcher == "ray" else "this environment"
        raise SystemExit(
            f"the launcher {launcher} needs {package}, which is not installed: "
            f"pip install {package} in {place}"
        )
    if config.hydra.launcher.get("n_jobs") == 0:
        raise SystemExit("hydra.launcher.n_jobs: expected a number of processes or -1; got 0")
    if target.endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise SystemExit(
            "launcher: expected the commands of Slurm (srun) on this machine; got none; "
            "choose launcher=slurm_local or joblib"
        )
    if target.endswith("SlurmLauncher"):
        if config.hydra.launcher.get("gpus_per_node"):
            _check_gpus(config.hydra.launcher.partition)
        _watch_queue_without_accounts()
    if several_processes() and target != _BASIC:
        raise SystemExit(
            "launcher: expected basic, because torchrun started several processes, which work on "
            f"one point together; got {target}"
        )


def _check_gpus(partition: str | None) -> None:
    """Refuse a partition of Slurm that has no GPUs, if Slurm says so."""
    asked = ["sinfo", "--noheader", "--format=%P %G"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip()]
    # The default partition is marked by a star.
    names = {name.rstrip("*") for name, _ in lines if name.rstrip("*") == partition} or {
        name.rstrip("*") for name, _ in lines if partition is None and name.endswith("*")
    }
    with_gpus = sorted({name.rstrip("*") for name, resources in lines if "gpu" in resources})
    if names and names.isdisjoint(with_gpus):
        raise SystemExit(
            "hydra.launcher.partition: expected one whose nodes offer GPUs to Slurm (gres), since "
            f"hydra.launcher.gpus_per_node is set; got {', '.join(names)}; choose "
            f"launcher=slurm_cpu, or one of: {', '.join(with_gpus) or 'none here'}"
        )


def _watch_queue_without_accounts() -> None:
    """Take the states of jobs from the queue if Slurm has no accounting database.

    submitit asks `sacct` alone. Where that fails or is not installed, it would wait for ever for a
    job that was cancelled or killed.
    """
    asked = ["sacct", "--noheader"]
    if shutil.which("sacct") and not subprocess.run(asked, capture_output=True).returncode:
        return
    from submitit.slurm import slurm

    class QueueWatcher(slurm.SlurmInfoWatcher):
        """A job that has left the queue is over, however it ended."""

        def _make_command(self) -> list[str] | None:
            waiting = self._registered - self._finished
            asked = ["squeue", "--array", "--noheader", "--format=%i|%T|%N"]
            return asked if waiting else None

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string if isinstance(string, str) else string.decode()
            names = ("JobID", "State", "NodeList")
            rows = [dict(zip(names, line.split("|"), strict=True)) for line in text.splitlines()]
            queue = {row["JobID"]: row for row in rows}
            over = {"State": "NOT IN THE QUEUE", "NodeList": ""}
            return {job: queue.get(job, {"JobID": job, **over}) for job in self._registered}

    slurm.SlurmJob.watcher = QueueWatcher(delay_s=30)
