"""`stat-repro verify`: stored points are measured again and compared with their records."""

import argparse
import os
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from stat_repro.assets.cache import AssetError
from stat_repro.config import from_dict
from stat_repro.data.errors import DataError
from stat_repro.entry import line_of, one_line
from stat_repro.evaluation.zero_shot_tasks import ZeroShotError
from stat_repro.measure import DeviceError
from stat_repro.models.loading import ModelLoadError
from stat_repro.results.agreement import DIFFERS, SAME, WITHIN, judge
from stat_repro.results.record import RunRecord
from stat_repro.results.store import StudyError, load_records, save_record
from stat_repro.run.identity import has_content
from stat_repro.run.lookup import command_of, find_run
from stat_repro.run.points import measured

NOT_HERE = "not here"
# How records name files: by the content, or (older ones) by a place beside the clone.
_FILE = re.compile(
    r"(?:.*/)?(?P<name>[^/]+)@(?P<digits>[0-9a-f]{10})|\.\.?/(?:.*/)?(?P<older>[^/]+)", re.DOTALL
)
# Errors that say that something is missing on this machine, and nothing about the record.
_MISSING = (AssetError, DataError, DeviceError, ModelLoadError, OSError, ZeroShotError)


def verify(options: argparse.Namespace) -> int:
    """Measure the chosen points again, or say what that would do.

    Nothing is written to the folder of the studies.

    Args:
        options: See `stat_repro.run.commands`.

    Returns:
        The exit status: 0 if points came out again (`SAME`, `WITHIN`) and none differs.

    Raises:
        StudyError: No such study or point, or not so many.
    """
    records = chosen(options)
    points = "1 point" if len(records) == 1 else f"{len(records)} points"
    if options.dry_run:
        for record in records:
            print(f"{record.run_id}: about {_seconds(record):,.0f} s\n  {command_of(record)}")
        print(f"{points}, about {sum(map(_seconds, records)):,.0f} s, ", end="")
        print("and the training of heads that the cache does not have")
        return 0
    verdicts: Counter[str] = Counter()
    for record in records:
        verdict, why = _verdict(record, options)
        print(f"{record.run_id}: {verdict}: {why}", flush=True)
        verdicts[verdict] += 1
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    print(f"{points}: {counts}")
    return int(DIFFERS in verdicts or not {SAME, WITHIN} & set(verdicts))


def chosen(options: argparse.Namespace) -> list[RunRecord]:
    """Records of the points that are asked for, in the order of their study.

    Raises:
        StudyError: No such study or point, or not so many.
    """
    study, root = options.study, options.results
    if options.keep is not None and root.resolve() in (d := options.keep.resolve(), *d.parents):
        raise StudyError(f"--keep: expected a folder outside {root}; got {options.keep}")
    records = load_records(root, study)
    if not records:
        raise StudyError(f"study {study}: expected runs that ended well; got none")
    if options.seed is not None and options.random is None:
        raise StudyError("--seed: expected only together with --random; choose --random N")
    if options.point is not None:
        _, record = find_run(f"{study}/{options.point.removeprefix(f'{study}/')}", root)
        if record.status != "ok":
            raise StudyError(f"--point: expected a run that ended well; got {record.run_id}")
        return [record]
    if options.random is None:
        return records
    if options.random > len(records):
        most = f"{len(records)}, the points of {study}"
        raise StudyError(f"--random: expected at most {most}; got {options.random}; choose --all")
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"points drawn with --seed {seed}")
    drawn = random.Random(seed).sample(range(len(records)), options.random)
    return [records[i] for i in sorted(drawn)]  # neighbours share statistics


def _seconds(record: RunRecord) -> float:
    """How long a point took; in a sweep much of that was shared with others."""
    times = record.timings
    return max(times.get("total_s", 0.0), times["compress_s"] + times.get("evaluate_s", 0.0))


def _verdict(record: RunRecord, options: argparse.Namespace) -> tuple[str, str]:
    """Measure one point; whatever hinders that is a verdict too, and the others go on."""
    data = record.typed_config.dataset
    missing: list[str] = []
    others = ""

    def located(value: Any) -> Any:
        nonlocal others
        if isinstance(value, dict):
            return {key: located(one) for key, one in value.items()}
        if not isinstance(value, str) or (file := _FILE.fullmatch(value)) is None:
            return value
        name, digits = file["name"] or file["older"], file["digits"] or ""
        for folder, *entries in os.walk(options.files):  # goes on where a folder is gone or closed
            if name in chain(*entries):
                place = Path(folder, name)
                if has_content(data, place, digits):
                    return str(place)
                others += f"; {place} has another content"
        if not Path(value).exists():
            missing.append(f'"{value}"')
        return value

    try:
        config = from_dict(located(record.config))
        if missing:
            return NOT_HERE, f"{', '.join(missing)} (--files says below which folder){others}"
        experiment = measured(config)
    except _MISSING as error:
        return NOT_HERE, one_line(error)
    except Exception as error:  # the record says that it can be measured
        return DIFFERS, f"it cannot be measured here: {line_of(error)}"
    again = replace(experiment.record, run_id=record.run_id)
    if options.keep is not None:
        save_record(again, options.keep, experiment.examples)
    return judge(record, again)
