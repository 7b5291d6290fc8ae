"""Costs of a dense and a pruned model side by side, in the form of the record."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from stat_repro.allocation.costs import prunable_costs
from stat_repro.config import ConfigError, CostConfig
from stat_repro.config.checks import integer
from stat_repro.cost.count import size_bytes, whole_model_macs
from stat_repro.cost.latency import spread, time_in_turns
from stat_repro.cost.memory import forward_bytes
from stat_repro.measure import processor_name
from stat_repro.models.adapter import adapter_for
from stat_repro.models.modes import evaluating
from stat_repro.models.positions import positions_of
from stat_repro.progress import track


def counted_costs(
    dense: PreTrainedModel,
    pruned: PreTrainedModel,
    sequence_length: float,
    dtype: torch.dtype | None = None,
) -> dict[str, dict[str, float]]:
    """Costs that are counted and not timed, each for `dense` and `pruned`.

    `prunable_macs_per_token` (attention and FFN, which the ratio refers to), `macs_per_token` (the
    whole model, see `whole_model_macs`), `prunable_params`, `params`, `size_bytes` (on disk, in
    `dtype` if it is given).
    """
    prunable = _both(dense, pruned, lambda m: prunable_costs(adapter_for(m), sequence_length))
    return {
        "prunable_macs_per_token": {name: costs.macs for name, costs in prunable.items()},
        "macs_per_token": _both(dense, pruned, lambda m: whole_model_macs(m, sequence_length)),
        "prunable_params": {name: costs.params for name, costs in prunable.items()},
        "params": _both(dense, pruned, lambda m: m.num_parameters()),
        "size_bytes": _both(dense, pruned, lambda m: size_bytes(m, dtype)),
    }


def timed_length(
    given: int | None,
    model: PreTrainedModel,
    mean_length: float,
    key: str = "cost.sequence_length",
) -> int:
    """Tokens per example of the timed inputs: what `key` says, else the mean, rounded.

    Raises:
        ConfigError: More than the model has positions for.
    """
    length = integer(key, given or max(1, round(mean_length)))
    positions = positions_of(model.config)
    if positions is not None and length > positions:
        raise ConfigError(f"{key}: the model has {positions} positions; got {length} tokens")
    return length


def measured_costs(
    dense: PreTrainedModel, pruned: PreTrainedModel, config: CostConfig, mean_length: float
) -> list[dict[str, Any]]:
    """Time and memory of one forward pass over random tokens, one entry per batch size.

    Both models run in this process, in turns. No position is padded; a language model computes the
    logits of every position and keeps no cache, as when a text is scored. Entries hold the
    conditions, the MACs at this length, and, each for `dense` and `pruned`:

    - `latency_s`: median, quartiles and minimum of the repeats, in seconds;
    - `tokens_per_s`: batch size times length by the median;
    - `speedup`: dense by pruned time of every turn, `median` and quartiles (`q25`, `q75`); unlike
      the ratio of the medians it does not move when the machine changes its pace between turns;
    - `forward_memory_bytes`: the most that a pass holds beyond weights and inputs, see
      `forward_bytes`; `peak_memory_bytes`: the same with all parameters and buffers.

    Args:
        dense: The dense model.
        pruned: On the same device.
        config: Batch sizes, sequence length, warm-up, repeats.
        mean_length: Mean tokens per example of the data, for `sequence_length` null.

    Raises:
        ConfigError: As `timed_length`.
    """
    length = timed_length(config.sequence_length, dense, mean_length)
    macs = counted_costs(dense, pruned, length)
    shared = {
        "sequence_length": length,
        "warmup": config.warmup,
        "repeats": config.repeats,
        "threads": torch.get_num_threads(),
        "device": str(dense.device),
        "processor": processor_name(dense.device),
        "dtype": str(dense.dtype).removeprefix("torch."),
        **{key: macs[key] for key in ("macs_per_token", "prunable_macs_per_token")},
    }
    sizes = track(config.batch_sizes, "timing dense and pruned", unit="batch sizes")
    return [
        {"batch_size": size, **shared, **_measured(dense, pruned, config, size, length)}
        for size in sizes
    ]


def _measured(
    dense: PreTrainedModel, pruned: PreTrainedModel, config: CostConfig, batch: int, length: int
) -> dict[str, Any]:
    device = dense.device
    inputs = random_inputs(dense, batch, length)
    forwards = _both(dense, pruned, lambda model: lambda: model(**inputs))
    with evaluating(dense), evaluating(pruned), torch.inference_mode():
        seconds = time_in_turns(list(forwards.values()), device, config.warmup, config.repeats)
        held = {name: forward_bytes(forward, device) for name, forward in forwards.items()}
    latency = dict(zip(forwards, map(spread, seconds), strict=True))
    turns = spread([slow / fast for slow, fast in zip(*seconds, strict=True)])
    weights = _both(dense, pruned, lambda model: model.get_memory_footprint())
    return {
        "latency_s": latency,
        "tokens_per_s": {name: batch * length / s["median"] for name, s in latency.items()},
        "speedup": {name: turns[name] for name in ("median", "q25", "q75")},
        "forward_memory_bytes": held,
        "peak_memory_bytes": {name: weights[name] + held[name] for name in held},
    }


def random_inputs(model: PreTrainedModel, batch: int, length: int) -> dict[str, Any]:
    """Random tokens of the vocabulary, none of them padding; of multiple choice one choice each."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (batch, length), generator=generator)
    if type(model).__name__.endswith("ForMultipleChoice"):
        tokens = tokens[:, None]
    tokens = tokens.to(model.device)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _both(
    dense: PreTrainedModel, pruned: PreTrainedModel, value: Callable[[PreTrainedModel], Any]
) -> dict[str, Any]:
    return {"dense": value(dense), "pruned": value(pruned)}
