"""Reading a part of a corpus: from the hub, or from the files that a local copy may consist of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from stat_repro.config.data import PARTS
from stat_repro.data.corpora import CORPORA, Corpus
from stat_repro.data.errors import DataError
from stat_repro.data.hub import from_hub, local_copy
from stat_repro.data.table_files import texts
from stat_repro.entry import listed, one_line

_STEMS = {"train": ("train",), "validation": ("validation", "valid"), "test": ("test",)}
_JSON_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_TEXT_ENDINGS = (".txt", ".raw", ".tokens")
# The last one is how the hub's converter names a data set's only file.
_LOCAL_ENDINGS = (".txt", *_JSON_ENDINGS, ".parquet", "-00000-of-00001.parquet")


@dataclass(frozen=True)
class CorpusSource:
    """Where one corpus is read from.

    Attributes:
        name: Name in `CORPORA`.
        path: Name on the hub, or a local folder or file; None for the usual name of the corpus.
        text_column: Column of the text in tables.
        key: Configuration key of `path`, for messages.
        split_key: Configuration key of the part that is wanted, for messages.
        revision: Revision on the hub; None for the usual one of the corpus.
        files: Local file by part, which comes before `path`; empty where no key names them.
        taken: Part that cannot be wanted, because it is evaluated.
    """

    name: str
    path: str | None
    text_column: str
    key: str
    split_key: str
    revision: str | None = None
    files: Mapping[str, str | None] = field(default_factory=dict)
    taken: str | None = None

    def read(self, part: str, documents: int | None) -> tuple[tuple[str, ...], str]:
        """The documents of a part, and where they came from in words.

        Args:
            part: `train`, `validation` or `test`.
            documents: Read only the first so many; all if None.

        Raises:
            DataError: There is no such part, or it cannot be read.
        """
        corpus = CORPORA[self.name]
        if part not in corpus.files:
            raise DataError(
                f"{self.split_key}: {self.name} has the parts {', '.join(corpus.files)}; "
                f"got {part!r}"
            )
        file = self.files.get(part)
        if file is None:
            local = local_copy(corpus.hub if self.path is None else self.path, self.key)
        else:
            local = local_copy(str(Path(file).expanduser().absolute()), f"dataset.{part}")
        if local is None:
            rows, origin = self._from_hub(corpus, part, documents)
        else:
            if file is None and local.is_dir():
                local = self._find(corpus, local, part)
            elif file is None and self.taken is not None:
                raise DataError(
                    f"{self.key}={local}: one file is the evaluated part; name that of the {part} "
                    f"part with dataset.{part}=<file>, or calibrate on another corpus with "
                    "dataset.calibration_corpus"
                )
            rows, origin = read_local(local, corpus, self.text_column, documents)
        if not any(row.strip() for row in rows):
            raise DataError(f"{self.name} {part}: expected text; {local or origin} has none")
        return tuple(rows), origin

    def _from_hub(self, corpus: Corpus, part: str, documents: int | None) -> tuple[list[str], str]:
        name = corpus.hub if self.path is None else self.path
        # Revision and file names are those of that repository, not of copies of the corpus.
        known = name == corpus.hub
        revision = corpus.revision if known and self.revision is None else self.revision
        table = from_hub(
            name,
            split=part,
            key=self.key,
            local_form=f"{_wanted(corpus, part)} in it",
            subset=corpus.subset,
            revision=revision,
            data_files=corpus.files[part] if known else None,
            first=documents,
        )
        origin = f"hub: {name}{f' {corpus.subset}' if corpus.subset else ''}"
        origin += f", revision {revision}" if revision else ""
        return _texts(table, self.text_column, origin), origin

    def _find(self, corpus: Corpus, folder: Path, part: str) -> Path:
        """The one file (or saved data set) of a part in a folder."""
        files = files_of(corpus, folder, (part,))
        if len(files) == 1:
            return files[0]
        if files:
            raise DataError(
                f"{self.key}={folder}: expected one file of the {part} part; got "
                f"{', '.join(path.name for path in files)}. Name the one you mean with "
                f"{self._file_key(part)}=<file>"
            )
        others = [other for other in corpus.files if files_of(corpus, folder, (other,))]
        usable = [other for other in others if other != self.taken]
        instead = " or ".join(f"{self.split_key}={other}" for other in usable)
        raise DataError(
            f"{self.key}={folder}: expected the {part} part ({_wanted(corpus, part)}); got "
            f"{', '.join(others) or 'no part at all'}. Add it, or name its file with "
            f"{self._file_key(part)}=<file>{f', or use another part: {instead}' if usable else ''}"
        )

    def _file_key(self, part: str) -> str:
        """Configuration key that names the file of a part."""
        return f"dataset.{part}" if self.files else self.key


def read_local(
    path: Path, corpus: Corpus, text_column: str, documents: int | None
) -> tuple[list[str], str]:
    """Documents of a local file or saved data set, and what it was in words.

    Text is one document as it is; only the release's own files are cut into the hub's rows.

    Raises:
        DataError: A format that is not known, no such column, or a broken file.
    """
    name = path.name
    try:
        if path.is_dir():
            rows = islice(datasets.load_from_disk(str(path)), documents)
            return _texts(rows, text_column, name), "local: saved data set"
        if name.endswith(_TEXT_ENDINGS):
            text = path.read_text(encoding="utf-8-sig")
            if name in release_names(corpus):
                return corpus.rows(text)[:documents], "local: release file, rows as on the hub"
            return [text], "local: one document as it is"
        kind = "parquet" if name.endswith(".parquet") else "json"
        if kind == "json" and not name.endswith(_JSON_ENDINGS):
            known = ", ".join((*_TEXT_ENDINGS, *_JSON_ENDINGS, ".parquet"))
            raise DataError(f"{path}: expected text or a table ({known}); got {name!r}")
        # Streamed: of a shard of C4 only the beginning is unpacked.
        table = datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)
        return _texts(islice(table, documents), text_column, name), "local: table"
    except DataError:
        raise
    except (OSError, EOFError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = one_line(error)
        raise DataError(f"{path}: cannot be read as text of a corpus: {reason}") from error


def _texts(table: Iterable[dict[str, Any]], column: str, place: str) -> list[str]:
    """One column; rows may be empty, as the hub's rows between paragraphs are."""
    rows = list(table)
    if rows and column not in rows[0]:
        raise DataError(
            f"{place}: expected a column {column!r} (dataset.text_column); it has {listed(rows[0])}"
        )
    return texts([row.get(column) for row in rows], place, column, empty_allowed=True)


def release_names(corpus: Corpus, parts: tuple[str, ...] = PARTS) -> list[str]:
    """Names of a release's own files, whose lines are read as the rows of the hub."""
    stems = [stem for part in parts for stem in _STEMS[part]]
    return [pattern.format(stem) for pattern in corpus.release for stem in stems]


def _local_names(corpus: Corpus, part: str) -> list[str]:
    """Names that the file of a part may have in a local folder."""
    names = release_names(corpus, (part,))
    names += [f"{stem}{ending}" for stem in _STEMS[part] for ending in _LOCAL_ENDINGS]
    hub_file = corpus.files.get(part)
    if hub_file is not None:
        base = Path(hub_file).name
        names += [hub_file, base] if part in base else [hub_file]
    return names


def files_of(corpus: Corpus, folder: Path, parts: tuple[str, ...] = PARTS) -> list[Path]:
    """What a folder has of some parts: files, or data sets saved by `datasets`."""
    present = []
    for part in parts:
        files = [folder / name for name in _local_names(corpus, part)]
        saved = [folder / stem for stem in _STEMS[part]]
        present += [path for path in files if path.is_file()]
        present += [path for path in saved if (path / "state.json").is_file()]
    return present


def _wanted(corpus: Corpus, part: str) -> str:
    """The plainest names of a part's local file, for messages."""
    hub_file = corpus.files[part]
    special = release_names(corpus, (part,))[-1:]
    special += [] if hub_file is None or corpus.release else [Path(hub_file).name]
    return " or ".join([f"{_STEMS[part][-1]}.txt", f"{part}.jsonl", *special])
