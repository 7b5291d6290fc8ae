"""The tokenizer of a folder as keys of a GGUF file."""

import json
import re
from pathlib import Path
from typing import Any

import gguf
from gguf.vocab import SpecialVocab

from stat_repro.export.errors import ExportError
from stat_repro.models.loading import load_tokenizer

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPLIT = _WORDS + r"|\s*[\r\n]+|\s+(?!\S)|\s+"
# Whether words that are tokens are left out of the merges, how a text is cut before these, and
# what llama.cpp calls that.
_CUTS = {
    (False, "ByteLevel"): "gpt-2",
    (False, "Digits", "ByteLevel"): "smollm",
    (True, _SPLIT % r"\p{N}{1,3}", "ByteLevel"): "llama-bpe",
    (False, _SPLIT % r"\p{N}{1,3}", "ByteLevel"): "dbrx",
    (False, _SPLIT % r"\p{N}", "ByteLevel"): "qwen2",
}


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocabulary: int) -> None:
    """Write the tokenizer as llama.cpp's own converter does.

    Args:
        writer: What writes the file.
        folder: With `tokenizer.json`.
        vocabulary: Rows of the model's embedding; those without a token get a name.

    Raises:
        ExportError: No `tokenizer.json`, more tokens than the embedding has rows, or a tokenizer
            that llama.cpp is not known to have.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportError(f"{path}: expected the tokenizer in this form; got no such file")
    tokenizer: Any = load_tokenizer(folder)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    of_pieces = bool(content["model"].get("byte_fallback"))
    rows = _tokens(tokenizer, of_pieces)
    if len(rows) > vocabulary:
        raise ExportError(
            f"{path}: expected at most {vocabulary} tokens, as many as the embedding has rows; got "
            f"{len(rows)}; choose the tokenizer that the model was trained with, or "
            "resize_token_embeddings before saving"
        )
    unused = gguf.TokenType.UNUSED
    rows += [(f"[PAD{i}]".encode(), unused) for i in range(len(rows), vocabulary)]
    special = SpecialVocab(folder, load_merges=not of_pieces, n_vocab=vocabulary)
    if of_pieces:
        writer.add_add_space_prefix(_space_before(tokenizer, content, path))
        writer.add_token_scores(_scores([text for text, _ in rows], content["model"]["merges"]))
    writer.add_tokenizer_model("llama" if of_pieces else "gpt2")
    writer.add_tokenizer_pre("default" if of_pieces else _cut_of(content, path))
    writer.add_token_list([text for text, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    first = tokenizer("a")["input_ids"][:1]
    special.add_special_token["bos"] = first == [tokenizer.bos_token_id]
    special.add_to_gguf(writer, quiet=True)


def _space_before(tokenizer: Any, content: dict[str, Any], path: Path) -> bool:
    """Whether a tokenizer of SentencePiece puts a space before a text; it must change no more."""
    text = "\uff21 e\u0301  b"  # which some normalise
    marked = text.replace(" ", "\u2581")
    inner = tokenizer.backend_tokenizer
    given = text if inner.normalizer is None else inner.normalizer.normalize_str(text)
    cuts = [] if inner.pre_tokenizer is None else inner.pre_tokenizer.pre_tokenize_str(given)
    parts = [part for part, _ in cuts] or [given]
    if content["model"]["type"] != "BPE" or parts not in ([marked], [f"\u2581{marked}"]):
        raise ExportError(
            f"{path}: expected a BPE of SentencePiece, which marks spaces and changes nothing else "
            f"before its merges; got {content['model']['type']}, which reads {text!r} as {parts}"
        )
    return parts != [marked]


def _scores(texts: list[bytes], merges: list[list[str]]) -> list[float]:
    """The merges as llama.cpp has them for SentencePiece: the highest score is merged first."""
    ranks: dict[bytes, float] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair).encode(), float(-rank))
    return [ranks.get(text, -1e6) for text in texts]


def _cut_of(content: dict[str, Any], path: Path) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts a text."""
    steps = content["pre_tokenizer"] or {"type": "none"}
    steps = steps.get("pretokenizers", [steps])
    names = tuple(step.get("pattern", {}).get("Regex", step["type"]) for step in steps)
    digits = all(step["individual_digits"] for step in steps if step["type"] == "Digits")
    whole = bool(content["model"].get("ignore_merges"))  # words that are tokens stay whole
    name = _CUTS.get((whole, *names)) if content["model"]["type"] == "BPE" and digits else None
    # The file has no key for what is done to a text before it is cut; Qwen's NFC is left out.
    changes = [(content["normalizer"] or {"type": "NFC"})["type"]]
    changes += ["add_prefix_space"] * any(step.get("add_prefix_space") for step in steps)
    # With a pattern of its own before it, ByteLevel must not cut once more.
    if (
        name is None
        or changes != ["NFC"]
        or steps[-1]["use_regex"] == (names[0] not in ("ByteLevel", "Digits"))
    ):
        raise ExportError(
            f"{path}: expected a tokenizer that llama.cpp has under one of the names "
            f"{', '.join(_CUTS.values())}, or one of SentencePiece; got {content['model']['type']} "
            f"after {', '.join([c for c in changes if c != 'NFC'] + list(names))}"
            f"{' with ignore_merges' if whole else ''}"
        )
    return name


def _tokens(tokenizer: Any, of_pieces: bool) -> list[tuple[bytes, gguf.TokenType]]:
    """Text and kind of the tokens, in order."""
    added = tokenizer.added_tokens_decoder
    tokens = []
    names = {number: text for text, number in tokenizer.get_vocab().items()}
    for number in range(max(names) + 1):
        kind = gguf.TokenType.NORMAL if number in names else gguf.TokenType.UNUSED
        if number in added:
            control = added[number].special
            kind = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
        elif of_pieces and re.fullmatch("<0x[0-9A-F]{2}>", names.get(number, "")):
            kind = gguf.TokenType.BYTE
        tokens.append((names.get(number, f"[PAD{number}]").encode(), kind))
    return tokens
