"""Tokenizers in GGUF files: what is written and what is refused, without llama.cpp."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers as hf
from pico_export import (
    TOKENIZERS,
    byte_tokenizer,
    gguf_fields,
    piece_tokenizer,
    saved_decoder,
)
from tokenizers import Tokenizer, normalizers
from tokenizers.pre_tokenizers import ByteLevel, Whitespace

from stat_repro.export.errors import ExportError
from stat_repro.export.gguf_file import write_gguf


def with_tokenizer(folder: Path, tokenizer: Any, **changes: Any) -> Path:
    saved_decoder(folder, "llama_grouped", [], **changes)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("pieces", "part", "value", "message"),
    [
        (False, "pre_tokenizer", Whitespace(), "smollm, .*got BPE after Whitespace"),
        (False, "pre_tokenizer", ByteLevel(), "smollm, .*got BPE after add_prefix_space, Byte"),
        (False, "normalizer", normalizers.Lowercase(), "smollm, .*got BPE after Lowercase, Digits"),
        (True, "normalizer", normalizers.NFKC(), "a BPE of SentencePiece"),
        (True, "padding", None, r"at most 300 tokens, .*; got 310; choose"),
    ],
)
def test_tokenizers_that_llama_cpp_does_not_have_are_refused(
    pieces: bool, part: str, value: Any, message: str, tmp_path: Path
) -> None:
    tokenizer = piece_tokenizer() if pieces else byte_tokenizer()
    if part != "padding":
        setattr(tokenizer.backend_tokenizer, part, value)
    rows = 300 if part == "padding" else 320
    folder = with_tokenizer(tmp_path / "pruned", tokenizer, vocab_size=rows)
    with pytest.raises(ExportError, match=rf"tokenizer\.json: expected .*{message}"):
        write_gguf(folder, tmp_path / "model.gguf")


@pytest.mark.parametrize("kind", TOKENIZERS[:-1])
def test_words_that_are_tokens_are_merged_or_not_as_the_tokenizer_does(
    kind: str, tmp_path: Path
) -> None:
    """llama.cpp takes them whole under the name llama-bpe alone."""
    tokenizer = byte_tokenizer(kind)
    folder = with_tokenizer(tmp_path / "pruned", tokenizer)
    write_gguf(folder, tmp_path / "model.gguf")
    assert gguf_fields(tmp_path / "model.gguf")["tokenizer.ggml.pre"] == kind
    if kind not in ("llama-bpe", "dbrx"):
        tokenizer.backend_tokenizer.model.ignore_merges = True
        tokenizer.save_pretrained(folder)
        with pytest.raises(ExportError, match=r"expected a tokenizer .* with ignore_merges"):
            write_gguf(folder, tmp_path / "other.gguf")


@pytest.mark.parametrize("before", ["\u2581", ""])
def test_pieces_are_merged_in_the_order_of_the_tokenizer(before: str, tmp_path: Path) -> None:
    """As llama.cpp merges: the two with the highest score together, of equal ones the first."""
    content = json.loads(piece_tokenizer(before).backend_tokenizer.to_str())
    known = [piece for piece in content["model"]["vocab"] if len(piece) == 1 or piece[0] == "<"]
    known = list(dict.fromkeys([*known, *"abcd", "bc", "ab", "cd"]))  # bc, in the middle, is first
    content["model"]["vocab"] = {piece: i for i, piece in enumerate(known)}
    content["model"]["merges"] = [["b", "c"], ["a", "b"], ["c", "d"]]
    inner = Tokenizer.from_str(json.dumps(content))
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    write_gguf(with_tokenizer(tmp_path / "pruned", tokenizer), tmp_path / "model.gguf")
    stored: Any = gguf_fields(tmp_path / "model.gguf")
    assert stored["tokenizer.ggml.add_space_prefix"] == bool(before)
    tokens, scores = stored["tokenizer.ggml.tokens"], stored["tokenizer.ggml.scores"]
    parts = list(f"{before}abcdab")
    while found := [
        (scores[tokens.index(a + b)], -i)
        for i, (a, b) in enumerate(pairwise(parts))
        if a + b in tokens
    ]:
        place = -max(found)[1]
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
    assert parts == tokenizer.tokenize("abcdab")
    kinds = stored["tokenizer.ggml.token_type"]
    assert kinds[tokens.index("<0x41>")] == gguf.TokenType.BYTE
