"""Models in which some units are copies of others."""

import torch

from stat_repro.models.adapter import adapter_for, linear


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def duplicate_neurons(model):
    """Make the second half of every FFN's neurons copies of the first."""
    for site in adapter_for(model).of_kind("ffn"):
        half = site.units // 2
        for producer in site.producers:
            module = linear(model, producer.module)
            module.weight.data[half : 2 * half] = module.weight.data[:half]
            if module.bias is not None:
                module.bias.data[half : 2 * half] = module.bias.data[:half]


def duplicate_heads(model):
    """Make the last attention unit of every layer a copy of the first."""
    for site in adapter_for(model).of_kind("attention"):
        for producer in site.producers:
            module, rows = linear(model, producer.module), producer.rows_per_unit
            module.weight.data[-rows:] = module.weight.data[:rows]
            if module.bias is not None:
                module.bias.data[-rows:] = module.bias.data[:rows]
