"""Batches: sentences of similar length padded together, and windows of equal length."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import datasets
import torch
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from stat_repro.data.errors import DataError

T = TypeVar("T")
Batch = dict[str, torch.Tensor]
Encoded = dict[str, list[int]]
# A tokenizer's output holds far more than the ids: for all of MNLI at once some gigabytes.
_ENCODED_AT_ONCE = 1000
_warn_once = cache(logging.getLogger("stat_repro").warning)


def check_positions(tokens: int, positions: int | None, key: str = "dataset.max_length") -> None:
    """Refuse inputs that may be longer than the model can read.

    Rotary positions could be computed beyond the limit, but nothing was trained there.

    Args:
        tokens: Tokens of an input at most.
        positions: Positions of the model; None if it names no limit.
        key: What these tokens were given as.

    Raises:
        DataError: More tokens than positions.
    """
    if positions is not None and tokens > positions:
        raise DataError(
            f"{key}: expected at most {positions} tokens, the model's positions; got {tokens}; "
            f"choose {key}={positions} or less"
        )


def encode_sentences(
    tokenizer: PreTrainedTokenizerBase, rows: datasets.Dataset, max_length: int
) -> list[Encoded]:
    """Token ids of sentences or sentence pairs, with special tokens, unpadded.

    A warning says how many are cut; once, although both models read the evaluated part.

    Args:
        tokenizer: Tokenizer of the model.
        rows: Columns `text` and, for pairs, `text_pair`.
        max_length: Tokens after which a sentence is cut.

    Returns:
        Per row the lists that the tokenizer gives (`input_ids`, `attention_mask`, and
        `token_type_ids` where the model has token types).

    Raises:
        DataError: A row without tokens, as an empty sentence is where no special ones are added.
    """
    encoded: list[Encoded] = []
    cut = 0
    for part in rows.iter(_ENCODED_AT_ONCE):
        texts = part["text"]
        lists = tokenizer(texts, part.get("text_pair"), truncation=True, max_length=max_length)
        encoded += [{key: lists[key][row] for key in lists} for row in range(len(texts))]
        if lists.encodings is None:  # a slow tokenizer does not say what it cut
            cut += sum(len(ids) == max_length for ids in lists["input_ids"])
        else:
            cut += sum(bool(one.overflowing) for one in lists.encodings)
    for number, row in enumerate(encoded, start=1):
        if not row["input_ids"]:
            raise DataError(
                f"sentence {number}: expected at least one token; got none for "
                f"{rows[number - 1]['text']!r}, as {type(tokenizer).__name__} adds no special "
                "tokens; choose data without it, or a tokenizer that adds one"
            )
    if cut:
        _warn_once(
            f"dataset.max_length: {cut} of {len(rows)} sentences have more than {max_length} "
            "tokens and are cut there; choose a larger one to read more (stat-repro prune or eval: "
            "--set dataset.max_length=..., run.py: dataset.max_length=...)"
        )
    return encoded


def length_bucketed(encoded: Sequence[Encoded], batch_size: int) -> list[list[int]]:
    """Group examples of similar length, longest first, so that memory peaks in the first batch.

    Args:
        encoded: Examples.
        batch_size: Examples per group; the last may be smaller.

    Returns:
        The position of every example once; equal lengths keep their order.
    """
    order = sorted(range(len(encoded)), key=lambda position: -len(encoded[position]["input_ids"]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def pad_batch(
    tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Encoded], indices: Sequence[int]
) -> Batch:
    """Pad examples to the longest of them, on the right: positions must not depend on the batch.

    Args:
        tokenizer: Tokenizer that made the examples.
        encoded: Examples.
        indices: The B examples of this batch.

    Returns:
        int64 tensors (B, S): `input_ids`, `attention_mask`, and `token_type_ids` if there are.

    Raises:
        DataError: The tokenizer has no pad token.
    """
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"sentences need padding, but {type(tokenizer).__name__} of "
            f"{tokenizer.name_or_path!r} has no pad token; set tokenizer.pad_token (for example "
            "to its eos_token) in the model's folder"
        )
    rows = [encoded[index] for index in indices]
    pad = pad_without_fast_tokenizer_warning
    return dict(pad(tokenizer, rows, padding_side="right", return_tensors="pt"))


@dataclass(frozen=True)
class LazySequence(Generic[T]):
    """Values that are made when they are asked for, any number of times.

    Attributes:
        parts: What each value is made from.
        make: Makes one.
    """

    parts: Sequence[Any]
    make: Callable[[Any], T]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> T:
        return self.make(self.parts[index])

    def __iter__(self) -> Iterator[T]:
        return map(self.make, self.parts)


def padded_batches(
    tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Encoded], batch_size: int
) -> LazySequence[tuple[list[int], Batch]]:
    """Batches of examples of similar length, padded only when they are read.

    Args:
        tokenizer: Tokenizer that made the examples.
        encoded: N examples.
        batch_size: Examples per batch.

    Returns:
        Pairs of the positions of a batch's examples (0 to N - 1 once each over all batches) and
        the batch.
    """
    groups = length_bucketed(encoded, batch_size)
    return LazySequence(groups, lambda group: (group, pad_batch(tokenizer, encoded, group)))


def calibration_batches(
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Encoded],
    batch_size: int,
    labels: torch.Tensor | None = None,
) -> LazySequence[Batch]:
    """The batches of `padded_batches` without the positions.

    Args:
        tokenizer: Tokenizer that made the examples.
        encoded: N examples.
        batch_size: Examples per batch.
        labels: Class or number of every example, (N,); the batches have them as `labels`, where
            they are given.
    """

    def batch(group: list[int]) -> Batch:
        inputs = pad_batch(tokenizer, encoded, group)
        return inputs if labels is None else {**inputs, "labels": labels[group]}

    return LazySequence(length_bucketed(encoded, batch_size), batch)


def sentence_batches(
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    max_length: int,
    batch_size: int,
) -> LazySequence[tuple[list[int], Batch]]:
    """Length-bucketed batches of sentences, padded only when they are read.

    Args:
        tokenizer: Tokenizer of the model.
        rows: Columns `text` and, for pairs, `text_pair`.
        max_length: Tokens after which a sentence is cut.
        batch_size: Sentences per batch.

    Returns:
        As `padded_batches`.

    Raises:
        DataError: No sentence, or the tokenizer has no pad token.
    """
    if len(rows) == 0:
        raise DataError("expected at least one sentence; got none")
    batches = padded_batches(tokenizer, encode_sentences(tokenizer, rows, max_length), batch_size)
    batches[0]  # a tokenizer that cannot pad is refused here, not in the middle of a stage
    return batches


def window_batches(windows: torch.Tensor, batch_size: int) -> LazySequence[Batch]:
    """Batches of token windows; nothing is padded, so the attention mask is all ones.

    Args:
        windows: Token ids (windows, W).
        batch_size: Windows per batch.

    Returns:
        Batches of `input_ids` and `attention_mask`, (B, W) each.
    """
    return LazySequence(
        windows.split(batch_size),
        lambda ids: {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
    )
