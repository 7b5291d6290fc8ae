"""SQuAD 1.1 and 2.0: questions about a paragraph that a piece of it answers, or nothing does.

Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, EMNLP 2016
(arXiv 1606.05250); Rajpurkar, Jia, Liang, Know What You Don't Know, ACL 2018 (arXiv 1806.03822).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from stat_repro.config import DatasetConfig
from stat_repro.data.errors import DataError
from stat_repro.data.hub import from_hub, local_copy
from stat_repro.data.local_parts import SAVED, local_form, part_files, table_of
from stat_repro.data.squad_files import Question, read_file, read_rows
from stat_repro.data.table_files import ENDINGS, hash_of_rows
from stat_repro.data.task_data import check_parts_differ

_KEY = "dataset.path"
_PARTS = {
    "train": ("train", "train-v1.1", "train-v2.0"),
    "validation": ("validation", "dev", "dev-v1.1", "dev-v2.0"),
    "test": ("test",),
}
_SUBFOLDERS = ("plain_text", "squad_v2", "data")
_LOCAL_FORM = f"{local_form(_PARTS, _SUBFOLDERS)}; .json also in the official layout"
# Offsets that count bytes or other characters are wrong nearly everywhere, slips are rare.
_MISPLACED_SHARE = 0.01


@dataclass(frozen=True)
class QuestionData:
    """Questions in named parts.

    Attributes:
        name: Label in records and tables.
        version: `2.0` if the files say so or a question has no answer, else `1.1`. It decides
            whether "no answer" may be predicted, and how predictions are scored.
        splits: `train`, `validation`, `test`, as far as there are.
        absent: Why a part is not there, where there is more to say than that it was not given.
        task: The task as `DatasetConfig` names it.
    """

    name: str
    version: str
    splits: dict[str, tuple[Question, ...]]
    absent: dict[str, str] = field(default_factory=dict)
    task: str = "question_answering"

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """sha256 per part, over all that a question has, in order."""
        return {part: hash_of_rows(map(asdict, rows)) for part, rows in self.splits.items()}

    def split(self, name: str) -> tuple[Question, ...]:
        """One part.

        Raises:
            DataError: The part is not there; says which are.
        """
        if name not in self.splits:
            raise DataError(
                f"{self.name}: expected a {name} part; there are only {', '.join(self.splits)}. "
                f"{self.absent.get(name, '')}".rstrip()
            )
        return self.splits[name]


def load_questions(config: DatasetConfig) -> QuestionData:
    """Load SQuAD, or a set in its form.

    Args:
        config: `source` is `squad`; `path` is a name on the hub (`rajpurkar/squad`,
            `rajpurkar/squad_v2`), a folder with train and dev files, or with `held_out` one file
            that is split here. Or `path` is null, and `train`, `validation` and `test` are files or
            folders of such files, all of which belong to the part. Files are in the official layout
            (.json) or tables in the hub's columns (.parquet, .jsonl, .json, a folder of
            `save_to_disk`).

    Returns:
        The parts that are there; the test part of SQuAD is hidden.

    Raises:
        DataError: Data that cannot be had or is not in one of these forms, a split that cannot be
            made, no part to calibrate on, or answers that are not where the data says.
    """
    if config.source != "squad":
        raise DataError(
            f"dataset.source: expected squad for task=question_answering; got {config.source!r}"
        )
    given = {part: path for part in _PARTS if (path := getattr(config, part)) is not None}
    local = None if config.path is None else local_copy(config.path, _KEY)
    absent: dict[str, str] = {}
    if given:
        parts, marked = _from_parts(given, config)
    elif config.path is None:
        raise DataError(
            f"{_KEY}: expected rajpurkar/squad, rajpurkar/squad_v2 or a path, or files as "
            "dataset.train and dataset.validation; got null"
        )
    elif local is None:
        parts, marked = _from_hub(config)
    elif local.is_dir() and not (local / SAVED).is_file():
        files = part_files(local, _PARTS, _SUBFOLDERS)
        _refuse_held_out(config, f"{local} is a folder of parts")
        parts, marked = _read(files)
        absent = dict.fromkeys(_PARTS, f"{local} has no such file")
    else:
        parts, marked = _from_one_file(local, config)
        absent = {"test": f"{local} is split into two parts"}
    for name, questions in parts.items():
        _check(questions, f"{config.name}, {name} part")
    unanswerable = any(not question.answers for part in parts.values() for question in part)
    data = QuestionData(config.name, "2.0" if marked or unanswerable else "1.1", parts, absent)
    data.split(config.calibration_split)  # refuses before a model is trained
    if given:
        check_parts_differ(data.fingerprint, config.calibration_split)
    return data


Parts = dict[str, tuple[Question, ...]]


def _from_hub(config: DatasetConfig) -> tuple[Parts, bool]:
    assert config.path is not None
    _refuse_held_out(config, "the data set on the hub has both parts")
    parts = {}
    for part in ("train", "validation"):
        rows = from_hub(
            config.path, split=part, key=_KEY, local_form=_LOCAL_FORM, revision=config.revision
        )
        parts[part] = tuple(read_rows(table_of(rows), f"{config.path}, split {part}"))
    return parts, False


def _from_parts(given: dict[str, str], config: DatasetConfig) -> tuple[Parts, bool]:
    """Files as they lie: one, or all in a folder, for each part."""
    if config.path is not None:
        raise DataError(
            f"{_KEY}: expected null beside dataset.{next(iter(given))}; got {config.path}; choose "
            f"files of parts, or one folder with {_LOCAL_FORM}"
        )
    _refuse_held_out(config, "the parts are given")
    files: dict[str, tuple[Path, ...]] = {}
    for part, path in given.items():
        place = Path(path).expanduser()
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        files[part] = tuple(file for file in inside if file.suffix.lower() in ENDINGS)
        if not files[part] or not place.exists():
            raise DataError(
                f"dataset.{part}={path}: expected a file, or a folder with files "
                f"({', '.join(ENDINGS)}), of questions (working folder {Path.cwd()})"
            )
    return _read(files)


def _read(files: Mapping[str, Sequence[Path]]) -> tuple[Parts, bool]:
    read = {part: [read_file(file) for file in paths] for part, paths in files.items()}
    parts = {part: tuple(q for questions, _ in read[part] for q in questions) for part in read}
    return parts, any(marked for files in read.values() for _, marked in files)


def _refuse_held_out(config: DatasetConfig, reason: str) -> None:
    if config.held_out is not None:
        raise DataError(
            f"dataset.held_out splits one file, but {reason}: expected null; got {config.held_out}"
        )


def _from_one_file(file: Path, config: DatasetConfig) -> tuple[Parts, bool]:
    if config.held_out is None:
        raise DataError(
            f"{_KEY}={file}: one file holds one part. Expected a folder with {_LOCAL_FORM}, or "
            "dataset.held_out=0.3 to evaluate on a fixed share of its articles"
        )
    questions, marked = read_file(file)
    return split_articles(questions, config.held_out, str(file)), marked


def split_articles(questions: Sequence[Question], held_out: float, where: str) -> Parts:
    """A fixed split by article, so that no paragraph is in both parts.

    Whole articles, in one fixed random order, go to the validation part until it has the asked
    share of the questions or just more.

    Args:
        questions: All questions.
        held_out: Share of the questions for the validation part.
        where: Name of the file, for the message.

    Returns:
        `train` and `validation`, questions in the file's order.

    Raises:
        DataError: A question without a title, or too few articles for two parts.
    """
    sizes = Counter(question.title for question in questions)
    if "" in sizes:
        raise DataError(
            f"{where}: dataset.held_out splits by article: expected a title for every question; "
            f"{sizes['']} have none"
        )
    titles = list(sizes)
    chosen: set[str] = set()
    for index in np.random.RandomState(0).permutation(len(titles)):
        if sum(sizes[title] for title in chosen) >= held_out * len(questions):
            break
        chosen.add(titles[index])
    if len(chosen) == len(titles):
        raise DataError(
            f"{where}: dataset.held_out={held_out} of {len(titles)} articles leaves none to train "
            "on; expected more articles, a smaller share, or another file to evaluate on "
            "(stat-repro prune --test)"
        )
    return {
        "train": tuple(q for q in questions if q.title not in chosen),
        "validation": tuple(q for q in questions if q.title in chosen),
    }


def _check(questions: Sequence[Question], where: str) -> None:
    if not questions:
        raise DataError(f"{where}: expected at least one question; got none")
    repeated, times = Counter(question.id for question in questions).most_common(1)[0]
    if times > 1:
        raise DataError(f"{where}: expected ids that differ; {repeated!r} comes {times} times")
    misplaced = [question for question in questions if question.misplaced]
    if len(misplaced) > max(1, _MISPLACED_SHARE * len(questions)):
        example = misplaced[0]
        answer = example.answers[0]
        there = example.context[answer.start : answer.start + len(answer.text)]
        raise DataError(
            f"{where}: expected every answer where answer_start says, counted in characters; "
            f"{len(misplaced)} of {len(questions)} are not, such as {answer.text!r} of "
            f"{example.id!r}, where the context has {there!r}"
        )
