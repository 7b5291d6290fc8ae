"""`stat-repro runs` and `stat-repro show`: stored records on the terminal. No torch."""

from __future__ import annotations

import glob
import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from stat_repro.config import SPEED_STUDY
from stat_repro.paths import RECORD_FILE, is_clone, results_dir
from stat_repro.reporting.points import headline
from stat_repro.reporting.styles import in_line, quantity_style
from stat_repro.reporting.tables import MISSING, before_and_after, to_text
from stat_repro.results import store
from stat_repro.results.agreement import plan_differences
from stat_repro.results.record import RunRecord
from stat_repro.results.speed_record import read_speed
from stat_repro.run.compose import overrides_of


def find_run(name: str, root: Path) -> tuple[Path, RunRecord]:
    """The file of a run, and its record; see `find_file`.

    Raises:
        StudyError: No such run, or several, or a measurement of the benchmark.
        RecordError: A damaged record.
    """
    path = find_file(name, root)
    if path.parent.name == SPEED_STUDY:
        raise store.StudyError(
            f"run {name!r}: expected a run; got {path}, a measurement of speed; choose "
            "`stat-repro show`, which prints it"
        )
    return path, store.read_record(path, placed=path.name != RECORD_FILE)


def find_file(name: str, root: Path) -> Path:
    """The file of a record.

    Args:
        name: A run id or a part of one that no other has, `<study>/` or `<study>/failed/` in front
            of it where several have it; a record's file; or the folder of a pruned model.
        root: Folder of all studies.

    Raises:
        StudyError: No such run, or several.
    """
    given = Path(name).expanduser()
    given = given / RECORD_FILE if given.is_dir() else given
    if given.is_file():
        return given
    folder, slash, run = name.rpartition("/")
    there = [file for one in store.list_studies(root) for file in (root / one).rglob("*.json")]
    there = [p for p in there if run and p.relative_to(root).as_posix().startswith(folder + slash)]
    for pattern in (f"{glob.escape(run)}.json", f"*{glob.escape(run)}*.json"):
        files = sorted(path for path in there if path.match(pattern))
        if len(files) == 1:
            return files[0]
        if files:
            these = ", ".join(str(file.relative_to(root).with_suffix("")) for file in files[:5])
            raise store.StudyError(
                f"run {name!r}: expected one run; got {len(files)}, such as {these}; choose one"
            )
    raise store.StudyError(
        f"run {name!r}: expected a run stored under {root}, a record's file or the folder of a "
        "pruned model with its record; got none of them; choose one of those that `stat-repro "
        "runs` lists"
    )


def show(name: str, root: Path) -> str:
    """One run: result, plan, the command that repeats it, and where it ran."""
    path = find_file(name, root)
    if path.parent.name == SPEED_STUDY:
        return "\n".join([f"{path}:", "", *_values(vars(read_speed(path)))])
    path, record = find_run(str(path), root)
    lines = [f"{record.run_id}: {record.status}, study {record.study}, {path}", ""]
    if record.error is not None:
        lines += [f"{record.error['type']}: {record.error['message']}", ""]
    if record.status == "ok":
        result = before_and_after(record.costs, record.metrics)
        lines += [to_text(result), to_text(_plan(record))]
        lines += ["The kept units: plan.layers of this file.", "", "Protocol:", ""]
        lines += [*_values(record.metrics["protocol"]), ""]
        if path.resolve().parent == (root / record.study).resolve():
            again = ["stat-repro", "verify", record.study, "--point", record.run_id]
            again += [] if root.resolve() == results_dir() else ["--results", str(root)]
            lines += ["Measure it again and compare:", "", f"  {shlex.join(again)}", ""]
    lines += ["Command (name@... is a file or folder whose sha256 begins like this):", ""]
    lines += [f"  {command_of(record)}", "", "Environment:", ""]
    return "\n".join([*lines, *_values(record.provenance)])


def command_of(record: RunRecord) -> str:
    """The command that repeats a run."""
    program = ["python", "run.py"] if is_clone() else ["stat-repro"]
    return shlex.join([*program, *overrides_of(record.typed_config)])


def _values(values: dict[str, Any]) -> list[str]:
    return [f"  {key}: {in_line(str(value))}" for key, value in store.flatten(values, "")]


def _plan(record: RunRecord) -> pd.DataFrame:
    """What every layer keeps, and the relative error of what its sites give on."""
    errors = {(e["layer"], e["kind"]): e.get("relative_error") for e in record.site_errors}

    def error(layer: int, kind: str) -> str:
        value = errors.get((layer, kind), 0.0)  # a site that loses nothing has none
        return MISSING if value is None else f"{value:.4f}"

    return pd.DataFrame(
        {
            "layer": i,
            "heads kept": f"{len(layer.kept_heads)} of {layer.heads}",
            "neurons kept": f"{len(layer.kept_neurons)} of {layer.neurons}",
            "error, heads": error(i, "attention"),
            "error, neurons": error(i, "ffn"),
        }
        for i, layer in enumerate(record.layers)
    )


def runs(root: Path, study: str | None, where: Sequence[str], compare: Sequence[str]) -> str:
    """A table of stored runs, or of what differs between two of them.

    Args:
        root: Folder of all studies.
        study: One of them; all if None.
        where: Conditions `key=value`; keys are those of `row_of`, in full or without `config.`,
            or the last parts of one.
        compare: Two names as `find_run` takes them, or none.

    Raises:
        StudyError: No such study or run, or a key that no run has, or several columns end in.
    """
    if compare:
        both = [find_run(name, root)[1] for name in compare]
        items = (store.row_of(record).items() for record in both)
        one, other = ({k: in_line(_as_json(v)) for k, v in of_run} for of_run in items)
        rows = [(key, one.get(key, MISSING), other.get(key, MISSING)) for key in {**one, **other}]
        rows = [row for row in rows if row[1] != row[2]]
        pair = pd.DataFrame(rows, columns=["what differs", "first", "second"])
        for kind, (others, kept, _) in plan_differences(*both).items():
            if others:
                pair.loc[len(pair)] = [f"plan: kept {kind}", str(kept), f"{others} are others"]
        return to_text(pair)
    names = [name for name in store.list_studies(root) if name != SPEED_STUDY]
    names = names if study is None else [study]
    studies = (store.record_files(root, name, failed=True, repeats=True) for name in names)
    files = [file for of_study in studies for file in of_study]
    if not files:
        return f"no run is stored under {root if study is None else root / study}"
    frame = store.to_frame([store.read_record(file) for file in files])
    frame["run"] = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    for condition in where:
        key, equals, value = condition.partition("=")
        whole = [name for name in (key, f"config.{key}") if name in frame.columns][:1]
        columns = whole or [name for name in frame.columns if name.endswith(f".{key}")]
        if len(columns) != 1 or not equals:
            choose = f"; choose one of {', '.join(columns)}" if len(columns) > 1 else ""
            raise store.StudyError(
                f"--where {condition}: expected key=value with a key of the records, such as "
                f"method=stat, ratio=0.5 or pruning.allocation=uniform; got {key!r}{choose}"
            )
        frame = frame.loc[[_is_typed(cell, value) for cell in frame[columns[0]]]]
    if frame.empty:
        return "no stored run meets these conditions"
    return to_text(pd.DataFrame([_row(row) for _, row in frame.iterrows()]))


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_typed(cell: Any, typed: str) -> bool:
    """Whether a value of a run is the typed one: the same text or list, or the same number."""
    if isinstance(cell, str | bool):
        return _as_json(cell).replace(", ", ",") == typed.replace(", ", ",")
    if pd.isna(cell):
        return typed == "null"
    with suppress(ValueError):  # numbers of columns with gaps are floats
        return f"{cell:.15g}" == f"{float(typed):.15g}"
    return False


def _row(run: pd.Series[Any]) -> dict[str, str]:
    """One run in the table of all."""
    metric = headline(run)
    style = quantity_style(metric)

    def shown(key: str, scale: float, decimals: int) -> str:
        value = run.get(key)
        return MISSING if value is None or pd.isna(value) else f"{scale * value:.{decimals}f}"

    scores = (f"metrics.{model}.{metric}" for model in ("dense", "pruned"))
    dense, pruned = (shown(key, style.scale, style.decimals) for key in scores)
    return {
        "run": run["run"],
        "status": run["status"],
        "MACs kept (%)": shown("mac_kept_fraction", 100, 2),
        "metric": style.label,
        "dense": dense,
        "pruned": pruned,
        "KL": shown("metrics.fidelity.kl", 1, 4),
    }
