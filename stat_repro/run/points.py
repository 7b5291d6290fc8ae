"""One point: looked up, else run, and stored."""

import logging
from contextlib import ExitStack
from pathlib import Path

from stat_repro.config import RunConfig
from stat_repro.entry import line_of
from stat_repro.parallel import exchange, same_everywhere, together, world
from stat_repro.paths import results_dir
from stat_repro.progress import quiet_transformers
from stat_repro.results import store
from stat_repro.results.provenance import code_state
from stat_repro.run import pipeline, tracking
from stat_repro.run.account import Outcome
from stat_repro.run.identity import identify
from stat_repro.run.pipeline import Experiment
from stat_repro.run.sweep_cache import SweepCache

log = logging.getLogger("stat_repro")

# Of this process, in which Hydra's basic launcher runs all points.
_cache = SweepCache()
code_state()  # now that the code is loaded: records name this commit, whatever is checked out later


def run(point: str, config: RunConfig) -> Outcome:
    """Run a point and store its record, also if it fails.

    Of one that is stored already, at most the model is made again and saved.
    """
    root = results_dir() if config.results is None else Path(config.results).expanduser()
    root = root.absolute()  # the account is read elsewhere: hydra.job.chdir moves each point
    with together():
        name = identify(config)
        same_everywhere("name of the run", name)
        folder = pipeline.output_folder(config, name)
    with ExitStack() as until_the_end:
        stored = None
        if config.if_stored == "skip":
            with together():
                claim = store.claimed(root, config.study, name, folder)
                stored = until_the_end.enter_context(claim) if world().rank == 0 else None
                # All processes go by what the first one sees.
                stored, model_there = exchange((stored, folder is None or folder.exists()))[0]
            if stored is not None and model_there:
                log.info("already stored: %s (if_stored=repeat measures it again)", stored)
                return Outcome(point, "stored", str(stored), None)
        until_the_end.enter_context(quiet_transformers())
        log.info("run %s", name)
        try:
            with together():
                if stored is not None and folder is not None:
                    log.info("already stored: %s; its model is made again and saved", stored)
                    pipeline.save_stored(config, _cache, store.read_record(stored), folder)
                    return Outcome(point, "stored", str(stored), None)
                experiment = pipeline.run_experiment(config, _cache, name)
        except Exception as error:  # recorded, and reported at the end of the sweep
            return _failed(point, config, name, error, root)
        if experiment is None:
            return Outcome(point, "ok", None, None)
        return _stored(point, config, experiment, root, folder)


def _failed(point: str, config: RunConfig, name: str, error: Exception, root: Path) -> Outcome:
    """Record what went wrong; only the first process writes."""
    log.error("failed: %s", line_of(error))
    if world().size > 1:
        _cache.clear()  # the processes may differ in what is in it
    path = None
    if world().rank == 0:
        record = pipeline.failed_record(config, name, error)
        path = str(store.save_record(record, root))
        tracking.mirror(record, config.tracking)
    return Outcome(point, "failed", path, line_of(error))


def _stored(
    point: str, config: RunConfig, experiment: Experiment, root: Path, folder: Path | None
) -> Outcome:
    """Save the model if it is asked for, and store the record.

    The model first: a process that is killed between the two measures again and finds the model
    there. If it cannot be saved, the record is stored all the same, and the next run only saves.
    """
    problem = None
    if folder is not None and not folder.exists():
        try:
            pipeline.save_model(config, experiment, folder)
            log.info("pruned model: %s", folder)
        except Exception as error:
            problem = f"the record is stored, but not the model: {line_of(error)}"
    path = store.save_record(experiment.record, root, experiment.examples)
    tracking.mirror(experiment.record, config.tracking)
    return Outcome(point, "ok" if problem is None else "failed", str(path), problem)


def prune_into(config: RunConfig, folder: Path) -> Experiment:
    """Run a configuration, and save its model with the record of the run in an unused folder."""
    experiment = measured(config)
    pipeline.save_model(config, experiment, folder)
    return experiment


@quiet_transformers()
def measured(config: RunConfig) -> Experiment:
    """Run a configuration in this process, which keeps what others share; nothing is stored."""
    experiment = pipeline.run_experiment(config, _cache)
    assert experiment is not None  # there is one process
    return experiment
