"""Saved tiny decoders with a byte-level tokenizer, for the exports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import transformers as hf
from pico_models import pico_model, random_plan, selection_edits
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedModel

from stat_repro.surgery.edit import prune_model

TEXT = "The cat sat on the mat, and 12 dogs ran away from it. Über 3.5 Jahre später: nichts!\n"
# Sizes that llama.cpp takes, and rotary positions over whole heads.
WIDE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}


# How byte-level tokenizers cut words, by llama.cpp's name; digits go by up to three, or one by one.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPLIT = _WORDS + r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGITS = {"llama-bpe": r"\p{N}{1,3}", "dbrx": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
TOKENIZERS = ("gpt-2", "smollm", *_DIGITS, "sentencepiece")


def byte_tokenizer(kind: str = "smollm") -> hf.PreTrainedTokenizerFast:
    """Byte-level BPE as SmolLM2 or another family has it, with 319 tokens at most."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    cuts: list[Any] = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        **{
            name: [pre_tokenizers.Split(Regex(_SPLIT % digits), "isolated")]
            for name, digits in _DIGITS.items()
        },
    }[kind]
    cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind not in _DIGITS))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts) if cuts[1:] else cuts[0]
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())


def piece_tokenizer(before: str = "\u2581") -> hf.PreTrainedTokenizerFast:
    """BPE as SentencePiece makes it: a mark for spaces, and bytes for what it does not know.

    Args:
        before: Put before a text.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(before), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<s>", "</s>", "<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return _trained(tokenizer, list("etaonsrd"), special, unk_token="<unk>")


def _trained(
    tokenizer: Tokenizer,
    alphabet: list[str],
    special: Sequence[str] = ("<s>", "</s>", "<pad>"),
    **names: str,
) -> hf.PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=310, special_tokens=list(special), initial_alphabet=alphabet,
        limit_alphabet=20 if names else 1000, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    if names:  # bytes are usual tokens of SentencePiece
        content = json.loads(tokenizer.to_str())
        content["added_tokens"] = content["added_tokens"][:4]
        tokenizer = Tokenizer.from_str(json.dumps(content))
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **names
    )


def saved_decoder(
    folder: Path, name: str, empty: list[tuple[int, str]], **changes: Any
) -> PreTrainedModel:
    """A pruned model, saved with its tokenizer; `empty` as in `random_plan`."""
    ids = dict(zip(("bos_token_id", "eos_token_id", "pad_token_id"), range(3), strict=True))
    model = pico_model(name, **{**WIDE, **ids, **changes})
    plan = random_plan(model, empty=empty)
    pruned = prune_model(model, plan, selection_edits(model, plan))
    pruned.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return pruned


def gguf_fields(path: Path) -> dict[str, object]:
    """Keys and values of a GGUF file."""
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
