"""The tokenizer of a folder as keys of a GGUF file."""

import json
from pathlib import Path
from typing import Any

import gguf
from gguf.vocab import LlamaHfVocab, SpecialVocab

from stat_repro.export.errors import ExportError
from stat_repro.models.loading import load_tokenizer

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPLIT = _WORDS + r"|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a text is cut before the merges, and what llama.cpp calls that.
_CUTS = {
    ("ByteLevel",): "gpt-2",
    ("Digits", "ByteLevel"): "smollm",
    (_SPLIT % r"\p{N}{1,3}", "ByteLevel"): "llama-bpe",
    (_SPLIT % r"\p{N}", "ByteLevel"): "qwen2",
}


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocabulary: int) -> None:
    """Write the tokenizer as llama.cpp's own converter does.

    Args:
        writer: Of the file.
        folder: With `tokenizer.json`.
        vocabulary: Rows of the model's embedding; those without a token get a name.

    Raises:
        ExportError: No `tokenizer.json`, or a tokenizer that llama.cpp is not known to have.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportError(f"{path}: expected the tokenizer in this form; got no such file")
    content = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(folder)
    special = SpecialVocab(folder, load_merges=True, n_vocab=vocabulary)
    if content["model"].get("byte_fallback"):
        rows = [(text, kind, score) for text, score, kind in LlamaHfVocab(folder).all_tokens()]
        model, cut = "llama", "default"
        special.merges = []
    else:
        model, cut = "gpt2", _cut_of(content, path)
        rows = [(text, kind, 0.0) for text, kind in _tokens(tokenizer)]
    unused = gguf.TokenType.UNUSED
    rows += [(f"[PAD{i}]".encode(), unused, -1e4) for i in range(len(rows), vocabulary)]
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(cut)
    writer.add_token_list([text for text, _, _ in rows])
    writer.add_token_types([kind for _, kind, _ in rows])
    if model == "llama":
        writer.add_token_scores([score for _, _, score in rows])
    first = tokenizer("a")["input_ids"][:1]
    special.add_special_token["bos"] = first == [tokenizer.bos_token_id]
    special.add_to_gguf(writer, quiet=True)


def _cut_of(content: dict[str, Any], path: Path) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts a text."""
    steps = content["pre_tokenizer"] or {"type": "none"}
    steps = steps.get("pretokenizers", [steps])
    names = tuple(step.get("pattern", {}).get("Regex", step["type"]) for step in steps)
    digits = all(step["individual_digits"] for step in steps if step["type"] == "Digits")
    known = content["model"]["type"] == "BPE" and digits and names in _CUTS
    # With a pattern of its own before it, ByteLevel must not cut once more.
    if not known or steps[-1]["use_regex"] == (names[0] not in ("ByteLevel", "Digits")):
        raise ExportError(
            f"{path}: expected a tokenizer that llama.cpp has under one of the names "
            f"{', '.join(_CUTS.values())}, or one of SentencePiece; got {content['model']['type']} "
            f"after {', '.join(names)}"
        )
    return _CUTS[names]


def _tokens(tokenizer: Any) -> list[tuple[bytes, gguf.TokenType]]:
    """Text and kind of the tokens, in order."""
    added = tokenizer.added_tokens_decoder
    tokens = []
    names = {number: text for text, number in tokenizer.get_vocab().items()}
    for number in range(max(names) + 1):
        kind = gguf.TokenType.NORMAL if number in names else gguf.TokenType.UNUSED
        if number in added:
            control = added[number].special
            kind = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
        tokens.append((names.get(number, f"[PAD{number}]").encode(), kind))
    return tokens
