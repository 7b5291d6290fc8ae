"""Hydra's launchers: all store the same records; what is missing or does not fit is told."""

import json
from importlib.metadata import PackageNotFoundError, version

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from pico_config import CONF
from pico_project import sentence_overrides
from ranks import command_in_ranks

from stat_repro.config import ConfigError, RunConfig
from stat_repro.config.torchrun import several_processes
from stat_repro.run import launchers

RANKS = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
RATIOS = {"basic": "0.3,0.5", "joblib": "0.3,0.5,1.5", "slurm_local": "0.3,0.5"}


@pytest.fixture(scope="module")
def sweeps(run, tmp_path_factory):
    """Commands and their records, by file name, of one sweep under every launcher that runs here.

    Under joblib it has one more point, which fails.
    """
    folder = tmp_path_factory.mktemp("launchers")
    overrides = sentence_overrides(folder)
    stored = {}
    for launcher, ratios in RATIOS.items():
        places = [f"results={folder / launcher}", f"hydra.sweep.dir={folder / launcher}/hydra"]
        chosen = ["-m", f"ratio={ratios}", f"launcher={launcher}"]
        done = run([*chosen, *overrides, *places], folder)
        files = (folder / launcher / "local").glob("*.json")
        stored[launcher] = done, {path.name: json.loads(path.read_text()) for path in files}
    return stored


@pytest.mark.parametrize("launcher", ["joblib", "slurm_local"])
def test_a_launcher_stores_what_basic_stores(launcher, sweeps):
    (first, expected), (second, found) = sweeps["basic"], sweeps[launcher]
    assert first.returncode == 0, first.stdout + first.stderr
    assert second.returncode == (launcher == "joblib"), second.stdout + second.stderr
    assert len(expected) == 2
    assert found.keys() == expected.keys()
    for name, record in found.items():
        for part in ("run_id", "metrics", "plan", "site_errors", "mac_kept_fraction", "error"):
            assert record[part] == expected[name][part], part
        hashes = ("data_hashes", "model_hash", "base_model_hash")
        for part in hashes:
            assert record["provenance"][part] == expected[name]["provenance"][part]


def test_the_parallel_launcher_gives_the_same_account(sweeps):
    done, records = sweeps["joblib"]
    assert done.returncode == 1
    assert {record["ratio"] for record in records.values()} == {0.3, 0.5}
    assert "1 of 3 points failed" in done.stdout
    assert "0 <= ratio < 1" in done.stdout


def composed(*overrides):
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def test_a_launcher_that_is_not_installed_says_what_to_install(monkeypatch):
    def only_others(package):
        if package == "hydra-ray-launcher":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(launchers, "version", only_others)
    launchers.offer_missing()
    config = composed("launcher=ray", "hydra.launcher.ray.init.address=auto")
    assert config.hydra.launcher.ray.init.address == "auto"
    with pytest.raises(SystemExit) as told:
        launchers.check(config)
    assert "ray needs hydra-ray-launcher, which is not installed" in str(told.value)
    assert "pip install hydra-ray-launcher in a separate environment" in str(told.value)


def test_slurm_gets_what_the_command_line_says():
    asked = ["launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=2"]
    launcher = composed(*asked).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node, launcher.timeout_min) == ("gpu", 2, 240)


def test_several_processes_take_one_point_at_a_time(monkeypatch):
    for name, value in RANKS.items():
        monkeypatch.setenv(name, value)
    launchers.check(composed())
    with pytest.raises(
        SystemExit, match="expected basic, because torchrun started several processes"
    ):
        launchers.check(composed("launcher=joblib"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["launcher=joblib", "hydra.launcher.n_jobs=0"], "expected a number of processes or -1"),
        (["launcher=slurm"], "expected the commands of Slurm"),
    ],
)
def test_launchers_that_cannot_work_are_refused_before_the_sweep(overrides, message, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=message):
        launchers.check(composed(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["launcher=slurm"], r"got short; choose launcher=slurm_cpu, or one of: gpu"),
        (["launcher=slurm", "hydra.launcher.partition=long"], r"got long; choose"),
        (["launcher=slurm", "hydra.launcher.partition=gpu"], None),
        (["launcher=slurm", "hydra.launcher.partition=unknown"], None),  # Slurm will say so
        (["launcher=slurm_cpu"], None),
    ],
)
def test_a_partition_without_gpus_is_named(overrides, message, tmp_path, monkeypatch):
    for name, text in (("srun", ""), ("sinfo", "short* (null)\\nlong (null)\\ngpu gpu:h100:4")):
        (tmp_path / name).write_text(f"#!/bin/sh\nprintf '{text}\\n'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    config = composed(*overrides)
    if message is None:
        launchers.check(config)
        return
    with pytest.raises(SystemExit, match=message):
        launchers.check(config)


@pytest.mark.parametrize(
    ("variables", "key"),
    [({"WORLD_SIZE": "abc"}, "WORLD_SIZE"), ({"WORLD_SIZE": "2"}, "RANK")]
    + [({**RANKS, name: value}, name) for name, value in (("RANK", "x"), ("MASTER_PORT", ""))],
)
def test_variables_that_torchrun_would_not_set_are_named(variables, key, monkeypatch):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{key}: expected what torchrun sets"):
        several_processes()


def test_commands_of_one_process_are_refused_under_torchrun_with_one_message(tmp_path):
    arguments = ["prune", "model", "--data", "mine.csv", "--out", str(tmp_path / "pruned")]
    ranks = command_in_ranks(arguments, tmp_path)
    assert [rank.returncode for rank in ranks] == [1, 1]
    said = [line for rank in ranks for line in rank.stderr.splitlines() if "expected" in line]
    assert len(said) == 1
    assert "expected one process; got several, as torchrun starts them; choose" in said[0]
