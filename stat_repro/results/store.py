"""Where records are kept: one JSON file per run, written whole or not at all, never overwritten.

<root>/<study>/<run_id>.json               the run
<root>/<study>/<run_id>.repeat-<k>.json    the same run measured again, k = 1, 2, ...
<root>/<study>/<name of either>.examples.safetensors    its values per example, where kept
<root>/<study>/failed/<run_id>-<k>.json    a run that ended in an error, k = 1, 2, ...
<root>/<study>/<file name>.damaged-<k>    a file that was damaged when its run was asked for
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stat_repro.config import SPEED_STUDY
from stat_repro.results.consistency import check_consistency
from stat_repro.results.example_files import check_examples, examples_path, read_examples
from stat_repro.results.record import RunRecord
from stat_repro.results.strict_json import RecordError
from stat_repro.results.writing import repeat_names, write_first_free
from stat_repro.scratch import locked, tidy

log = logging.getLogger("stat_repro")

if TYPE_CHECKING:
    import pandas as pd

_REPEAT = re.compile(r"(?P<run_id>.+)\.repeat-\d+$")
_FAILED = re.compile(r"(?P<run_id>.+)-\d+$")
_SCALARS = (
    *("run_id", "status", "model", "dataset", "method", "ratio", "seed"),
    *("mac_kept_fraction", "param_kept_fraction"),
)


class StudyError(ValueError):
    """A study that does not exist; the message names those that do."""


def save_record(record: RunRecord, root: Path, examples: bytes | None = None) -> Path:
    """Store a record under a name of its own, also while other processes store.

    A run that is stored already becomes a repeat; a failed run goes to `failed/`. So no result is
    lost and none is replaced. The values per example are there before the record is.

    Args:
        record: The run.
        root: Folder of all studies (`results/`).
        examples: Its values per example (`encode_examples`) if its provenance names some.

    Returns:
        The file that was written.

    Raises:
        RecordError: A value that JSON does not have, or other values per example than it names.
        OSError: A file cannot be written; nothing is left behind.
    """
    data = record.to_json().encode()
    check_examples(record, examples)
    study = root / record.study
    return write_first_free(study, _free_names(study, record), data, examples)


def find_record(root: Path, study: str, run_id: str) -> Path | None:
    """File of the run that ended well, or None.

    Raises:
        RecordError: There is one that is damaged, or whose values per example are; names it.
        OSError: There is one that cannot be read, such as a link to what is not there.
    """
    path = root / study / f"{run_id}.json"
    if not os.path.lexists(path):
        return None
    read_examples(read_record(path), path)
    return path


@contextmanager
def claimed(
    root: Path, study: str, run_id: str, model: Path | None = None
) -> Iterator[Path | None]:
    """File of a run that is stored already, or None while this process alone may measure it.

    Waits while another process measures the run. A damaged record is set aside, which is logged.

    Args:
        root: Folder of all studies.
        study: Name of the study.
        run_id: Name of the run.
        model: Folder of its pruned model, if that is asked for; if it is missing, the run is this
            process's alone although its record is stored.

    Raises:
        OSError: The study's folder cannot be written.
    """
    folder = root / study
    tidy(folder)
    stored = None
    with suppress(RecordError):
        stored = find_record(root, study, run_id)
    if stored is not None and (model is None or model.exists()):
        yield stored
        return
    folder.mkdir(parents=True, exist_ok=True)
    waiting = f"{run_id}: waiting for another process that is measuring it"
    with locked(folder / f".{run_id}.run.lock", waiting):
        try:
            stored = find_record(root, study, run_id)
        except RecordError as error:
            aside = _set_aside(folder / f"{run_id}.json")
            log.warning("damaged, now %s and to be measured again: %s", aside, error)
        yield stored


def _set_aside(path: Path) -> str:
    """Rename a damaged record and its values per example; the record's new name."""
    names = (f".damaged-{k}" for k in itertools.count(1))
    ending = next(name for name in names if not os.path.lexists(f"{path}{name}"))
    # The record last: as long as it has its name, the rest of this is done by the next run.
    for file in (examples_path(path), path):
        with suppress(FileNotFoundError):
            os.replace(file, f"{file}{ending}")
    return f"{path.name}{ending}"


def read_record(path: Path, *, placed: bool = True) -> RunRecord:
    """Read one file and check that it is in agreement with itself.

    Args:
        path: The file.
        placed: Whether it must also be where a study has it.

    Raises:
        RecordError: A damaged file, or one whose content is not what its place says; names it.
    """
    try:
        record = RunRecord.from_json(path.read_text(encoding="utf-8"))
        check_consistency(record)
        if placed:
            _check_place(record, path)
    except ValueError as err:
        raise RecordError(f"{path}: {err}") from err
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as err:
        got = f"{type(err).__name__}: {err}"
        raise RecordError(f"{path}: expected the layout of a record; got {got}") from err
    return record


def list_studies(root: Path) -> list[str]:
    """Names of the studies with at least one stored record, failed ones included."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return [f.name for f in folders if f.is_dir() and (any(_runs(f)) or any(_failed(f)))]


def load_records(
    root: Path, study: str, *, failed: bool = False, repeats: bool = False
) -> list[RunRecord]:
    """The records in the files of `record_files`, which has the arguments and errors.

    Raises:
        RecordError: A damaged file, which is named.
    """
    return [read_record(path) for path in record_files(root, study, failed=failed, repeats=repeats)]


def record_files(
    root: Path, study: str, *, failed: bool = False, repeats: bool = False
) -> list[Path]:
    """Files of the records of a study, sorted by name, failed ones last.

    Args:
        root: Folder of all studies.
        study: Name of the study.
        failed: Whether failed runs are included.
        repeats: Whether repeated measurements of a run are included.

    Raises:
        StudyError: No such study, or that of the benchmark, which holds no runs.
    """
    if study == SPEED_STUDY:
        raise StudyError(f"study {study} holds no runs but measurements: see results.speed_record")
    folder = root / study
    if not study or Path(study).name != study or not folder.is_dir():
        there = ", ".join(list_studies(root)) or "none"
        raise StudyError(f"study {study!r}: not found under {root}; there are: {there}")
    paths = [p for p in _runs(folder) if repeats or _REPEAT.fullmatch(p.stem) is None]
    return paths + (_failed(folder) if failed else [])


def to_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One flat row per record (`row_of`), in the order given."""
    import pandas as pd  # takes 60 MB, which a run without tables does not need

    rows = [row_of(record) for record in records]
    return pd.DataFrame(rows, columns=None if rows else list(_SCALARS))


def row_of(record: RunRecord) -> dict[str, Any]:
    """The values of a record by the names of their columns.

    These are the scalar top-level keys; every number and text below `metrics`, `timings`, `costs`,
    `memory` and `typed_config` under its dotted name (`metrics.pruned.accuracy`,
    `config.pruning.allocation`); `metrics.protocol` as one JSON text; `error.type` and
    `error.message`; `provenance.model_hash`, `provenance.device` (with its GPU and processor, where
    known) and `provenance.data_hashes`, as one JSON text without the calibration examples, which
    depend on the seed; `undefined`: dotted names of the values that were measured as nan, which a
    frame cannot tell from those that are missing. Infinite values stay infinite.
    """
    row: dict[str, Any] = {key: getattr(record, key) for key in _SCALARS}
    metrics = {k: v for k, v in record.metrics.items() if k != "protocol"}
    nested = {"metrics": metrics, "timings": record.timings, "costs": record.costs}
    nested |= {"memory": record.memory, "config": asdict(record.typed_config)}
    row |= dict(flatten(nested, ""))
    protocol = record.metrics.get("protocol")
    row["metrics.protocol"] = None if protocol is None else json.dumps(protocol, sort_keys=True)
    where = record.provenance
    data = {k: v for k, v in where.get("data_hashes", {}).items() if k != "calibration"}
    row["provenance.data_hashes"] = json.dumps(data, sort_keys=True) if data else None
    row["provenance.model_hash"] = where.get("model_hash")
    names = (where.get("device"), where.get("gpu", {}).get("name"), where.get("processor"))
    row["provenance.device"] = ", ".join(name for name in names if name) or None
    row["error.type"] = None if record.error is None else record.error["type"]
    row["error.message"] = None if record.error is None else record.error["message"]
    nan = [k for k, v in row.items() if isinstance(v, float) and math.isnan(v)]
    row["undefined"] = ",".join(nan)
    return row


def flatten(value: Any, name: str, separator: str = ".") -> Iterator[tuple[str, Any]]:
    """The values of nested JSON data, each with its dotted name; a list is one value, as JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{name}{separator}{key}" if name else key, separator)
    elif isinstance(value, (list, tuple)):
        yield name, json.dumps(value, sort_keys=True)
    else:
        yield name, value


def _runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _failed(folder: Path) -> list[Path]:
    return sorted((folder / "failed").glob("*.json"))


def _free_names(study: Path, record: RunRecord) -> Iterator[Path]:
    """Names to try, in this order; whether one is free is known only when it is taken."""
    if record.status == "failed":
        yield from (study / "failed" / f"{record.run_id}-{k}.json" for k in itertools.count(1))
    yield from repeat_names(study, record.run_id)


def _check_place(record: RunRecord, path: Path) -> None:
    """A record that was copied or renamed by hand would count as something it is not."""
    is_failed = record.status == "failed"
    match = (_FAILED if is_failed else _REPEAT).fullmatch(path.stem)
    run_id = path.stem if match is None else match["run_id"]
    folder = Path(record.study, "failed") if is_failed else Path(record.study)
    place = path.absolute().parent.parts[-len(folder.parts) :]
    if (run_id, place) != (record.run_id, folder.parts):
        raise RecordError(
            f"the content belongs to run {record.run_id} ({record.status}) of study "
            f"{record.study}, which is stored under {folder}/"
        )
