"""Question and context as model inputs: long contexts in overlapping windows.

Every input is the question, then a piece of its context, with special tokens as the tokenizer adds
them. The windows of one context overlap by `stride` tokens, so that an answer at the end of one is
whole in the next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from stat_repro.data.batching import Encoded
from stat_repro.data.errors import DataError
from stat_repro.data.squad_files import Question

# Tokens of a question at most, as in the scripts of BERT; a few in SQuAD are longer.
QUESTION_TOKENS = 64
# Questions per call of the tokenizer: its encodings take far more memory than what is kept of them.
_CHUNK = 512


@dataclass(frozen=True)
class ContextWindows:
    """Inputs, and which characters of the context their tokens stand for.

    Attributes:
        encoded: Tokens of every window, unpadded.
        question: Row of the question of every window, (W); the windows of a question follow each
            other.
        first: Position of the first token of the context in every window, (W).
        offsets: Per window the characters [from, to) of each of its C context tokens, (C, 2).
        questions_cut: Questions of more than `QUESTION_TOKENS` tokens.
    """

    encoded: list[Encoded]
    question: NDArray[np.int64]
    first: NDArray[np.int64]
    offsets: list[NDArray[np.int32]]
    questions_cut: int

    def answer_tokens(self, window: int, span: tuple[int, int] | None) -> tuple[int, int]:
        """Positions of the first and the last token of an answer.

        Args:
            window: Number of the window.
            span: Characters [from, to) of the answer in the context; None for no answer.

        Returns:
            Positions in the unpadded window; (0, 0), the first special token, where the answer is
            not or not wholly in this window.
        """
        offsets = self.offsets[window]
        if span is None or span[0] < offsets[0, 0] or span[1] > offsets[-1, 1]:
            return 0, 0
        # One character may be several tokens of byte-level BPE, and all of them belong to it.
        start = int(np.searchsorted(offsets[:, 1], span[0], side="right"))
        end = int(np.searchsorted(offsets[:, 0], span[1], side="left")) - 1
        first = int(self.first[window])
        return first + start, first + end


def context_windows(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    max_length: int,
    stride: int,
) -> ContextWindows:
    """Tokenise questions with their contexts.

    Questions are cut after `QUESTION_TOKENS` tokens, contexts never: they continue in the next
    window.

    Args:
        tokenizer: A fast tokenizer, which knows the characters of its tokens.
        questions: At least one.
        max_length: Tokens per window at most, special tokens and question included.
        stride: Tokens of the context that neighbouring windows share.

    Raises:
        DataError: No questions, a tokenizer that cannot do this, or a stride that leaves no step.
    """
    if not questions:
        raise DataError("expected at least one question; got none")
    if not tokenizer.is_fast:
        raise DataError(
            f"question answering needs a fast tokenizer, which tells the characters of each token; "
            f"got {type(tokenizer).__name__} of {tokenizer.name_or_path!r} (a tokenizer.json in "
            "the model's folder makes it one)"
        )
    windows: list[tuple[int, Encoded, int, NDArray[np.int32]]] = []
    cut = 0
    for begin in range(0, len(questions), _CHUNK):
        rows = questions[begin : begin + _CHUNK]
        texts, shortened = _shortened([row.text.strip() for row in rows], tokenizer)
        cut += shortened
        _check_step(texts, tokenizer, max_length, stride)
        batch = tokenizer(
            texts,
            [row.context for row in rows],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows += _windows(batch, tokenizer, rows, begin)
    owners, encoded, first, offsets = map(list, zip(*windows, strict=True))
    question, starts = np.array(owners, np.int64), np.array(first, np.int64)
    return ContextWindows(encoded, question, starts, offsets, cut)


def _shortened(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], int]:
    """The questions, cut where they have too many tokens, and how many were."""
    encodings = tokenizer(texts, add_special_tokens=False).encodings
    cut = 0
    for row, encoding in enumerate(encodings):
        if len(encoding.ids) > QUESTION_TOKENS:
            texts[row] = texts[row][: encoding.offsets[QUESTION_TOKENS - 1][1]]
            cut += 1
    return texts, cut


def _check_step(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> None:
    """Refuse questions beside which a window holds no more context than windows share."""
    longest = max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    room = max_length - longest - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= stride:
        raise DataError(
            f"dataset.max_length={max_length} leaves {max(room, 0)} tokens for the context beside "
            f"a question of {longest}; expected more than dataset.answers.stride={stride}, which "
            "neighbouring windows share"
        )


def _windows(
    batch: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Question], begin: int
) -> Iterator[tuple[int, Encoded, int, NDArray[np.int32]]]:
    """Question, tokens, first context position and characters of every window.

    Args:
        batch: What the tokenizer made of some questions with their contexts.
        tokenizer: The tokenizer.
        rows: These questions.
        begin: Row of the first of them.
    """
    keys = [key for key in batch if key in ("input_ids", "attention_mask", "token_type_ids")]
    for number, owner in enumerate(batch["overflow_to_sample_mapping"]):
        parts = batch.sequence_ids(number)
        if parts[0] is not None:
            raise DataError(
                "question answering needs a special token in front of the question, such as "
                f"[CLS], whose score stands for 'no answer'; {type(tokenizer).__name__} of "
                f"{tokenizer.name_or_path!r} adds none"
            )
        places = [position for position, part in enumerate(parts) if part == 1]
        if not places:
            raise DataError(
                "expected contexts with at least one token; got "
                f"{rows[owner].context!r} for the question {rows[owner].id!r}"
            )
        start, stop = places[0], places[-1] + 1
        characters = np.array(batch["offset_mapping"][number][start:stop], dtype=np.int32)
        yield begin + owner, {key: batch[key][number] for key in keys}, start, characters
