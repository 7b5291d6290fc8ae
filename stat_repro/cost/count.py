"""Costs that depend on the model alone: MACs of the whole model, bytes on disk."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

# Lengths at which the MACs are counted; three of them determine a polynomial of degree two.
_LENGTHS = (2, 3, 4)


def whole_model_macs(model: PreTrainedModel, sequence_length: float) -> float:
    """Multiply-accumulates of one forward pass, per token.

    Matrix products of all modules: layers, pooler, task head, and for a language model the logits
    of every position. Embeddings are looked up and cost none; the angles of rotary positions are
    not counted. As in the cost model of the prunable part every token attends to all
    `sequence_length` positions, also in causal models.

    The MACs of an example of n tokens are a n + b n^2 + c (projections, attention, a head that
    reads one position), so that three very short inputs give them for any n, mean lengths
    included.

    Args:
        model: A model with token inputs (multiple choice excepted).
        sequence_length: Tokens per example; may be a mean.
    """
    first, second, third = (_macs(model, length) for length in _LENGTHS)
    n = sequence_length - _LENGTHS[0]
    total = first + n * (second - first) + n * (n - 1) / 2 * (third - 2 * second + first)
    return total / sequence_length


@torch.inference_mode()
def _macs(model: PreTrainedModel, length: int) -> int:
    """MACs of one example of so many tokens, counted while the model reads it."""
    tokens = torch.zeros(1, length, dtype=torch.int64, device=model.device)
    counter = FlopCounterMode(display=False)
    # The counter knows no formula for the fused attention of the CPU.
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    # transformers 5.17 makes the angles by a matrix product, 5.23 does not.
    angles = sum(
        sum(flops.values())
        for module, flops in counter.get_flop_counts().items()
        if module.endswith(".rotary_emb")
    )
    return (counter.get_total_flops() - angles) // 2


def size_bytes(model: PreTrainedModel, dtype: torch.dtype | None = None) -> int:
    """Bytes of the weights as `save_pretrained` stores them: tied tensors once, no file headers.

    Args:
        model: The model.
        dtype: Floating point type of the stored weights; theirs if None.
    """
    sizes = {}
    for tensor in model.state_dict().values():
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        sizes[tensor.data_ptr()] = tensor.numel() * kind.itemsize
    return sum(sizes.values())
