"""A tokenizer of one token per word, and sentences for it."""

import datasets
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(40)]


def word_tokenizer(pad: str | None = "[PAD]", side: str = "right") -> PreTrainedTokenizerFast:
    """One token per word; [CLS] in front and [SEP] behind where special tokens are asked for."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        unk_token="[UNK]",
        padding_side=side,
        model_max_length=16,
    )


def sentences(*lengths: int) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [" ".join(WORDS[:n]) for n in lengths]})
