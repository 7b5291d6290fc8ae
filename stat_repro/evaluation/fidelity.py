"""How close the pruned model's predictions are to the dense model's, whatever the labels say."""

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


def classification_values(dense_logits: Tensor, pruned_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence from the dense model and equality of the decisions, example by example.

    An example whose pruned logits are not finite has infinite divergence and counts as a
    disagreement.

    Args:
        dense_logits: (N, C), finite, C >= 2.
        pruned_logits: (N, C).

    Returns:
        KL(dense || pruned) of the softmax in nats, float64 (N); whether both models have the same
        largest logit, bool (N).

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
    return divergence, same


def classification_fidelity(dense_logits: Tensor, pruned_logits: Tensor) -> dict[str, float]:
    """Means of `classification_values`, with the same arguments and errors.

    Returns:
        `kl`: mean divergence in nats; `agreement`: share of examples with the same decision.
    """
    divergence, same = classification_values(dense_logits, pruned_logits)
    return {"kl": float(divergence.mean()), "agreement": float(same.double().mean())}


def regression_values(dense_logits: Tensor, pruned_logits: Tensor) -> Tensor:
    """Squared difference of the two models' values; a regression head has no KL.

    Args:
        dense_logits: (N, 1), finite.
        pruned_logits: (N, 1).

    Returns:
        float64 (N), in squared units of the target; inf where a pruned value is not finite.

    Raises:
        ValueError: Shapes that differ, more than one output, or a dense model that is not finite.
    """
    _check(dense_logits, pruned_logits)
    if dense_logits.shape[1] != 1:
        raise ValueError(
            f"fidelity: expected one output for regression; got {dense_logits.shape[1]}"
        )
    dense, pruned = dense_logits[:, 0].double().cpu(), pruned_logits[:, 0].double().cpu()
    return (dense - pruned).square().masked_fill(~torch.isfinite(pruned), torch.inf)


def regression_fidelity(dense_logits: Tensor, pruned_logits: Tensor) -> dict[str, float]:
    """Mean of `regression_values`, with the same arguments and errors.

    Returns:
        `mse_to_dense`.
    """
    return {"mse_to_dense": float(regression_values(dense_logits, pruned_logits).mean())}
