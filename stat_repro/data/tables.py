"""The user's own tables: csv, tsv, jsonl and parquet files as plain columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd

from stat_repro.data.errors import DataError

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")

Columns = dict[str, list[Any]]


def read_table(path: Path) -> Columns:
    """Read all columns of a table.

    Fields of csv and tsv files stay strings, so that a sentence such as "None" or "1" survives; a
    tsv file knows no quotes, a quotation mark is part of the text.

    Args:
        path: File with one of `ENDINGS`, UTF-8; csv and tsv with a header line.

    Returns:
        Values by column name, all lists of the same length.

    Raises:
        DataError: Missing, unreadable or empty file, or another ending.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path}: expected a file ending in {', '.join(ENDINGS)}; got {ending!r}")
    if not path.is_file():
        raise DataError(f"{path}: expected a file; there is none (working folder {Path.cwd()})")
    try:
        if ending == ".jsonl":
            columns = _read_jsonl(path)
        elif ending == ".parquet":
            columns = _columns(pd.read_parquet(path), path)
        else:
            columns = _columns(
                pd.read_csv(
                    path,
                    sep="," if ending == ".csv" else "\t",
                    quoting=csv.QUOTE_MINIMAL if ending == ".csv" else csv.QUOTE_NONE,
                    dtype=str,
                    keep_default_na=False,
                    encoding="utf-8-sig",
                ),
                path,
            )
    except DataError:
        raise
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: expected a table; the file is empty") from None
    except (OSError, ValueError) as error:  # pandas, pyarrow and unicode errors are ValueErrors
        raise DataError(f"{path}: cannot be read as {ending[1:]}: {error}") from error
    if not columns or not next(iter(columns.values())):
        raise DataError(f"{path}: expected at least one row; the table is empty")
    return columns


def _columns(frame: pd.DataFrame, path: Path) -> Columns:
    # pandas takes a surplus first field of csv rows for an index, and shifts the columns.
    if path.suffix.lower() != ".parquet" and not isinstance(frame.index, pd.RangeIndex):
        raise DataError(
            f"{path}: rows have more fields than the header ({', '.join(map(str, frame.columns))})"
            "; quote fields that hold a separator"
        )
    return {str(name): frame[name].tolist() for name in frame.columns}


def _read_jsonl(path: Path) -> Columns:
    """One JSON object per line; all lines must have the keys of the first."""
    columns: Columns = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object; got {line[:60]!r}")
        if not columns:
            columns = {name: [] for name in row}
        if set(row) != set(columns):
            raise DataError(
                f"{path}, line {number}: expected the keys of the first line, "
                f"{sorted(columns)}; got {sorted(row)}"
            )
        for name, value in row.items():
            columns[name].append(value)
    return columns


def column(columns: Columns, name: str, path: Path, key: str) -> list[Any]:
    """One column by name.

    Args:
        columns: What `read_table` returned.
        name: Name of the column.
        path: The file, for the message.
        key: Configuration key that names the column, for the message.

    Raises:
        DataError: No such column; lists those there are.
    """
    if name not in columns:
        raise DataError(
            f"{path}: expected a column {name!r} ({key}); the table has {', '.join(columns)}"
        )
    return columns[name]


def texts(values: list[Any], path: Path, name: str) -> list[str]:
    """The values of a text column.

    Raises:
        DataError: A value is missing, empty or no string; says which row.
    """
    for row, value in enumerate(values, start=1):
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{path}, column {name!r}, row {row}: expected a text; got "
                f"{'an empty one' if isinstance(value, str) else repr(value)}"
            )
    return values
