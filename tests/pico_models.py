"""Tiny seeded random models for all tests, with plans and batches for them.

The weights are far larger than a fresh initialisation, so that softmax and activations are in
their nonlinear range and a wrong column is seen in the output.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers as hf
from pico_configs import (
    DECODER_NAMES,
    ENCODERS,
    LAYERS,
    LLAMA_NAMES,
    PAD,
    PICO_CONFIGS,
    PICO_HEADS,
    PICO_NAMES,
    REPRESENTATIVES,
    VOCABULARY,
)
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import sdpa_mask

from stat_repro.linalg.units import unit_columns
from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import linear
from stat_repro.plan import LayerPlan, PruningPlan
from stat_repro.surgery.edit import SiteEdit

__all__ = [
    "DECODER_NAMES",
    "EMPTY_SITES",
    "ENCODERS",
    "LAYERS",
    "LLAMA_NAMES",
    "PAD",
    "PICO_CONFIGS",
    "PICO_HEADS",
    "PICO_NAMES",
    "REPRESENTATIVES",
    "VOCABULARY",
    "masked_model",
    "pico_batches",
    "pico_model",
    "pico_outputs",
    "precise_dtype",
    "random_plan",
    "randomise",
    "selection_edits",
]

# Named sets of sites (layer, kind) that a plan may leave without units.
EMPTY_SITES = {
    "first": [(0, "attention"), (0, "ffn")],
    "middle": [(1, "attention"), (1, "ffn")],
    "last": [(2, "attention"), (2, "ffn")],
    "outer heads": [(0, "attention"), (2, "attention")],
    "all heads": [(i, "attention") for i in range(3)],
    "everything": [(i, kind) for i in range(3) for kind in ("attention", "ffn")],
}


def precise_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention with soft caps in the dtype of its inputs, as the eager one is not."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2), None


hf.AttentionInterface.register("precise", precise_attention)


def _precise_mask(*args: Any, **options: Any) -> Tensor | None:
    return sdpa_mask(*args, **{**options, "allow_is_causal_skip": False})


hf.AttentionMaskInterface.register("precise", _precise_mask)


def precise_dtype(name: str, attention: str) -> torch.dtype:
    """float64, where that works.

    In float64 the eager attention of transformers gives NaN for a token that may attend to nothing
    (its softmax is float32): padding that is longer than a sliding window.
    """
    windows = getattr(PICO_CONFIGS[name], "sliding_window", None) is not None
    return torch.float32 if windows and attention == "eager" else torch.float64


def pico_model(
    name: str,
    head: str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    seed: int = 0,
    **changes: Any,
) -> PreTrainedModel:
    """A stock model with random weights, in eval mode.

    Args:
        name: One of `PICO_NAMES`.
        head: End of the class name (`Model`, `ForMaskedLM`...); by default sequence
            classification for encoders and causal language modelling for decoders.
        dtype: Of the parameters.
        attention: `sdpa` or `eager`. Gemma 2 has no `sdpa`: `eager`, or in float64 `precise`; MPNet
            has `eager` only.
        seed: Of the weights; the global generator is left alone.
        changes: Other config values.
    """
    values = {**PICO_CONFIGS[name].to_dict(), **changes}
    config = type(PICO_CONFIGS[name]).from_dict(values)
    if head is None:
        head = "ForSequenceClassification" if name in ENCODERS else "ForCausalLM"
    auto = getattr(hf, "AutoModel" + head.removeprefix("Model"))
    if config.model_type == "gemma2" and attention == "sdpa":
        attention = "precise" if dtype == torch.float64 else "eager"
    if config.model_type == "mpnet":
        attention = "eager"
    with torch.random.fork_rng(devices=[]):
        model = auto.from_config(config, attn_implementation=attention, dtype=dtype)
    randomise(model, seed)
    for parameter in model.parameters():  # as from_pretrained, which leaves buffers in float32
        parameter.data = parameter.data.to(dtype)
    return model.eval()


def randomise(model: nn.Module, seed: int) -> None:
    """Fill all parameters with seeded random values of order one."""
    generator = torch.Generator().manual_seed(seed)
    adds_one = "Gemma" in type(model).__name__  # to the weights of its norms
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                centred = "norm" in name.lower() and name.endswith("weight") and not adds_one
                offset = 1.0 if centred else 0.0
                parameter.copy_(offset + 0.2 * noise)
            else:
                parameter.copy_(noise if "embed" in name else noise / parameter.shape[1] ** 0.5)


def pico_batches(
    model: PreTrainedModel,
    count: int = 3,
    *,
    batch_size: int = 4,
    length: int = 9,
    padding_side: str = "right",
    seed: int = 0,
) -> list[dict[str, Tensor]]:
    """Batches of random tokens, all but the first row padded.

    Returns:
        `input_ids` and `attention_mask` of shape (batch_size, length), for multiple choice
        (batch_size / 2, 2, length).
    """
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        ids = torch.randint(2, VOCABULARY, (batch_size, length), generator=generator)
        lengths = torch.randint(2, length, (batch_size,), generator=generator)
        lengths[0] = length
        positions = torch.arange(length)
        if padding_side == "left":
            positions = positions.flip(0)
        mask = (positions[None, :] < lengths[:, None]).long()
        pad = PAD if model.config.pad_token_id is None else model.config.pad_token_id
        batch = {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask}
        if type(model).__name__.endswith("ForMultipleChoice"):
            batch = {key: value.reshape(-1, 2, length) for key, value in batch.items()}
        batches.append({key: value.to(model.device) for key, value in batch.items()})
    return batches


@torch.no_grad()
def pico_outputs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """All tensors that a model returns for a batch, in one row."""
    outputs = model(**batch).to_tuple()
    return torch.cat([value.reshape(-1) for value in outputs if isinstance(value, Tensor)])


def random_plan(
    model: PreTrainedModel,
    seed: int = 0,
    *,
    empty: Sequence[tuple[int, str]] = (),
    whole: Sequence[tuple[int, str]] = (),
) -> PruningPlan:
    """A plan that keeps a random proper subset of every site.

    Args:
        model: Any supported model.
        seed: Of the choice.
        empty: Sites (layer, kind) that keep nothing.
        whole: Sites (layer, kind) that keep everything.
    """
    generator = torch.Generator().manual_seed(seed)
    adapter = adapter_for(model)
    kept: dict[tuple[int, str], tuple[int, ...]] = {}
    for site in adapter.sites:
        order = torch.randperm(site.units, generator=generator)
        number = int(torch.randint(1, max(site.units, 2), (1,), generator=generator))
        key = (site.layer, site.kind)
        number = 0 if key in empty else site.units if key in whole else number
        kept[key] = tuple(sorted(order[:number].tolist()))
    return PruningPlan(
        layers=tuple(
            LayerPlan(
                kept_heads=kept[i, "attention"],
                kept_neurons=kept[i, "ffn"],
                heads=adapter.site(i, "attention").units,
                neurons=adapter.site(i, "ffn").units,
            )
            for i in range(adapter.num_layers)
        ),
        method="random",
    )


def selection_edits(model: PreTrainedModel, plan: PruningPlan) -> list[SiteEdit]:
    """Edits without correction: the consumers' columns of the kept units as they are."""
    edits = []
    for site in adapter_for(model).sites:
        kept = plan.layers[site.layer].kept(site.kind)
        columns = unit_columns(torch.tensor(kept, dtype=torch.int64), site.width)
        weight = linear(model, site.consumer).weight.detach()[:, columns].clone()
        edits.append(SiteEdit(site, kept, weight))
    return edits


class _NormOfSome(nn.Module):
    """A norm that sees only some of its columns, and gives zero for the others."""

    def __init__(self, norm: nn.Module, seen: Tensor) -> None:
        super().__init__()
        self.norm, self.seen = copy.deepcopy(norm), seen
        self.norm.weight = nn.Parameter(norm.weight.detach()[seen])

    def forward(self, values: Tensor) -> Tensor:
        result = torch.zeros_like(values)
        result[..., self.seen] = self.norm(values[..., self.seen])
        return result


def masked_model(model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
    """The dense model with the consumers' columns of the dropped units set to zero."""
    model = copy.deepcopy(model)
    for site in adapter_for(model).sites:
        units = torch.tensor(plan.layers[site.layer].kept(site.kind), dtype=torch.int64)
        for norm in (producer for producer in site.producers if producer.norm):
            seen = unit_columns(units, norm.rows_per_unit)
            model.set_submodule(norm.module, _NormOfSome(model.get_submodule(norm.module), seen))
        kept = unit_columns(units, site.width)
        weight = linear(model, site.consumer).weight
        dropped = torch.ones(weight.shape[1], dtype=torch.bool)
        dropped[kept] = False
        weight.data[:, dropped] = 0
    return model
