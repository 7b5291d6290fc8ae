"""Runs of tiny models in this process."""

from pico_config import compose_run

from stat_repro.run.pipeline import output_folder, run_experiment, save_model
from stat_repro.run.sweep_cache import SweepCache


def compose_here(overrides, *more):
    return compose_run(*[o for o in overrides if not o.startswith("hydra.")], *more)


def run_one(config, cache=None):
    return run_experiment(config, cache or SweepCache()).record


def save_one(config):
    """Run and save as the command line does; the record and the folder."""
    experiment = run_experiment(config, SweepCache())
    folder = output_folder(config, experiment.record.run_id)
    save_model(config, experiment, folder)
    return experiment.record, folder


def findings(record):
    """What a record found, without what differs between two executions."""
    data = record.to_dict()
    return {key: data[key] for key in ("metrics", "plan", "costs", "mac_kept_fraction", "run_id")}
