"""Running text for language models: what calibrates and what is evaluated."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stat_repro.config import DatasetConfig
from stat_repro.data.corpora import CORPORA, corpus_of
from stat_repro.data.corpus_files import CorpusSource
from stat_repro.data.errors import DataError
from stat_repro.data.packaged_text import PACKAGED_JOIN, TEXT_ASSETS, packaged_parts
from stat_repro.data.table_files import ENDINGS, column, read_table, texts

_COLUMN = "dataset.text_column"
_CALIBRATION_KEYS = ("calibration_corpus", "calibration_path", "calibration_split")


@dataclass(frozen=True)
class TextPart:
    """Text for one purpose.

    Attributes:
        documents: Documents in order.
        join: String between documents before tokenising.
        windows: Use the first so many windows; all if None.
    """

    documents: tuple[str, ...]
    join: str
    windows: int | None = None


@dataclass(frozen=True)
class TextData:
    """Text for calibration and text for evaluation, which share no document.

    Attributes:
        name: Label in records and tables.
        calibration: The calibration part.
        evaluation: The evaluated part.
        protocol: What a record says of the text beyond how it was cut: for a corpus its name and
            origin, and what calibrates.
        parts: What records call calibration and evaluation.
    """

    name: str
    calibration: TextPart
    evaluation: TextPart
    protocol: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, str] = ("calibration", "evaluation")

    @property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of the documents per part, one JSON string per line."""
        both = (self.calibration.documents, self.evaluation.documents)
        lines = ("\n".join(map(json.dumps, documents)) for documents in both)
        hashes = (hashlib.sha256(text.encode()).hexdigest() for text in lines)
        return dict(zip(self.parts, hashes, strict=True))


def load_text_data(config: DatasetConfig, split: str = "test") -> TextData:
    """Load text for calibration and evaluation.

    `dataset.calibration_corpus` names another corpus or packaged text to calibrate on.

    Args:
        config: `source` is `corpus:<name>` (see `stat_repro.data.corpora`),
            `asset:nyt_editorials`, or `text` with `train` (calibration) and `test` (evaluation),
            each one document in UTF-8 or a table with a text column; with `held_out` one file.
        split: The evaluated part; other sources than a corpus have only `test`.

    Raises:
        DataError: A source or file that cannot be used, or calibration on the evaluated text.
        stat_repro.assets.cache.AssetError: The packaged text cannot be fetched.
    """
    if config.held_out is not None and config.source != "text":
        raise DataError(
            "dataset.held_out splits questions or one file of yours, not parts of a corpus: "
            f"expected null; got {config.held_out}"
        )
    if r"\n" in config.join:
        raise DataError(
            r"dataset.join: expected line breaks; got a backslash and an n, as the command line "
            r"""keeps them; choose dataset.join=$'"\n"' in a shell, or a file of conf/dataset"""
        )
    prefix, _, name = config.source.partition(":")
    if prefix == "corpus":
        return _corpus_texts(config, name, split)
    if prefix == "asset" and name in TEXT_ASSETS:
        return _packaged_texts(config, name)
    if config.source != "text":
        corpora = ", ".join(f"corpus:{known}" for known in CORPORA)
        raise DataError(
            f"dataset.source: expected text, asset:nyt_editorials, {corpora} for "
            f"task=language_modeling; got {config.source!r}"
        )
    _check_only_corpora_have(config, ("path", "validation", *_CALIBRATION_KEYS))
    calibration, evaluation = (TextPart(part, config.join) for part in _user_texts(config))
    return TextData(config.name, calibration, evaluation)


def _packaged_texts(config: DatasetConfig, name: str) -> TextData:
    corpus = config.calibration_corpus
    keys = _CALIBRATION_KEYS if corpus is None else ()
    _check_only_corpora_have(config, ("path", "validation", *keys))
    calibration, evaluation = (TextPart(part, config.join) for part in packaged_parts(name))
    if corpus is None:
        return TextData(config.name, calibration, evaluation)
    calibration, origin = _other_calibration(config, corpus)
    return TextData(config.name, calibration, evaluation, {"calibrated_on": origin})


def _check_only_corpora_have(config: DatasetConfig, keys: Iterable[str]) -> None:
    for key in keys:
        value = getattr(config, key)
        if value is not None and not (key == "calibration_split" and value == "train"):
            raise DataError(
                f"dataset.{key}: only a corpus (dataset=wikitext2, ptb or c4) has it; "
                f"{config.source} is calibrated on its train part"
            )


def _corpus_texts(config: DatasetConfig, name: str, split: str) -> TextData:
    corpus = corpus_of(name, "dataset.source: corpus")
    evaluated = CorpusSource(
        name=name,
        path=config.path,
        revision=config.revision,
        files={"train": config.train, "validation": config.validation, "test": config.test},
        text_column=config.text_column,
        key="dataset.path",
        split_key="evaluation.split",
    )
    if (config.calibration_corpus or name, config.calibration_split) == (name, split):
        raise DataError(
            f"a model must not be calibrated on what it is evaluated on; got the {split} part of "
            f"{name} for both (dataset.calibration_split, evaluation.split)"
        )
    evaluation, origin = evaluated.read(split, corpus.evaluated_documents)
    if config.calibration_corpus is None:
        calibration, calibrated_on = _own_calibration(config, evaluated, split)
    else:
        calibration, calibrated_on = _other_calibration(config, config.calibration_corpus)
    if calibration.documents == evaluation:
        raise DataError(
            f"a model must not be calibrated on what it is evaluated on; {calibrated_on} and "
            f"{name} {split} have the same content"
        )
    protocol = {
        "corpus": name,
        "text": origin,
        "documents": len(evaluation),
        # WikiText-2 exists raw and with rare words replaced; perplexities of the two differ.
        "unk_in_text": sum(document.count("<unk>") for document in evaluation),
        "calibrated_on": calibrated_on,
    }
    evaluated_part = TextPart(evaluation, config.join, corpus.evaluated_windows)
    parts = (calibrated_on, f"{name} {split}")
    return TextData(config.name, calibration, evaluated_part, protocol, parts)


def _own_calibration(
    config: DatasetConfig, evaluated: CorpusSource, split: str
) -> tuple[TextPart, str]:
    """Another part of the evaluated corpus, and what it is called in records."""
    if config.calibration_path is not None:
        raise DataError(
            "dataset.calibration_path: expected dataset.calibration_corpus with it "
            f"({', '.join(CORPORA)}); got {config.calibration_path!r} alone"
        )
    source = replace(evaluated, split_key="dataset.calibration_split", taken=split)
    return _part(source, config.calibration_split, config.join)


def _other_calibration(config: DatasetConfig, name: str) -> tuple[TextPart, str]:
    """Text of `dataset.calibration_corpus`, and what it is called in records."""
    if name in TEXT_ASSETS:
        if config.calibration_split == "test":
            raise DataError(
                f"dataset.calibration_split: the test part of {name} is for evaluation: expected "
                "train or validation, which are one part; got test"
            )
        return TextPart(packaged_parts(name)[0], PACKAGED_JOIN), f"{name} train"
    corpus = corpus_of(name, "dataset.calibration_corpus", TEXT_ASSETS)
    source = CorpusSource(
        name=name,
        path=config.calibration_path,
        text_column=corpus.text_column,
        key="dataset.calibration_path",
        split_key="dataset.calibration_split",
    )
    return _part(source, config.calibration_split, corpus.join)


def _part(source: CorpusSource, split: str, join: str) -> tuple[TextPart, str]:
    documents, _ = source.read(split, CORPORA[source.name].calibration_documents)
    return TextPart(documents, join), f"{source.name} {split}"


def _user_texts(config: DatasetConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    calibration = _documents(config.train, "dataset.train", "calibration", config.text_column)
    if config.held_out is not None:
        if config.test is not None:
            raise DataError(
                f"dataset.held_out={config.held_out} splits dataset.train: expected no "
                f"dataset.test; got {config.test}"
            )
        return _split(config.join.join(calibration), config.held_out)
    evaluation = _documents(config.test, "dataset.test", "evaluation", config.text_column)
    if calibration == evaluation:
        raise DataError(
            "dataset.train and dataset.test: expected two different texts, because a model must "
            f"not be calibrated on what it is evaluated on; {config.train} and {config.test} have "
            "the same content"
        )
    return calibration, evaluation


def _documents(file: str | None, key: str, part: str, text_column: str) -> tuple[str, ...]:
    """A text column of a table, or a whole file as one document."""
    if file is None or Path(file).suffix.lower() not in ENDINGS:
        return (read_text(file, key, part),)
    path = Path(file).expanduser()
    return tuple(texts(column(read_table(path), text_column, path, _COLUMN), path, text_column))


def _split(text: str, held_out: float) -> tuple[tuple[str], tuple[str]]:
    """The end of a text as the evaluated part, from a line break or a space on."""
    start = int(len(text) * (1 - held_out))
    places = (text.find(mark, start, (start + len(text)) // 2) for mark in "\n ")
    cut = next((place for place in places if place > 0), start)
    return (text[:cut],), (text[cut:],)


def read_text(file: str | Path | None, key: str, part: str) -> str:
    """The text of a file of the user.

    Args:
        file: The file.
        key: What names it, for the messages.
        part: What it is for, for the messages.

    Raises:
        DataError: No such file, no UTF-8 text, or none at all.
    """
    if file is None:
        raise DataError(f"{key}: expected the file with the {part} text, such as {key}=my.txt")
    path = Path(file).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{key}: expected a file; {path} {what} (working folder {Path.cwd()})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{key}: {path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise DataError(f"{key}: expected text; {path} is empty")
    return text
