"""How close the pruned model's predictions are to the dense model's, whatever the labels say."""

import torch
from torch import Tensor

NOT_FINITE = (
    "are not finite; expected a working model to compare with; choose another checkpoint, or "
    "float32 where a half precision overflows"
)


class DenseModelError(ValueError):
    """A dense model that no other can be compared with."""


def divergence(dense_logits: Tensor, pruned_logits: Tensor) -> Tensor:
    """KL(dense || pruned) of the softmax, example by example.

    Args:
        dense_logits: (N, C), finite, C >= 2.
        pruned_logits: (N, C).

    Returns:
        float64 (N) in nats; infinite where a pruned logit is not finite.
    """
    dense, pruned = dense_logits.double(), pruned_logits.double()
    broken = ~torch.isfinite(pruned).all(dim=1)
    # The placeholder rows only keep nan out of the sums; their results are overwritten below.
    pruned = pruned.masked_fill(broken[:, None], 0.0)
    log_p, log_q = dense.log_softmax(dim=1), pruned.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).masked_fill(broken, torch.inf)


def squared_difference(expected: Tensor, outputs: Tensor) -> Tensor:
    """Squared difference of values, as a regression head has no KL.

    Args:
        expected: (N, 1), finite: outputs of another model, or targets.
        outputs: (N, 1).

    Returns:
        float64 (N), in squared units of the target; inf where an output is not finite.
    """
    left, right = expected[:, 0].double(), outputs[:, 0].double()
    return (left - right).square().masked_fill(~torch.isfinite(right), torch.inf)
