"""Saved tiny decoders with a byte-level tokenizer, for the exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as hf
from pico_models import pico_model, random_plan, selection_edits
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
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


def byte_tokenizer(digits: bool = True) -> hf.PreTrainedTokenizerFast:
    """Byte-level BPE as SmolLM2 has it, with 319 tokens at most."""
    tokenizer = Tokenizer(models.BPE())
    cuts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts) if digits else cuts[0]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
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
