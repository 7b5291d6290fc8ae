"""The command line: compose, check, run and store; the table at the end of a sweep."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stat_repro.config import ConfigError, RunConfig, from_hydra
from stat_repro.entry import guarded
from stat_repro.paths import config_dir, experiments_dir, project_root, results_dir
from stat_repro.run import launchers

if TYPE_CHECKING:
    from stat_repro.run.pipeline import Experiment

log = logging.getLogger("stat_repro")

OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """How one point ended, as a file in its Hydra output folder.

    Attributes:
        point: The overrides that make the point.
        status: `ok`, `stored` (its record existed) or `failed`.
        record: Path of the record; None if none could be stored.
        error: One line, for failed points.
    """

    point: str
    status: str
    record: str | None
    error: str | None


class SweepAccount(Callback):
    """Shows at the end of a multirun how every point ended."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a launcher that cannot work, before the sweep."""
        launchers.check(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of the sweep and every failure; exit with 1 if any point failed."""
        folder = Path(config.hydra.sweep.dir)
        files = sorted(folder.glob(f"*/{OUTCOME_FILE}"), key=lambda f: int(f.parent.name))
        outcomes = [Outcome(**json.loads(f.read_text(encoding="utf-8"))) for f in files]
        good = _print_table([o for o in outcomes if o.status != "failed"])
        failed = [o for o in outcomes if o.status == "failed"]
        if failed:
            print(f"\n{len(failed)} of {len(outcomes)} points failed:")
            for outcome in failed:
                print(f"  {outcome.point}: {outcome.error}")
                if outcome.record is not None:
                    print(f"    {outcome.record}")
        if failed or not good:
            raise SystemExit(1)


def _print_table(outcomes: list[Outcome]) -> bool:
    """Print the records of these points; False if that fails, after printing why."""
    from stat_repro.reporting import ReportError
    from stat_repro.reporting.tables import summary_table, to_text
    from stat_repro.results.store import read_record, to_frame
    from stat_repro.results.strict_json import RecordError

    paths = [Path(o.record) for o in outcomes if o.record is not None]
    if not paths:
        return True
    try:
        table = to_text(summary_table(to_frame([read_record(path) for path in paths])))
    except (RecordError, ReportError) as error:
        print(f"\nno table: {_line(error)}")
        return False
    print(f"\n{table}\n\nrecords:")
    for path in paths:
        print(f"  {path}")
    return True


def run_point(cfg: DictConfig) -> Outcome:
    """Run one composed point and store its record, also if it fails."""
    # As it was typed: reading the items would resolve interpolations in them.
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    point = ",".join(overrides) or "defaults"
    try:
        config = from_hydra(cfg)
    except (ConfigError, OmegaConfBaseException) as error:
        return Outcome(point, "failed", None, _line(error))
    try:
        return _run(point, config)
    except Exception as error:  # stored already, or impossible to store
        log.error("failed: %s", _line(error))
        return Outcome(point, "failed", None, _line(error))


def _run(point: str, config: RunConfig) -> Outcome:
    from transformers.utils import logging as transformers_logging

    from stat_repro.parallel import exchange, same_everywhere, together
    from stat_repro.results.store import find_record
    from stat_repro.run.identity import identify
    from stat_repro.run.pipeline import output_folder, run_experiment

    root = results_dir() if config.results is None else Path(config.results).expanduser()
    with together():
        name = identify(config)
        same_everywhere("name of the run", name)
        folder = output_folder(config, name)
        # All processes go by what the first one sees.
        stored, model_there = exchange(
            (find_record(root, config.study, name), folder is None or folder.exists())
        )[0]
    if stored is not None and model_there and config.if_stored == "skip":
        log.info("already stored: %s (if_stored=repeat measures it again)", stored)
        return Outcome(point, "stored", str(stored), None)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    log.info("run %s", name)
    try:
        with together():
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

    log.error("failed: %s", _line(error))
    if world().size > 1:
        _sweep_cache.cache_clear()  # the processes may differ in what is in it
    if world().rank > 0:
        return Outcome(point, "failed", None, _line(error))
    path = save_record(failed_record(config, name, error), root)
    return Outcome(point, "failed", str(path), _line(error))


def _stored(
    point: str, config: RunConfig, experiment: Experiment, root: Path, folder: Path | None
) -> Outcome:
    """Store the record, and the model if it is asked for."""
    from stat_repro.results.store import save_record
    from stat_repro.run.pipeline import save_model
    from stat_repro.run.tracking import mirror

    path = save_record(experiment.record, root, experiment.examples)
    mirror(experiment.record, config.tracking)
    if folder is not None and not folder.exists():
        save_model(config, experiment, folder)
        log.info("pruned model: %s", folder)
    return Outcome(point, "ok", str(path), None)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@functools.cache
def _sweep_cache() -> Any:
    """The cache of this process, in which Hydra's basic launcher runs all points."""
    from stat_repro.run.sweep_cache import SweepCache

    return SweepCache()


def _job(cfg: DictConfig) -> None:
    outcome = run_point(cfg)
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        folder = Path(hydra_config.runtime.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTCOME_FILE).write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        return
    if outcome.status == "failed":
        print(f"failed: {outcome.error}" + (f"\n  {outcome.record}" if outcome.record else ""))
        raise SystemExit(1)
    if not _print_table([outcome]):
        raise SystemExit(1)


def main() -> None:
    """Compose the configuration from the command line and run it."""
    # Hydra passes on what is raised, and the boundary says it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.exit(guarded(_main, lambda: "the same command goes on"))


def _main() -> None:
    # For conf/config.yaml, here and in the processes of a parallel launcher.
    os.environ["STAT_REPRO_ROOT"] = str(project_root())
    os.environ["STAT_REPRO_EXPERIMENTS"] = str(experiments_dir())
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    launchers.offer_missing()
    run = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(_job)
    if not launchers.several_processes():
        run()
        return
    from stat_repro.parallel import joined

    with _only_the_first_writes(), joined():
        run()


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
