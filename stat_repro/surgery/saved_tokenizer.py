"""The tokenizer in the folder of a pruned model."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from stat_repro.models.loading import load_tokenizer

# Files that only a folder with a tokenizer has.
VOCABULARIES = ("tokenizer*", "vocab*", "*.model")
# Upper case, accents, digits, spaces and signs: tokenizers differ in how they treat these.
_SAMPLES = ("Don't  panic,\nthe café costs 1,234.50 €!", "Zweite Übung: x_1 = {y: 'é'} 日本 🙂")


class TokenizerError(ValueError):
    """A tokenizer that cannot be saved as it is."""


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has files of a tokenizer, which may still be ones that cannot be loaded."""
    return any(file for pattern in VOCABULARIES for file in folder.glob(pattern))


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer so that the folder gives the same one, whatever its `model_type` is.

    transformers chooses the class by `model_type` where the files of a tokenizer do not name it,
    and does not know the types of pruned models.

    Args:
        tokenizer: The tokenizer.
        folder: Folder of a pruned model, with its `config.json`.

    Raises:
        TokenizerError: Loaded from the folder, it gives other tokens.
    """
    tokenizer.save_pretrained(folder)
    if not type(tokenizer).__module__.startswith("transformers."):
        return  # its code lies in the folder, and is not run here
    again = load_tokenizer(folder)
    samples = [*_SAMPLES, "".join(tokenizer.all_special_tokens)]
    for text in samples:
        for pair in (None, samples[0]):
            expected, got = (dict(t(text, pair)) for t in (tokenizer, again))
            if got != expected:
                raise TokenizerError(
                    f"tokenizer: expected {type(tokenizer).__name__}, which reads {text!r} as "
                    f"{expected}; got {type(again).__name__} from the saved files, which reads it "
                    f"as {got}"
                )
