"""Configurations without Hydra's program: composed from values, and written as its arguments."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import reduce
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stat_repro.config import ConfigError, RunConfig, from_hydra
from stat_repro.paths import config_dir, experiments_dir, project_root
from stat_repro.results.store import flatten
from stat_repro.run import launchers

# Keys that say where a run goes and not what it does, or that follow from others.
_LEFT_OUT = re.compile(r"tracking\..*|results|save_to|if_stored|.*\.(at_most|usual_length)")
# What Hydra reads as a text without quotation marks.
_PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_./][\w.@+/-]*", re.I | re.A)


def prepare() -> None:
    """What conf/config.yaml refers to, here and in the processes of a parallel launcher."""
    os.environ["STAT_REPRO_ROOT"] = str(project_root())
    os.environ["STAT_REPRO_EXPERIMENTS"] = str(experiments_dir())
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    launchers.offer_missing()


def options_of(group: str) -> list[str]:
    """Names of the options of a group of `conf/`."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def compose_run(groups: Mapping[str, str], values: Mapping[str, Any]) -> RunConfig:
    """The configuration of these options, with these values by dotted key.

    Raises:
        ConfigError: As `from_hydra`.
    """
    composed = _composed(groups)
    for key, value in values.items():
        try:
            OmegaConf.update(composed, key, value)
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{key}={value}: expected a key of the configuration and a value of its kind, such "
                f"as dataset.max_length=64; {str(error).partition(chr(10))[0]}"
            ) from None
    return from_hydra(composed)


def overrides_of(config: RunConfig) -> list[str]:
    """Arguments of `python run.py` that give this configuration, wherever its results went.

    Named are model, data set and method by the options that fit best, then what differs from them.
    """
    wanted = asdict(config)
    groups = {group: _closest(group, wanted[group]) for group in ("model", "dataset")}
    groups["pruning"] = config.pruning.method
    composed: Any = OmegaConf.to_container(_composed(groups), resolve=True)
    usual = dict(flatten(composed, ""))
    return [
        *(f"{group}={name}" for group, name in groups.items()),
        *(
            f"{key}={_spelled(reduce(getattr, key.split('.'), config))}"
            for key, value in flatten(wanted, "")
            if usual[key] != value and not _LEFT_OUT.fullmatch(key)
        ),
    ]


def _composed(groups: Mapping[str, str]) -> DictConfig:
    prepare()
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose("config", [f"{group}={name}" for group, name in groups.items()])


def _closest(group: str, section: Mapping[str, Any]) -> str:
    """The option of a group that has the most values of a section, and the fewest others."""
    values = dict(flatten(section, ""))

    def fit(name: str) -> int:
        given: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / group / f"{name}.yaml"))
        pairs = [pair for pair in flatten(given, "") if pair[0] != "defaults" and pair[1] != "???"]
        return sum(1 if values.get(key) == value else -1 for key, value in pairs)

    return max(options_of(group), key=fit)


def _spelled(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    return value if _PLAIN.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()
