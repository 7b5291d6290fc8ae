"""The command line: compose, check, run and store."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stat_repro.config import ConfigError, RunConfig, from_hydra
from stat_repro.entry import guarded, line_of
from stat_repro.paths import config_dir, results_dir
from stat_repro.run import commands, launchers
from stat_repro.run.account import Outcome, keep, print_table, so_far, tell
from stat_repro.run.compose import prepare

if TYPE_CHECKING:
    from stat_repro.run.pipeline import Experiment

log = logging.getLogger("stat_repro")


def run_point(cfg: DictConfig) -> Outcome:
    """Run one composed point and store its record, also if it fails."""
    # As it was typed: reading the items would resolve interpolations in them.
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    point = ",".join(overrides) or "defaults"
    try:
        config = from_hydra(cfg)
    except (ConfigError, OmegaConfBaseException) as error:
        return Outcome(point, "failed", None, line_of(error))
    try:
        return _run(point, config)
    except Exception as error:  # stored already, or impossible to store
        log.error("failed: %s", line_of(error))
        return Outcome(point, "failed", None, line_of(error))


def _run(point: str, config: RunConfig) -> Outcome:
    from stat_repro.parallel import exchange, same_everywhere, together, world
    from stat_repro.results.store import claimed
    from stat_repro.run.identity import identify
    from stat_repro.run.pipeline import output_folder

    root = results_dir() if config.results is None else Path(config.results).expanduser()
    with together():
        name = identify(config)
        same_everywhere("name of the run", name)
        folder = output_folder(config, name)
    with ExitStack() as claims:
        if config.if_stored == "skip":
            with together():
                claim = claimed(root, config.study, name, folder)
                stored = claims.enter_context(claim) if world().rank == 0 else None
                # All processes go by what the first one sees.
                stored, model_there = exchange((stored, folder is None or folder.exists()))[0]
            if stored is not None and model_there:
                log.info("already stored: %s (if_stored=repeat measures it again)", stored)
                return Outcome(point, "stored", str(stored), None)
        else:
            stored = None
        return _measured(point, config, name, root, folder, stored)


def _measured(
    point: str, config: RunConfig, name: str, root: Path, folder: Path | None, stored: Path | None
) -> Outcome:
    """Run the point and store it; of one that is stored already, only make and save the model."""
    from transformers.utils import logging as transformers_logging

    from stat_repro.parallel import together
    from stat_repro.results.store import read_record
    from stat_repro.run.pipeline import run_experiment, save_stored

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    log.info("run %s", name)
    try:
        with together():
            if stored is not None and folder is not None:
                log.info("already stored: %s; its model is made again and saved", stored)
                save_stored(config, _sweep_cache(), read_record(stored), folder)
                return Outcome(point, "stored", str(stored), None)
            experiment = run_experiment(config, _sweep_cache(), name)
    except Exception as error:  # recorded, and reported at the end of the sweep
        return _failed(point, config, name, error, root)
    if experiment is None:
        return Outcome(point, "ok", None, None)
    return _stored(point, config, experiment, root, folder)


def _failed(point: str, config: RunConfig, name: str, error: Exception, root: Path) -> Outcome:
    """Record what went wrong; only the first process writes."""
    from stat_repro.parallel import world
    from stat_repro.results.store import save_record
    from stat_repro.run.pipeline import failed_record

    log.error("failed: %s", line_of(error))
    if world().size > 1:
        _sweep_cache.cache_clear()  # the processes may differ in what is in it
    if world().rank > 0:
        return Outcome(point, "failed", None, line_of(error))
    path = save_record(failed_record(config, name, error), root)
    return Outcome(point, "failed", str(path), line_of(error))


def _stored(
    point: str, config: RunConfig, experiment: Experiment, root: Path, folder: Path | None
) -> Outcome:
    """Save the model if it is asked for, and store the record.

    The model first: a process that is killed between the two measures again and finds the model
    there. If it cannot be saved, the record is stored all the same, and the next run only saves.
    """
    from stat_repro.results.store import save_record
    from stat_repro.run.pipeline import save_model
    from stat_repro.run.tracking import mirror

    problem = None
    if folder is not None and not folder.exists():
        try:
            save_model(config, experiment, folder)
            log.info("pruned model: %s", folder)
        except Exception as error:
            problem = f"the record is stored, but not the model: {line_of(error)}"
    path = save_record(experiment.record, root, experiment.examples)
    mirror(experiment.record, config.tracking)
    return Outcome(point, "ok" if problem is None else "failed", str(path), problem)


@functools.cache
def _sweep_cache() -> Any:
    """The cache of this process, in which Hydra's basic launcher runs all points."""
    from stat_repro.run.sweep_cache import SweepCache

    return SweepCache()


def prune_into(config: RunConfig, folder: Path) -> Experiment:
    """Run a configuration, and save its model with the record of the run.

    Raises:
        CheckpointError: The folder is in use, which is found before any work.
    """
    from stat_repro.progress import quiet_transformers
    from stat_repro.run.pipeline import run_experiment, save_model
    from stat_repro.surgery.checkpoint import check_unused

    check_unused(folder)
    with quiet_transformers():
        experiment = run_experiment(config, _sweep_cache())
        assert experiment is not None  # there is one process
        save_model(config, experiment, folder)
    return experiment


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
    run = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(_job)
    if not launchers.several_processes():
        _run_and_tell(run)
        return
    from stat_repro.parallel import joined

    with _only_the_first_writes(), joined():
        _run_and_tell(run)


def _run_and_tell(run: Callable[[], None]) -> None:
    try:
        run()
    except (Exception, SystemExit):  # Hydra, or a launcher, gave up the sweep
        tell()
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
