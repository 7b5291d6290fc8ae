"""Compose the configuration as the command line does, in this process."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from stat_repro.config import (
    RunConfig,
    from_hydra,
)
from stat_repro.run import launchers

CONF = Path(__file__).resolve().parents[1] / "conf"


def compose_run(*overrides):
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    launchers.offer_missing()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)))
