"""Labelled sentences for classification and regression."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np

from stat_repro.assets import packages
from stat_repro.config import DatasetConfig
from stat_repro.config.data import PARTS
from stat_repro.data.errors import DataError
from stat_repro.data.glue import GlueTask, glue_task, load_glue
from stat_repro.data.labels import class_indices, class_names, fixed_indices, targets
from stat_repro.data.local_parts import class_order
from stat_repro.data.ratings import RatedSnippet, read_ratings
from stat_repro.data.table_files import Columns, column, hash_of_rows, read_table, texts

SENTIMENT_NAMES = ("negative", "positive")
_OWN = ("train", "validation", "test", "text_column", "text_pair_column", "label_column")
# Keys that say where the data lies, by the kind of source that reads them.
_READ: dict[str, tuple[str, ...]] = {
    "asset": (),
    "glue": ("path", "revision"),
    "table": (*_OWN, "held_out"),
}

# Training, validation and test examples of the packaged sets; the order is a fixed permutation.
ASSET_SPLITS: dict[str, tuple[int, int, int]] = {
    "movie_reviews": (8000, 1000, 1605),
    "amazon_reviews": (2595, 371, 742),
    "tweets": (2940, 420, 840),
}


@dataclass(frozen=True)
class TaskData:
    """Labelled sentences in named parts.

    Attributes:
        name: Label in records and tables.
        task: `classification` or `regression`.
        splits: `train` and, where given, `validation` and `test`, with columns `text`,
            `text_pair` (sentence pairs only) and `label` (class index, or float target).
        label_names: Class names by index; None for regression.
        fingerprint: sha256 of the contents per split.
        absent: Why a part is not there, where there is more to say than that it was not given.
        glue: What GLUE fixes, if this is one of its tasks.
    """

    name: str
    task: str
    splits: dict[str, datasets.Dataset]
    label_names: tuple[str, ...] | None
    fingerprint: dict[str, str]
    absent: dict[str, str] = field(default_factory=dict)
    glue: GlueTask | None = None

    def split(self, name: str) -> datasets.Dataset:
        """One part.

        Raises:
            DataError: The part is not there; says why, or how to give it.
        """
        if name not in self.splits:
            why = self.absent.get(name, f"Name its file with dataset.{name}=<file>")
            raise DataError(
                f"{self.name}: expected a {name} part; there are only {', '.join(self.splits)}. "
                f"{why}"
            )
        return self.splits[name]


def load_task_data(config: DatasetConfig, classes: Collection[str] = ()) -> TaskData:
    """Load labelled sentences.

    Args:
        config: `source` is `asset:movie_reviews`, `asset:amazon_reviews`, `asset:tweets`,
            `glue:<task>` or `table`; `task` is classification, regression or similarity.
        classes: Names that the classes of a table may have; it need not have rows of each.

    Returns:
        The parts; a packaged set has all three, a table those whose files are given, and a
        benchmark those that have labels.

    Raises:
        DataError: A source, file, column or label that cannot be used, or no part to calibrate on.
        stat_repro.assets.cache.AssetError: A packaged set cannot be fetched.
    """
    _check_unread(config)
    absent: dict[str, str] = {}
    benchmark = None
    if config.source.startswith("glue:"):
        benchmark = glue_task(config)
        columns, absent = load_glue(config, benchmark)
        names = benchmark.classes
    elif config.source == "table":
        columns, names = _read_user_tables(config, classes)
    else:
        columns, names = _read_asset(config)
    data = TaskData(
        name=config.name,
        task=config.task,
        splits={part: _dataset(values, config.task) for part, values in columns.items()},
        label_names=names,
        fingerprint={part: fingerprint_of(values) for part, values in columns.items()},
        absent=absent,
        glue=benchmark,
    )
    rows = data.split(config.calibration_split)  # refuses before a model is trained
    if config.task == "similarity" and "text_pair" not in rows.column_names:
        raise DataError(
            "dataset.text_pair_column: expected the column of the second sentence where "
            f"task=similarity; got none in {config.source}"
        )
    if config.source == "table":
        check_parts_differ(data.fingerprint, config.calibration_split)
    return data


def check_parts_differ(fingerprint: dict[str, str], calibration: str) -> None:
    """Refuse a part with the content of the one that calibrates.

    Args:
        fingerprint: sha256 by part.
        calibration: Name of that part.

    Raises:
        DataError: Names the part.
    """
    for part, content in fingerprint.items():
        if part != calibration and content == fingerprint[calibration]:
            raise DataError(
                f"dataset.{part}: expected other rows than in dataset.{calibration}, because a "
                "model must not be calibrated on what it is evaluated on; got the same content"
            )


def _check_unread(config: DatasetConfig) -> None:
    """Refuse files and columns that would be passed over."""
    default = DatasetConfig()
    every = (*_OWN, "path", "revision", "held_out")
    read = _READ.get(config.source.partition(":")[0], every)  # an unknown source is refused later
    for key in every:
        if key not in read and getattr(config, key) != getattr(default, key):
            raise DataError(
                f"dataset.{key}: {config.source} does not read it. Your files are "
                "dataset=table_file with dataset.train=<file>, the local copy of a GLUE task is "
                "dataset.path=<folder>"
            )


def _dataset(columns: Columns, task: str) -> datasets.Dataset:
    """The columns in memory (nothing is written) with one type per column on every machine."""
    kinds = {name: datasets.Value("string") for name in columns}
    kinds["label"] = datasets.Value("int64" if task == "classification" else "float64")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def fingerprint_of(columns: Columns) -> str:
    """sha256 of the rows, one JSON line each; equal exactly for equal contents in equal order."""
    rows = zip(*columns.values(), strict=True)
    return hash_of_rows(dict(zip(columns, row, strict=True)) for row in rows)


def _read_asset(config: DatasetConfig) -> tuple[dict[str, Columns], tuple[str, ...] | None]:
    prefix, _, name = config.source.partition(":")
    if prefix != "asset" or name not in ASSET_SPLITS:
        valid = ", ".join(f"asset:{known}" for known in ASSET_SPLITS)
        raise DataError(
            f"dataset.source: expected table, glue:<task>, {valid} for task={config.task}; got "
            f"{config.source!r}"
        )
    snippets = read_ratings(packages.text_file(name))
    classify = config.task == "classification"
    parts = {
        part: _sentiment([snippets[row] for row in rows], classify)
        for part, rows in split_rows(ASSET_SPLITS[name]).items()
    }
    return parts, SENTIMENT_NAMES if classify else None


def _sentiment(snippets: list[RatedSnippet], classify: bool) -> Columns:
    """Sentences with their rating, or with class 1 where the rating is above zero."""
    return {
        "text": [snippet.text for snippet in snippets],
        "label": [int(s.rating > 0) if classify else s.rating for s in snippets],
    }


def split_rows(sizes: tuple[int, int, int]) -> dict[str, list[int]]:
    """The fixed split: consecutive pieces of one permutation of all rows.

    Args:
        sizes: Examples for training, validation and test, all rows together.

    Returns:
        Row numbers per part.
    """
    order = np.random.RandomState(0).permutation(sum(sizes))
    pieces = np.split(order, np.cumsum(sizes)[:-1])
    return {part: piece.tolist() for part, piece in zip(PARTS, pieces, strict=True)}


def _read_user_tables(
    config: DatasetConfig, classes: Collection[str]
) -> tuple[dict[str, Columns], tuple[str, ...] | None]:
    """Text and label columns of the user's files; the classes are those of the training part."""
    if config.train is None:
        raise DataError(
            "dataset.train: expected the file with the calibration sentences (csv, tsv, json, "
            "jsonl or parquet), for example dataset.train=train.csv dataset.test=test.csv"
        )
    given = {"train": config.train, "validation": config.validation, "test": config.test}
    names: tuple[str, ...] | None = None
    parts: dict[str, Columns] = {}
    for part, file in given.items():
        if file is None:
            continue
        path = Path(file).expanduser()
        table = read_table(path)
        parts[part] = _text_columns(table, config, path)
        values = column(table, config.label_column, path, "dataset.label_column")
        what = f"{path}, column {config.label_column!r}"
        if config.task != "classification":
            parts[part]["label"] = targets(values, what)
        else:
            if names is None:  # the training part comes first
                numbered = class_order(path, config.label_column)
                names = numbered or class_names(values, what, classes)
            indices = fixed_indices if numbered else class_indices
            parts[part]["label"] = indices(values, names, what)
    return (parts if config.held_out is None else _held_out(parts, config)), names


def _held_out(parts: dict[str, Columns], config: DatasetConfig) -> dict[str, Columns]:
    """A fixed random draw of the training file's rows becomes the test part."""
    rows = len(parts["train"]["label"])
    held = round(config.held_out * rows) if config.held_out else 0
    if len(parts) > 1 or not 0 < held < rows:
        raise DataError(
            f"dataset.held_out={config.held_out} splits dataset.train: expected no other file and "
            f"rows for both parts; got {', '.join(parts)} with {rows} rows"
        )
    pieces = split_rows((rows - held, 0, held))
    return {
        part: {name: [values[i] for i in pieces[part]] for name, values in parts["train"].items()}
        for part in ("train", "test")
    }


def _text_columns(table: Columns, config: DatasetConfig, path: Path) -> Columns:
    sentences = column(table, config.text_column, path, "dataset.text_column")
    columns = {"text": texts(sentences, path, config.text_column)}
    if config.text_pair_column is not None:
        pair = column(table, config.text_pair_column, path, "dataset.text_pair_column")
        columns["text_pair"] = texts(pair, path, config.text_pair_column)
    return columns
