"""Tables in files: csv, tsv, json, jsonl and parquet as plain columns."""

import csv
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from stat_repro.data.errors import DataError
from stat_repro.entry import listed, one_line

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
# Separator and quoting by ending; a quotation mark in a tsv file is part of the text.
_SEPARATED: dict[str, tuple[str, Literal[0, 3]]] = {
    ".csv": (",", csv.QUOTE_MINIMAL),
    ".tsv": ("\t", csv.QUOTE_NONE),
}

Columns = dict[str, list[Any]]


def read_table(
    path: Path, headerless: Sequence[str] = (), labels: Collection[str] | None = ()
) -> Columns:
    """Read all columns of a table.

    Fields of csv and tsv files stay strings, so that a sentence such as "None" or "1" survives; a
    tsv file knows no quotes. A json file holds one array of objects, or one object per line as
    jsonl does.

    Args:
        path: File with one of `ENDINGS`, UTF-8.
        headerless: Columns, one of them `label`, of csv and tsv files without a header line, where
            such are known. A file is one of them if its first line has that many fields and one of
            `labels` in the place of the label.
        labels: What a label in such a file can be; None for any number.

    Returns:
        Values by column name, all lists of the same length.

    Raises:
        DataError: Missing, unreadable or empty file, another ending, or two columns of one name.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path}: expected a file ending in {', '.join(ENDINGS)}; got {ending!r}")
    if not path.is_file():
        raise DataError(f"{path}: expected a file; there is none (working folder {Path.cwd()})")
    try:
        if ending in (".json", ".jsonl"):
            columns = _read_json(path)
        elif ending == ".parquet":
            columns = _columns(pd.read_parquet(path), path)
        else:
            columns = _columns(_read_separated(path, headerless, labels), path)
    except DataError:
        raise
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: expected a table; the file is empty") from None
    except (OSError, ValueError) as error:  # pandas, pyarrow and unicode errors are ValueErrors
        surplus = isinstance(error, pd.errors.ParserError) and "saw" in str(error)
        way = "choose a csv file for such fields, as a tsv file knows no quotes"
        way = way if ending == ".tsv" else "quote fields that hold a separator"
        hint, reason = f"; {way}" if surplus else "", one_line(error)
        raise DataError(f"{path}: cannot be read as {ending[1:]}: {reason}{hint}") from error
    if not columns or not next(iter(columns.values())):
        raise DataError(f"{path}: expected at least one row; the table is empty")
    return columns


def _read_separated(
    path: Path, headerless: Sequence[str], labels: Collection[str] | None
) -> pd.DataFrame:
    separator, quoting = _SEPARATED[path.suffix.lower()]
    # As a header pandas would rename the second of two columns of one name, and take a surplus
    # first field of all rows for an index.
    frame = pd.read_csv(
        path,
        sep=separator,
        quoting=quoting,
        header=None,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
    )
    first = frame.iloc[0].tolist()
    if len(first) == len(headerless) and _is_label(first[headerless.index("label")], labels):
        return frame.set_axis(list(headerless), axis=1)
    names = [name or f"Unnamed: {place}" for place, name in enumerate(first)]  # as pandas has it
    return frame.iloc[1:].set_axis(names, axis=1)


def _is_label(field: str, labels: Collection[str] | None) -> bool:
    if labels is not None:
        return field in labels
    try:
        float(field)
    except ValueError:
        return False
    return True


def _columns(frame: pd.DataFrame, path: Path) -> Columns:
    if not frame.columns.is_unique:
        raise DataError(f"{path}: expected columns of different names; got {listed(frame.columns)}")
    return {str(name): values.tolist() for name, values in frame.items()}


def _read_json(path: Path) -> Columns:
    """Objects that all have the keys of the first."""
    columns: Columns = {}
    for place, row in _json_values(path):
        if not isinstance(row, dict):
            raise DataError(f"{path}, {place}: expected an object; got {json.dumps(row)[:60]}")
        if not columns:
            columns = {name: [] for name in row}
        if set(row) != set(columns):
            raise DataError(
                f"{path}, {place}: expected the keys of the first object, "
                f"{sorted(columns)}; got {sorted(row)}"
            )
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _json_values(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a json or jsonl file, each with its place for messages."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        try:
            values = json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: not JSON: {error}") from None
        yield from ((f"element {number}", value) for number, value in enumerate(values, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            forms = "one object per line"
            if path.suffix.lower() == ".json":
                forms = f"one array of objects, or {forms}"
            raise DataError(f"{path}, line {number}: not JSON ({forms}): {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values of one key `json` would keep the last."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"expected keys that differ in one object; got {listed(names)}")
    return dict(pairs)


def hash_of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of rows, one JSON line each; equal exactly for equal contents in equal order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


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
            f"{path}: expected a column {name!r} ({key}); the table has {listed(columns)}"
        )
    return columns[name]


def texts(
    values: list[Any], path: Path | str, name: str, *, empty_allowed: bool = False
) -> list[str]:
    """The values of a text column.

    Args:
        values: The values.
        path: Where they are from, for the message.
        name: Name of the column, for the message.
        empty_allowed: Whether a text may be empty, as a few in published benchmarks are.

    Raises:
        DataError: A value is missing, empty or no text; says which row.
    """
    for row, value in enumerate(values, start=1):
        got = not_a_text(value)
        if got is None and not (value.strip() or empty_allowed):
            got = "an empty one"
        if got is not None:
            raise DataError(f"{path}, column {name!r}, row {row}: expected a text; got {got}")
    return values


def not_a_text(value: Any) -> str | None:
    """What a value is instead of a text; None for a text, which may be empty."""
    if not isinstance(value, str):
        return repr(value)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON of a text that was cut within an emoji
        half = ascii(value[error.start])
        return f"one with half a surrogate pair, {half}, at character {error.start + 1}"
    return None
