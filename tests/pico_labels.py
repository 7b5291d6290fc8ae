"""Batches of random tokens with labels."""

import torch
from pico_models import pico_batches


def data_for(model, count=3):
    """Batches with labels, which all methods but one ignore."""
    return [
        {**batch, "labels": torch.arange(len(batch["input_ids"])) % 2}
        for batch in pico_batches(model, count=count)
    ]
