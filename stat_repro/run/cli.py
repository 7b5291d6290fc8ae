"""The command line: commands, or a configuration that Hydra composes, and its points."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from tempfile import TemporaryDirectory
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stat_repro.config import ConfigError, from_hydra
from stat_repro.config.torchrun import several_processes
from stat_repro.entry import guarded, line_of
from stat_repro.paths import config_dir
from stat_repro.run import commands
from stat_repro.run.account import Outcome, keep, print_table, so_far, tell
from stat_repro.run.compose import prepare

log = logging.getLogger("stat_repro")

# Keys whose values become names of files and folders.
_AS_TYPED = ("study", "model.name", "dataset.name", "model.path", "results", "save_to")


def run_point(cfg: DictConfig) -> Outcome:
    """Run one composed point and store its record, also if it fails."""
    # As it was typed: reading the items would resolve interpolations in them.
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    point = ",".join(overrides) or "defaults"
    try:
        _check_names(overrides)
        config = from_hydra(cfg)
    except (ConfigError, OmegaConfBaseException) as error:
        return Outcome(point, "failed", None, line_of(error))
    try:
        from stat_repro.run import points

        return points.run(point, config)
    except Exception as error:  # stored already, or impossible to store
        log.error("failed: %s", line_of(error))
        return Outcome(point, "failed", None, line_of(error))


def _check_names(overrides: list[str]) -> None:
    """Refuse names that Hydra reads as numbers or truth values, and would write in its own way."""
    for one in OverridesParser.create().parse_overrides(overrides):
        key, value = one.key_or_group, one.value()
        if key in _AS_TYPED and value is not None and not isinstance(value, str):
            typed = one.get_value_string()
            raise ConfigError(
                f"{key}: expected a text; got {typed}, which Hydra reads as {value!r}; "
                f"choose quotes inside quotes: \"{key}='{typed}'\""
            )


def _job(cfg: DictConfig) -> None:
    outcome = run_point(cfg)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        keep(outcome)
        return
    if outcome.status == "failed":
        print(f"failed: {outcome.error}" + (f"\n  {outcome.record}" if outcome.record else ""))
        raise SystemExit(1)
    if not print_table([outcome]):
        raise SystemExit(1)


def main() -> None:
    """Carry out a command, or compose the configuration from the command line and run it."""
    if commands.chosen(sys.argv[1:]):
        sys.exit(commands.main(sys.argv[1:]))
    # Hydra passes on what is raised, and the boundary says it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.exit(guarded(_main, so_far))


def _main() -> None:
    prepare()
    logging.raiseExceptions = False  # a sweep into a closed pipe goes on, and ends quietly
    run = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(_job)
    if not several_processes():
        _run_and_tell(run)
        return
    from stat_repro.parallel import joined

    with _only_the_first_writes(), joined():
        _run_and_tell(run)


def _run_and_tell(run: Callable[[], None]) -> None:
    try:
        run()
    except (Exception, SystemExit) as error:  # Hydra, or a launcher, gave up the sweep
        tell()
        if "Only one of --run, --multirun" in str(error):  # of Hydra's own options
            raise SystemExit(f"{error}; --cfg job without -m shows a single run") from None
        raise
    if not tell():
        raise SystemExit(1)


@contextmanager
def _only_the_first_writes() -> Iterator[None]:
    """Drop what the other processes of a run print and write to Hydra's folder.

    An error that they cannot send to the first process still ends them with its traceback.
    """
    if int(os.environ["RANK"]) == 0:
        yield
        return
    with TemporaryDirectory(prefix="stat_repro_") as folder, open(os.devnull, "w") as nowhere:
        sys.argv += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
