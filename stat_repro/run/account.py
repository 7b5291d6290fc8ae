"""How every point of a sweep ended: kept where the point runs, told when the sweep is over.

Hydra goes on after whatever a callback raises, so its callback here only opens the account, and
`stat_repro.run.cli` closes it. A point, which may run in another process (see `launchers`), leaves
a file in Hydra's output folder. It has the name of the sweep, as several may share the folder.
"""

import json
import logging
import math
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from stat_repro.entry import line_of
from stat_repro.run import launchers

log = logging.getLogger("stat_repro")

# Where a point finds the name of its sweep, under every launcher.
NAME_VARIABLE = "STAT_REPRO_SWEEP"


@dataclass(frozen=True)
class Outcome:
    """How one point ended.

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


class Sweep:
    """The account of one sweep.

    Args:
        folder: Hydra's folder of the sweep; files of other sweeps in it do not count.
        points: How many points it has; None where only its sweeper knows.
    """

    def __init__(self, folder: Path, points: int | None) -> None:
        self.folder, self.points = folder, points
        self.name = f"s{uuid.uuid4().hex[:8]}"

    def all_outcomes(self) -> list[Outcome]:
        """In the order of the points; one that cannot be read is a failure."""
        files = self.folder.rglob(f"outcome-{self.name}-*.json")
        return [_read(file) for file in sorted(files, key=lambda f: (len(f.name), f.name))]


_sweep: Sweep | None = None


class SweepAccount(Callback):
    """Opens the account of a multirun."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a stored study without its points: one run that has the study's name."""
        study = config.hydra.runtime.choices.sweep
        if study is not None:
            raise SystemExit(
                f"sweep={study}: expected a sweep, as stored studies are; got one run "
                "(hydra.mode=RUN); choose the study without it, or the run without the study"
            )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a launcher that cannot work, before the sweep; tell the points its name."""
        global _sweep
        try:
            launchers.check(config)
            _sweep = Sweep(Path(config.hydra.sweep.dir), _points(config))
            with read_write(config.hydra.overrides):
                named = f"+hydra.job.env_set.{NAME_VARIABLE}={_sweep.name}"
                config.hydra.overrides.hydra.append(named)
        except Exception as error:
            raise SystemExit(f"no sweep: {line_of(error)}") from None


def keep(outcome: Outcome) -> None:
    """Note how a point of a sweep ended; if that is impossible, the sweep goes on."""
    hydra = HydraConfig.get()
    try:
        folder = Path(hydra.runtime.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"outcome-{os.environ[NAME_VARIABLE]}-{hydra.job.num}.json"
        file.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    except OSError as error:
        log.error("how this point ended cannot be kept: %s", line_of(error))


def so_far() -> str:
    """What an interrupted command has done, and how to go on."""
    go_on = "the same command goes on"
    if _sweep is None or _sweep.points is None:
        return go_on
    stored = sum(outcome.status != "failed" for outcome in _sweep.all_outcomes())
    return f"{stored} of {_sweep.points} points are stored; {go_on}"


def tell() -> bool:
    """Close the account, if there is one: print the table of the sweep and every failure.

    Returns:
        Whether all is well.
    """
    global _sweep
    sweep, _sweep = _sweep, None
    if sweep is None:
        return True
    outcomes = sweep.all_outcomes()
    good = print_table([o for o in outcomes if o.status != "failed"])
    failed = [o for o in outcomes if o.status == "failed"]
    missing = 0 if sweep.points is None else max(0, sweep.points - len(outcomes))
    if failed:
        print(f"\n{len(failed)} of {sweep.points or len(outcomes)} points failed:")
        for outcome in failed:
            print(f"  {outcome.point}: {outcome.error}")
            if outcome.record is not None:
                print(f"    {outcome.record}")
    if missing:
        print(
            f"\n{missing} of {sweep.points} points did not say how they ended; the same command "
            "runs those that are not stored"
        )
    return good and not failed and not missing


def print_table(outcomes: list[Outcome]) -> bool:
    """Print a table of every study, and the records of these points.

    A run that several points named, or that was measured again, counts once in its table.

    Returns:
        Whether all is well; else it is printed why there is no table.
    """
    from stat_repro.reporting.tables import summary_table, to_text
    from stat_repro.reporting.variants import study_frame
    from stat_repro.results.store import read_record

    paths = dict.fromkeys(Path(o.record) for o in outcomes if o.record is not None)
    studies, good = {path.parent for path in paths}, True
    for folder in sorted(studies):
        title = f"study {folder.name}:\n\n" if len(studies) > 1 else ""
        try:
            records = [read_record(path) for path in paths if path.parent == folder]
            runs = {record.run_id: record for record in records}
            print(f"\n{title}{to_text(summary_table(study_frame([*runs.values()])))}")
        except Exception as error:  # whatever is wrong with a record must reach the exit status
            print(f"\n{title}no table: {line_of(error)}")
            good = False
    if paths:
        print("\nrecords:", *paths, sep="\n  ")
    return good


def _points(config: DictConfig) -> int | None:
    """How many points Hydra's own sweeper makes of the command line and the stored sweep.

    Raises:
        SystemExit: Several stored sweeps or launchers.
    """
    # Not resolved: what a point's name refers to is known in the point only.
    given: Any = OmegaConf.to_container(config.hydra, resolve=False)
    settings = given["sweeper"].get("params") or {}
    texts = [*(f"{key}={value}" for key, value in settings.items()), *given["overrides"]["task"]]
    try:
        parsed = OverridesParser.create().parse_overrides(texts)
        by_key = {one.get_key_element(): one for one in parsed}  # the last one counts
        swept = [one for one in by_key.values() if one.is_sweep_override()]
        for one in swept:
            # Hydra takes both from the command line as a whole: no point would have its own.
            if one.key_or_group in ("sweep", "launcher"):
                raise SystemExit(
                    f"{one.key_or_group}: expected one per command; got "
                    f"{one.get_value_string()}; choose a command for each"
                )
        return math.prod(len(list(one.sweep_iterator())) for one in swept)
    except (HydraException, AssertionError):  # another sweeper's syntax, or a glob
        return None


def _read(file: Path) -> Outcome:
    try:
        return Outcome(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        return Outcome(str(file), "failed", None, f"cannot be read: {line_of(error)}")
