"""Files with questions, contexts and answers: the official layout of SQuAD, and flat tables."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stat_repro.data.errors import DataError
from stat_repro.data.local_parts import read_part
from stat_repro.data.table_files import Columns, not_a_text
from stat_repro.entry import listed

COLUMNS = ("id", "context", "question", "answers")


@dataclass(frozen=True)
class Answer:
    """An answer as an annotator marked it.

    Attributes:
        text: The marked text.
        start: Where it begins in the context, in characters.
    """

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question about a paragraph.

    Attributes:
        id: Unique within a part.
        title: Article of the paragraph; empty if the data names none.
        context: The paragraph.
        text: The question.
        answers: All marked answers; none if the paragraph does not answer the question.
    """

    id: str
    title: str
    context: str
    text: str
    answers: tuple[Answer, ...]

    @property
    def span(self) -> tuple[int, int] | None:
        """Characters of the first answer without white space around it; None if not there."""
        if not self.answers:
            return None
        first = self.answers[0]
        if first.start < 0 or not self.context.startswith(first.text, first.start):
            return None
        start = first.start + len(first.text) - len(first.text.lstrip())
        stop = first.start + len(first.text.rstrip())
        return (start, stop) if start < stop else None

    @property
    def misplaced(self) -> bool:
        """Whether there is an answer, but not where its offset says."""
        return bool(self.answers) and self.span is None


def read_file(path: Path) -> tuple[list[Question], bool]:
    """Questions of one file.

    Args:
        path: `.json` in the official layout, or a table (.parquet, .jsonl, .json) or folder of
            `save_to_disk` in the hub's columns.

    Returns:
        The questions in order, and whether the file says that it is SQuAD 2.0 (a table cannot).

    Raises:
        DataError: An unreadable file, or one in another form.
    """
    official = _official(path)
    if official is None:
        return read_rows(read_part([path]), str(path)), False
    try:
        return list(_nested(official["data"])), str(official.get("version")).lstrip("v") == "2.0"
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected SQuAD's layout, data / paragraphs / qas with id, question and "
            f"answers (text, answer_start); {type(error).__name__}: {error}"
        ) from error


def _official(path: Path) -> Mapping[str, Any] | None:
    """The content of a file in the official layout; None for a table."""
    if path.suffix.lower() != ".json":
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None  # no file, or not one JSON value; read_part says what is wrong, if anything is
    return content if isinstance(content, dict) and "data" in content else None


def _nested(articles: list[dict[str, Any]]) -> Iterator[Question]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for entry in paragraph["qas"]:
                answers = [] if entry.get("is_impossible") else entry["answers"]
                row = {"title": article.get("title", ""), "context": paragraph["context"], **entry}
                yield _question(row, answers)


def _question(row: Mapping[str, Any], answers: list[dict[str, Any]]) -> Question:
    texts = {name: row[name] for name in ("id", "context", "question")}
    for name, value in (*texts.items(), *(("answer", answer["text"]) for answer in answers)):
        if got := not_a_text(value):
            raise TypeError(f"expected a text as {name}, got {got}")
    return Question(
        id=row["id"],
        title=row.get("title") or "",
        context=row["context"],
        text=row["question"],
        answers=tuple(Answer(a["text"], int(a["answer_start"])) for a in answers),
    )


def read_rows(columns: Columns, where: str) -> list[Question]:
    """Questions of a flat table.

    Args:
        columns: `id`, `context`, `question`, `answers` and possibly `title`; answers as on the hub,
            a mapping of the lists `text` and `answer_start`, or a list of such pairs.
        where: Name of the table, for messages.

    Raises:
        DataError: A missing column or a row that is no question.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise DataError(
            f"{where}: expected SQuAD's layout, or a table with {', '.join(COLUMNS)} (and title); "
            f"{', '.join(missing)} missing, there are {listed(columns)}"
        )
    questions = []
    for number in range(len(columns["id"])):
        row = {name: values[number] for name, values in columns.items()}
        try:
            questions.append(_question(row, _pairs(row["answers"])))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}, row {number + 1}: expected id, question and context as texts and "
                f"answers with text and answer_start; {type(error).__name__}: {error}"
            ) from error
    return questions


def _pairs(answers: Any) -> list[dict[str, Any]]:
    """One mapping per answer; parquet files give arrays."""
    if isinstance(answers, list | np.ndarray):
        return list(answers)
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]
