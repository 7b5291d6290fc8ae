"""The dense model: where it comes from, how an encoder gets a task head, how pruning is healed."""

import re
from dataclasses import dataclass, fields

from omegaconf import MISSING

from stat_repro.config.checks import MAX_SEED, ConfigError, Section, setting

RECOVERIES = ("none", "distill", "finetune", "lora")


@dataclass
class ModelConfig(Section, name="model"):
    """The dense model.

    Attributes:
        name: Label in records and tables.
        path: `asset:<name>` for a packaged model, else a local folder or a Hugging Face name.
        revision: Revision on the hub; ignored for folders.
        trust_remote_code: Whether code of the model's folder may run. Off unless asked for.
        labels: Class names in the order of the outputs, for checkpoints that name them LABEL_0 and
            so on; null takes the checkpoint's own names.
    """

    name: str = setting(MISSING, file_name=True)
    path: str = MISSING
    revision: str | None = None
    trust_remote_code: bool = False
    labels: list[str] | None = setting(None, later=True)


@dataclass
class FinetuneConfig(Section, name="finetune"):
    """How an encoder without a task head becomes a task checkpoint.

    Attributes:
        enabled: Train when the checkpoint lacks the task's head; if false that is an error.
        epochs: Passes over the training split.
        max_examples: Train on the first so many examples of the shuffled split; all if null.
        batch_size: Sentences per step.
        learning_rate: Peak of the linear warm-up and decay.
        warmup_fraction: Share of the steps that warm up.
        weight_decay: AdamW decay of matrices (biases and norms have none).
        seed: Seed of head initialisation, order and dropout; apart from the calibration seed.
        bfloat16: Autocast the forward pass to bfloat16.
    """

    enabled: bool = True
    epochs: int = setting(2, low=1)
    max_examples: int | None = setting(None, low=1)
    batch_size: int = setting(32, low=1)
    learning_rate: float = setting(5e-5, above=0)
    warmup_fraction: float = setting(0.1, low=0, high=1)
    weight_decay: float = setting(0.01, low=0)
    seed: int = setting(0, low=0, high=MAX_SEED)
    bfloat16: bool = False


@dataclass
class RecoveryConfig(Section, name="recovery"):
    """Training of the pruned model, in which its sizes stay. Dropout is off.

    Attributes:
        method: `none`; `distill`: towards outputs and hidden states of the dense model, on the
            training text without its labels; `finetune`: the loss of the task, with labels (of
            running text the next token); `lora`: the same for low-rank adapters only, which are
            merged afterwards.
        steps: Batches that are trained on.
        batch_size: Sentences or windows per step.
        learning_rate: Peak of the linear warm-up and decay.
        warmup_fraction: Share of the steps that warm up.
        weight_decay: AdamW decay of matrices (biases and norms have none).
        hidden_weight: `distill`: weight of the hidden states' relative squared error, the mean
            over the layers; the divergence of the outputs has weight 1.
        temperature: `distill`: logits are divided by it.
        rank: `lora`: of the adapters.
        seed: Seed of the order of batches and of the adapters.
        bfloat16: Autocast the forward passes to bfloat16.
    """

    method: str = setting("none", choices=RECOVERIES)
    steps: int = setting(200, low=0)
    batch_size: int = setting(32, low=1)
    learning_rate: float = setting(1e-4, above=0)
    warmup_fraction: float = setting(0.1, low=0, high=1)
    weight_decay: float = setting(0.01, low=0)
    hidden_weight: float = setting(1.0, low=0, of="distill")
    temperature: float = setting(1.0, above=0, of="distill")
    rank: int = setting(16, low=1, of="lora")
    seed: int = setting(0, low=0, high=MAX_SEED)
    bfloat16: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in fields(self):
            owner, value = one.metadata.get("of", self.method), getattr(self, one.name)
            # Without a recovery they stay: a sweep may have runs with and without it.
            if value != one.default and self.method not in (owner, "none"):
                raise ConfigError(
                    f"recovery.{one.name}={value} is an option of {owner}: expected "
                    f"recovery.method={owner}; got {self.method}"
                )


def placeholders(count: int) -> str:
    """How `model.labels` is given for so many outputs, for messages."""
    places = [f"<output {i}>" for i in range(count)]
    few = places if count <= 20 else [*places[:2], "...", places[-1]]
    return f"model.labels=[{','.join(few)}]"


def class_name(text: str) -> str:
    """The name of a class or an output; an integer, also one as "01" or "1.0", as str writes it."""
    match = re.fullmatch(r"([+-]?[0-9]+)(\.0*)?", text)
    return text if match is None else str(int(match[1]))
