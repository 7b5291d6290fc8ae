"""Supervised training of an encoder with a task head, deterministic for a seed."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from stat_repro.config import FinetuneConfig, RecoveryConfig
from stat_repro.data.batching import pad_batch
from stat_repro.evaluation.predictions import device_of, to_device
from stat_repro.finetune.training_data import TrainingData
from stat_repro.progress import Progress

GRADIENT_NORM = 1.0
# Examples of similar length share a batch; they are sorted within pools of so many batches.
POOL_BATCHES = 50


class TrainingError(RuntimeError):
    """Training that went wrong."""


def _epoch_batches(
    lengths: list[int], batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """One epoch's batches of indices: shuffled, sorted by length within pools, shuffled again."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool = batch_size * POOL_BATCHES
    batches = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda index: lengths[index])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index]


def learning_rate_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the peak rate in step 0 <= `step` < `steps`: linear up, then linear down.

    The peak is reached in the last step of the warm-up; the rate is never 0.
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


class Optimization:
    """AdamW with linear warm-up and decay and clipped gradients; its state can be kept.

    Args:
        model: Its trainable parameters are changed.
        config: Learning rate, warm-up and weight decay.
        steps: Number of all steps.

    Attributes:
        done: Steps so far.
    """

    def __init__(
        self, model: nn.Module, config: FinetuneConfig | RecoveryConfig, steps: int
    ) -> None:
        self._parameters = trained = [p for p in model.parameters() if p.requires_grad]
        self._config, self._steps, self.done = config, steps, 0
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)

    def step(self, loss: Tensor, place: str) -> float:
        """One step down the gradient of this loss, whose value is returned; errors say the place.

        Raises:
            TrainingError: The loss is not finite.
        """
        config, value = self._config, loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"fine-tuning: expected a finite loss; got {value} in {place} "
                f"(learning_rate={config.learning_rate} too large?)"
            )
        factor = learning_rate_factor(self.done, self._steps, config.warmup_fraction)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.done += 1
        return value

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments, by a name that the same model gives again."""
        state = {str(i): p.detach().contiguous() for i, p in enumerate(self._parameters)}
        for index, moments in self._optimizer.state_dict()["state"].items():
            state |= {f"{index}.{name}": tensor for name, tensor in moments.items()}
        return state

    def resume(self, state: dict[str, Tensor], done: int) -> None:
        """Go on where `state` was taken, after `done` steps."""
        kept = self._optimizer.state_dict()
        with torch.no_grad():
            for index, parameter in enumerate(self._parameters):
                parameter.copy_(state[str(index)])
        for key, tensor in state.items():
            index_text, _, name = key.partition(".")
            if name:
                kept["state"].setdefault(int(index_text), {})[name] = tensor
        self._optimizer.load_state_dict(kept)
        self.done = done


def train(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    config: FinetuneConfig,
) -> list[float]:
    """Train in place: AdamW, linear warm-up and decay, clipped gradients, length-bucketed batches.

    The order of the examples comes from `config.seed`; dropout comes from torch's random state,
    so call it inside `seeded`.

    Args:
        model: Model with a head for the task, on its device.
        tokenizer: Its tokenizer.
        data: Training rows and the loss on them.
        config: The recipe.

    Returns:
        Mean training loss of each epoch.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(data.data.splits["train"]), generator=generator)
    rows = order[: config.max_examples].tolist()
    examples = data.encode(tokenizer, rows)
    lengths = [len(example["input_ids"]) for example in examples.encoded]
    count = len(lengths)
    device = device_of(model)
    steps = config.epochs * math.ceil(count / config.batch_size)
    optimization = Optimization(model, config, steps)

    def step(batch: list[int], place: str) -> float:
        inputs = to_device(pad_batch(tokenizer, examples.encoded, batch), model)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
            outputs = model(**inputs)
        return optimization.step(examples.loss(outputs, inputs, batch), place)

    losses = []
    model.train()
    with Progress("fine-tuning", config.epochs * count, examples.unit) as progress:
        for epoch in range(1, config.epochs + 1):
            total = 0.0
            for batch in _epoch_batches(lengths, config.batch_size, generator):
                loss = step(batch, f"epoch {epoch}")
                total += loss * len(batch)
                progress.advance(len(batch), f"epoch {epoch}/{config.epochs}, loss {loss:.3f}")
            losses.append(total / count)
    model.eval()
    return losses
