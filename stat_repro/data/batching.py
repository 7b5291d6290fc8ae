"""Batches: sentences of similar length padded together, and windows of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from stat_repro.data.errors import DataError

Batch = dict[str, torch.Tensor]
Encoded = dict[str, list[int]]
# A tokenizer's output holds far more than the ids: for all of MNLI at once some gigabytes.
_ENCODED_AT_ONCE = 1000


def check_length(max_length: int, positions: int | None) -> None:
    """Refuse sentences that may be longer than the model can read.

    Args:
        max_length: Tokens after which a sentence is cut.
        positions: Positions of the model; None if it names no limit.

    Raises:
        DataError: Says what fits.
    """
    if positions is not None and max_length > positions:
        raise DataError(
            f"dataset.max_length: expected at most {positions}, the model's positions; got "
            f"{max_length}"
        )


def encode_sentences(
    tokenizer: PreTrainedTokenizerBase, rows: datasets.Dataset, max_length: int
) -> list[Encoded]:
    """Token ids of sentences or sentence pairs, with special tokens, unpadded.

    Args:
        tokenizer: Tokenizer of the model.
        rows: Columns `text` and, for pairs, `text_pair`.
        max_length: Tokens after which a sentence is cut.

    Returns:
        Per row the lists that the tokenizer gives (`input_ids`, `attention_mask`, and
        `token_type_ids` where the model has token types).
    """
    encoded: list[Encoded] = []
    for part in rows.iter(_ENCODED_AT_ONCE):
        texts = part["text"]
        found = tokenizer(texts, part.get("text_pair"), truncation=True, max_length=max_length)
        encoded += [{key: found[key][row] for key in found} for row in range(len(texts))]
    return encoded


def length_bucketed(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group positions of similar length, longest first, so that memory peaks in the first batch.

    Args:
        lengths: Tokens per example.
        batch_size: Positions per group; the last may be smaller.

    Returns:
        Every position once; equal lengths keep their order.
    """
    if batch_size < 1:
        raise DataError(f"batch size: expected at least 1; got {batch_size}")
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def pad_batch(
    tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Encoded], indices: Sequence[int]
) -> Batch:
    """Pad examples to the longest of them, on the tokenizer's padding side.

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
    fill = {
        "input_ids": tokenizer.pad_token_id,
        "attention_mask": 0,
        "token_type_ids": tokenizer.pad_token_type_id,
    }
    width = max(len(encoded[index]["input_ids"]) for index in indices)
    left = tokenizer.padding_side == "left"
    batch = {}
    for key in [key for key in fill if key in encoded[indices[0]]]:
        padded = []
        for index in indices:
            ids = encoded[index][key]
            padding = [fill[key]] * (width - len(ids))
            padded.append(padding + ids if left else ids + padding)
        batch[key] = torch.tensor(padded, dtype=torch.long)
    return batch


@dataclass(frozen=True)
class SentenceInputs(Sequence[Batch]):
    """Padded batches, each made when it is asked for; may be read any number of times.

    Attributes:
        tokenizer: Tokenizer that made the examples.
        encoded: Examples without padding.
        groups: Positions of the examples of each batch.
    """

    tokenizer: PreTrainedTokenizerBase
    encoded: list[Encoded]
    groups: list[list[int]]

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> SentenceInputs: ...
    def __getitem__(self, index: int | slice) -> Batch | SentenceInputs:
        if isinstance(index, slice):
            return SentenceInputs(self.tokenizer, self.encoded, self.groups[index])
        return pad_batch(self.tokenizer, self.encoded, self.groups[index])


@dataclass(frozen=True)
class LabelledInputs(Sequence[Batch]):
    """The batches of `inputs` with what the model should put out for them.

    Attributes:
        inputs: The batches.
        labels: Class or number of every example, (N,).
    """

    inputs: SentenceInputs
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> LabelledInputs: ...
    def __getitem__(self, index: int | slice) -> Batch | LabelledInputs:
        if isinstance(index, slice):
            return LabelledInputs(self.inputs[index], self.labels)
        return {**self.inputs[index], "labels": self.labels[self.inputs.groups[index]]}


@dataclass(frozen=True)
class SentenceBatches(Sequence[tuple[list[int], Batch]]):
    """Pairs of positions and padded batch; may be read any number of times.

    Attributes:
        inputs: The batches alone, as calibration takes them.
    """

    inputs: SentenceInputs

    def __len__(self) -> int:
        return len(self.inputs)

    @overload
    def __getitem__(self, index: int) -> tuple[list[int], Batch]: ...
    @overload
    def __getitem__(self, index: slice) -> SentenceBatches: ...
    def __getitem__(self, index: int | slice) -> tuple[list[int], Batch] | SentenceBatches:
        if isinstance(index, slice):
            return SentenceBatches(self.inputs[index])
        return self.inputs.groups[index], self.inputs[index]


def sentence_batches(
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    max_length: int,
    batch_size: int,
    indices: Sequence[int] | None = None,
) -> SentenceBatches:
    """Length-bucketed batches of sentences, padded only when they are read.

    Args:
        tokenizer: Tokenizer of the model.
        rows: Columns `text` and, for pairs, `text_pair`.
        max_length: Tokens after which a sentence is cut.
        batch_size: Sentences per batch.
        indices: Rows to take, repeats allowed; all if None.

    Returns:
        Pairs of the positions of the batch's examples (in `indices`, so 0 to N - 1 once each over
        all batches) and the batch.

    Raises:
        DataError: No sentence, or the tokenizer has no pad token.
    """
    chosen = rows if indices is None else rows.select(list(indices))
    if len(chosen) == 0:
        raise DataError("expected at least one sentence; got none")
    encoded = encode_sentences(tokenizer, chosen, max_length)
    groups = length_bucketed([len(example["input_ids"]) for example in encoded], batch_size)
    batches = SentenceBatches(SentenceInputs(tokenizer, encoded, groups))
    batches[0]  # a tokenizer that cannot pad is refused here, not in the middle of a stage
    return batches


@dataclass(frozen=True)
class WindowBatches(Sequence[Batch]):
    """Batches of windows, each a view made when it is asked for.

    Attributes:
        windows: Token ids (windows, W).
        batch_size: Windows per batch; the last may be smaller.
    """

    windows: torch.Tensor
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # IndexError past the end, negatives from the end
        ids = self.windows[position * self.batch_size : (position + 1) * self.batch_size]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def window_batches(windows: torch.Tensor, batch_size: int) -> WindowBatches:
    """Batches of token windows; nothing is padded, so the attention mask is all ones.

    Args:
        windows: Token ids (windows, W).
        batch_size: Windows per batch.

    Returns:
        Batches of `input_ids` and `attention_mask`, (B, W) each.

    Raises:
        DataError: No window, or a batch size below one.
    """
    if windows.ndim != 2 or len(windows) == 0:
        raise DataError(f"expected token windows (windows, W); got shape {tuple(windows.shape)}")
    if batch_size < 1:
        raise DataError(f"batch size: expected at least 1; got {batch_size}")
    return WindowBatches(windows, batch_size)
