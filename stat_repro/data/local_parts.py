"""Local copies of benchmarks: which file or folder holds which part, and what is in it."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import datasets
from pyarrow import parquet

from stat_repro.data.errors import DataError
from stat_repro.data.table_files import ENDINGS, Columns, read_table
from stat_repro.entry import listed

SAVED = "state.json"  # what `save_to_disk` leaves beside the rows
_SHARD = re.compile(r"(?P<stem>\w+)-\d{5}-of-(?P<count>\d{5})\.parquet")


def local_form(parts: Mapping[str, Sequence[str]], subfolders: Sequence[str]) -> str:
    """What a local copy consists of, in words.

    Args:
        parts: Names of files by part.
        subfolders: Subfolders that may hold them.
    """
    files = " and ".join(" or ".join(parts[part]) for part in ("train", "validation"))
    below = " or ".join(f"{name}/" for name in dict.fromkeys(subfolders))
    return f"{files} ({', '.join(ENDINGS)}, or a folder of save_to_disk) in it or in {below}"


def part_files(
    folder: Path, parts: Mapping[str, Sequence[str]], subfolders: Sequence[str]
) -> dict[str, tuple[Path, ...]]:
    """Where the parts of a data set lie in a local copy.

    A part is a table file, the parquet shards of the hub's repository, or a folder of
    `save_to_disk`; it lies in the folder itself or in one of the subfolders.

    Args:
        folder: The local copy, `dataset.path`.
        parts: Names of files, without ending, by part.
        subfolders: Subfolders that may hold them; case does not matter.

    Returns:
        For every part that is there its file, its shards in order, or its folder.

    Raises:
        DataError: No folder, no part at all, missing shards, or two forms of one part.
    """
    expected = local_form(parts, subfolders)
    if not folder.is_dir():
        raise DataError(f"dataset.path={folder}: expected a folder with {expected}; got a file")
    names = {name.lower() for name in subfolders}
    below = [c for c in sorted(folder.iterdir()) if c.is_dir() and c.name.lower() in names]
    children = [child for place in (folder, *below) for child in sorted(place.iterdir())]
    files: dict[str, tuple[Path, ...]] = {}
    for part, stems in parts.items():
        forms = _forms(children, stems)
        if len(forms) > 1:
            both = " and ".join(str(form[0]) for form in forms)
            raise DataError(f"dataset.path={folder}: expected one {part} part; got {both}")
        if forms:
            files[part] = forms[0]
    if not files:
        seen = listed(child.name for child in children) or "nothing"
        raise DataError(f"dataset.path={folder}: expected {expected}; got {seen}")
    return files


def _forms(children: Sequence[Path], stems: Sequence[str]) -> list[tuple[Path, ...]]:
    """The forms in which a part is there; the shards of one set are one form."""
    forms: list[tuple[Path, ...]] = []
    shards: dict[tuple[Path, str, int], list[Path]] = {}
    for child in children:
        shard = _SHARD.fullmatch(child.name)
        if shard is not None and shard["stem"] in stems:
            shards.setdefault((child.parent, shard["stem"], int(shard["count"])), []).append(child)
        elif (child.name in stems and (child / SAVED).is_file()) or (
            child.stem in stems and child.suffix.lower() in ENDINGS
        ):
            forms.append((child,))
    for (_, _, count), files in shards.items():
        if len(files) != count:
            raise DataError(f"{files[0]}: expected {count} such files; got {len(files)}")
        forms.append(tuple(files))
    return forms


def content_files(files: Sequence[Path]) -> list[Path]:
    """The files that decide what a part contains: itself, or those of a saved folder.

    Args:
        files: One entry of what `part_files` returns.
    """
    content: list[Path] = []
    for file in files:
        saved = [*file.glob("*.arrow"), *file.glob("dataset_info.json")]
        content += sorted(saved) if file.is_dir() else [file]
    return content


def read_part(
    files: Sequence[Path], headerless: Sequence[str] = (), labels: Collection[str] | None = ()
) -> Columns:
    """The columns of a part.

    Args:
        files: One entry of what `part_files` returns.
        headerless: See `read_table`.
        labels: Likewise.

    Raises:
        DataError: A file or folder that cannot be read.
    """
    tables = []
    for file in files:
        rows = _rows_with_classes(file)
        if rows is None:
            tables.append(read_table(file, headerless, labels))
        elif len(rows):  # a shard may be empty, a part may not
            tables.append(table_of(rows))
    if not tables:
        raise DataError(f"{files[0]}: expected at least one row; the saved data set is empty")
    return {name: [v for table in tables for v in table[name]] for name in tables[0]}


def _rows_with_classes(file: Path) -> datasets.Dataset | tuple[()] | None:
    """What `datasets` wrote, as a folder or as parquet, which names its classes; else None."""
    try:
        if file.is_dir():
            # datasets 5 writes no file for no rows and cannot read that; datasets 4 does both.
            rows = datasets.load_from_disk(str(file)) if list(file.glob("*.arrow")) else ()
        elif _features(file):
            rows = datasets.Dataset(parquet.read_table(file))
        else:
            return None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read by datasets: {error}") from error
    return rows


def _features(file: Path) -> datasets.Features:
    """What `datasets` says of the columns of a parquet file that it wrote; empty for others."""
    schema = parquet.read_schema(file) if file.suffix.lower() == ".parquet" else None
    if schema is None or b"huggingface" not in (schema.metadata or {}):
        return datasets.Features()
    return datasets.Features.from_arrow_schema(schema)


def class_order(file: Path, column: str) -> tuple[str, ...]:
    """Names of the classes that a parquet file of `datasets` numbers; none if they are numbers."""
    feature = _features(file).get(column)
    names = feature.names if isinstance(feature, datasets.ClassLabel) else ()
    return () if any(name.lstrip("+-").isdigit() for name in names) else tuple(names)


def table_of(rows: datasets.Dataset) -> Columns:
    """All columns, with the names of the classes in place of a data set's indices."""
    table: Columns = {}
    for name in rows.column_names:
        values, feature = rows[name][:], rows.features[name]
        if isinstance(feature, datasets.ClassLabel):
            values = [v if v is None or v < 0 else feature.names[v] for v in values]
        table[name] = values
    return table
