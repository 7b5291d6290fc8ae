"""How close the pruned model's predictions are to the dense model's, whatever the labels say."""

from __future__ import annotations

import torch
from torch import Tensor


def _check(dense_logits: Tensor, pruned_logits: Tensor) -> None:
    shapes = tuple(dense_logits.shape), tuple(pruned_logits.shape)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(
            "fidelity: expected logits (examples, classes) of the same shape, none empty; "
            f"got {shapes[0]} (dense) and {shapes[1]} (pruned)"
        )
    if not bool(torch.isfinite(dense_logits).all()):
        raise ValueError("fidelity: the dense model's logits are not finite")


def classification_fidelity(dense_logits: Tensor, pruned_logits: Tensor) -> dict[str, float]:
    """Divergence from the dense model and share of equal decisions.

    An example whose pruned logits are not finite has infinite divergence and counts as a
    disagreement.

    Args:
        dense_logits: (N, C), finite, C >= 2.
        pruned_logits: (N, C).

    Returns:
        `kl`: mean over the examples of KL(dense || pruned) of the softmax, in nats, computed in
        float64; `agreement`: share of examples with the same largest logit.

    Raises:
        ValueError: Shapes that differ, fewer than two classes, or a dense model that is not finite.
    """
    _check(dense_logits, pruned_logits)
    if dense_logits.shape[1] < 2:
        raise ValueError("fidelity: expected at least two classes; a regression head has no KL")
    dense, pruned = dense_logits.double().cpu(), pruned_logits.double().cpu()
    broken = ~torch.isfinite(pruned).all(dim=1)
    # The placeholder rows only keep nan out of the sums; their results are overwritten below.
    pruned = pruned.masked_fill(broken[:, None], 0.0)
    log_p, log_q = dense.log_softmax(dim=1), pruned.log_softmax(dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    divergence = divergence.masked_fill(broken, torch.inf)
    same = (dense.argmax(dim=1) == pruned.argmax(dim=1)) & ~broken
    return {"kl": float(divergence.mean()), "agreement": float(same.double().mean())}


def regression_fidelity(dense_logits: Tensor, pruned_logits: Tensor) -> dict[str, float]:
    """Mean squared difference of the two models' values; a regression head has no KL.

    Args:
        dense_logits: (N, 1), finite.
        pruned_logits: (N, 1).

    Returns:
        `mse_to_dense`, in squared units of the target; inf where a pruned value is not finite.

    Raises:
        ValueError: Shapes that differ, more than one output, or a dense model that is not finite.
    """
    _check(dense_logits, pruned_logits)
    if dense_logits.shape[1] != 1:
        raise ValueError(
            f"fidelity: expected one output for regression; got {dense_logits.shape[1]}"
        )
    if not bool(torch.isfinite(pruned_logits).all()):
        return {"mse_to_dense": float("inf")}
    difference = dense_logits.double() - pruned_logits.double()
    return {"mse_to_dense": float(difference.square().mean())}
