"""Models in which some units are copies of others."""

import torch

from stat_repro.models.adapter import adapter_for
from stat_repro.models.projections import producer_of


def copy_rows(model, producer, units, source, target):
    """Make the rows of the target units those of the source units."""
    module = producer_of(model, producer)
    sources, targets = (producer.kept_rows(units, kept) for kept in (source, target))
    for tensor in (module.weight, module.bias):
        if tensor is not None:
            tensor.data[targets] = tensor.data[sources]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def duplicate_neurons(model):
    """Make the second half of every FFN's neurons copies of the first."""
    for site in adapter_for(model).of_kind("ffn"):
        half = site.units // 2
        for producer in site.producers:
            copy_rows(model, producer, site.units, range(half), range(half, 2 * half))


def duplicate_heads(model):
    """Make the last attention unit of every layer a copy of the first.

    Where norms see all heads of a layer at once, all units are copies: any of them have its mean.
    """
    for site in adapter_for(model).of_kind("attention"):
        together = any(producer.norm for producer in site.producers)
        for unit in range(1, site.units) if together else [site.units - 1]:
            for producer in site.producers:
                copy_rows(model, producer, site.units, [0], [unit])
    table = getattr(model.base_model, "encoder", None)
    table = getattr(table, "relative_attention_bias", None)
    if table is not None:  # MPNet: a column of position biases for each head
        table.weight.data[:, -1] = table.weight.data[:, 0]
