"""Running text as windows of tokens."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from stat_repro.data.errors import DataError
from stat_repro.data.text_data import TextPart


@dataclass(frozen=True)
class TokenWindows:
    """Text cut into windows of tokens.

    Attributes:
        ids: Token ids (windows, W), int64.
        dropped: Tokens of the text behind the last window.
        special: Special tokens that were added, in words.
    """

    ids: torch.Tensor
    dropped: int
    special: str


def token_windows(
    tokenizer: PreTrainedTokenizerBase,
    part: TextPart,
    window: int,
    bos: str = "none",
    at_most: bool = False,
    key: str = "dataset.window",
) -> TokenWindows:
    """Cut text into windows of tokens.

    The documents are joined once and tokenised once; windows do not overlap and the tail that
    fills none is dropped. (Tokenising document by document would scatter BOS tokens.)

    Args:
        tokenizer: Tokenizer of the model.
        part: The text.
        window: Tokens per window W.
        bos: `none`; `first` (special tokens as the tokenizer adds them to a text, to the whole of
            it) or `window` (BOS and W - 1 tokens of text in every window).
        at_most: Cut one window of all tokens where there are fewer than W.
        key: What sets W, for the messages.

    Raises:
        DataError: Too little text for one window, or `window` without a BOS token.
    """
    if bos == "window" and tokenizer.bos_token_id is None:
        raise DataError(
            f"dataset.bos=window: {type(tokenizer).__name__} of {tokenizer.name_or_path!r} has no "
            "BOS token; choose dataset.bos=first or none"
        )
    # verbose=False: the whole text is longer than the model's input, which is no mistake here.
    encoded = tokenizer(
        part.join.join(part.documents),
        add_special_tokens=bos == "first",
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )
    ids = torch.tensor(encoded["input_ids"], dtype=torch.long)
    length = window - (bos == "window")
    if at_most:
        length = min(length, max(2, len(ids)))
    if len(ids) < length:
        raise DataError(
            f"text too short: expected at least {length} tokens for one window; got {len(ids)} "
            f"(give more text, or a smaller {key})"
        )
    count = len(ids) // length
    if part.windows is not None:
        count = min(count, part.windows)
    windows = ids[: count * length].view(count, length)
    special = "none added"
    if bos == "window":
        windows = torch.cat([torch.full((count, 1), tokenizer.bos_token_id), windows], dim=1)
        special = "BOS in front of every window, part of its length"
    elif bos == "first":
        added = tokenizer.num_special_tokens_to_add()
        special = f"as the tokenizer adds them to the whole text: {added or 'none'}"
    return TokenWindows(windows, len(ids) - count * length, special)
