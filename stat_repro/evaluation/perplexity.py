"""Token perplexity of language models, and how far a pruned one is from the dense one.

Protocol: every window of W tokens is scored on its own, without the text around it. Tokens 1 to
W - 1 are predicted (W - 1 losses per window, the first token only gives context). The mean negative
log-likelihood runs over all predicted tokens of all windows, and its exponential is the perplexity.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stat_repro.evaluation.example_values import Evaluation, compact
from stat_repro.evaluation.fidelity import NOT_FINITE, DenseModelError
from stat_repro.evaluation.predictions import to_device
from stat_repro.models.modes import evaluating
from stat_repro.progress import Progress

# Upper bound of one model's logits per forward pass; a vocabulary of 49,152 and windows of 512
# tokens take 100 MB per window in float32.
LOGIT_BYTES = 256 * 2**20
# Positions whose log-softmax is computed at once.
CHUNK_POSITIONS = 128


def perplexity_of(nll: float) -> float:
    """exp(nll), inf where that overflows."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def _window_batches(model: nn.Module, windows: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Windows in batches of at most `batch_size` whose logits stay under `LOGIT_BYTES`."""
    vocabulary = getattr(model.config, "vocab_size", 1)
    fits = max(1, LOGIT_BYTES // (4 * vocabulary * windows.shape[1]))
    yield from windows.split(min(batch_size, fits))


def _next_token_logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits (B, W - 1, V) of the predicted positions of a batch of windows (B, W)."""
    return model(**to_device({"input_ids": tokens}, model), use_cache=False).logits[:, :-1]


def _chunks(batch: Tensor) -> Iterator[tuple[int, slice]]:
    """Window and positions of the parts whose log-softmax is computed at once."""
    windows, tokens = batch.shape
    for row in range(windows):
        for start in range(0, tokens - 1, CHUNK_POSITIONS):
            yield row, slice(start, min(start + CHUNK_POSITIONS, tokens - 1))


def _token_nll(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood (T) in float64; inf where the row (T, V) is not a distribution."""
    nll = -log_probabilities.gather(1, targets[:, None]).squeeze(1).double()
    return nll.masked_fill(nll.isnan(), torch.inf)


def _compare_chunk(dense: Tensor, pruned: Tensor, targets: Tensor, place: str) -> Tensor:
    """Sums over T positions: dense NLL, pruned NLL, KL, agreements; float64, (4,).

    Args:
        dense: Logits (T, V), float32.
        pruned: Logits (T, V), float32, same device.
        targets: Token ids, (T).
        place: Where the positions are, for the error message.
    """
    log_p, log_q = dense.log_softmax(dim=1), pruned.log_softmax(dim=1)
    # One nan makes the whole row of a log-softmax nan, so one column is enough.
    if bool(log_p[:, 0].isnan().any()):
        raise DenseModelError(
            f"perplexity: the dense model's logits at or after {place} {NOT_FINITE}"
        )
    broken = log_q[:, 0].isnan()
    p = log_p.exp()
    # A token that the dense model excludes (p = 0) adds nothing, whatever the pruned model says.
    terms = (p * (log_p - log_q)).masked_fill_(p == 0, 0.0)
    divergence = terms.sum(dim=1, dtype=torch.float64).masked_fill(broken, torch.inf)
    same = (dense.argmax(dim=1) == pruned.argmax(dim=1)) & ~broken
    return torch.stack(
        [
            _token_nll(log_p, targets).sum(),
            _token_nll(log_q, targets).sum(),
            divergence.sum(),
            same.sum().double(),
        ]
    )


def evaluate_language(
    dense: nn.Module,
    pruned: nn.Module,
    windows: Tensor,
    text: Mapping[str, Any],
    batch_size: int = 4,
) -> Evaluation:
    """Perplexity of both models, KL and agreement per predicted token, in one pass over the text.

    Both models see the same batch before the next one, so that no logits are stored. A pruned
    model whose logits are not finite has infinite perplexity and divergence; such positions count
    as disagreements.

    Args:
        dense: Reference model.
        pruned: Model that is compared with it; may be on another device.
        windows: Token ids, (N, W), N >= 1, W >= 2.
        text: What the windows were cut from and how (`split`, `join`, ...), for the protocol.
        batch_size: Windows per forward pass at most; does not change the result beyond rounding.

    Returns:
        Metrics: `dense` and `pruned` (`perplexity`, `nll`: mean negative log-likelihood per
        predicted token, in nats), `fidelity` (`kl` from dense to pruned in nats, `agreement`: share
        with the same most likely token; means over the predicted tokens), `protocol`. Values per
        window: `dense_nll`, `nll` (of the pruned model), `kl` and `agree`, each a mean over its
        predicted tokens. All windows have equally many, so that the metrics are means over them.
        Log-softmax in float32 whatever the data types, sums in float64.

    Raises:
        DenseModelError: Its logits are not finite, or its vocabulary is another.
    """
    count, window = windows.shape
    sums = torch.zeros(count, 4, dtype=torch.float64)
    with (
        evaluating(dense),
        evaluating(pruned),
        torch.inference_mode(),
        Progress("evaluating dense and pruned", count, "windows") as progress,
    ):
        for batch in _window_batches(dense, windows, batch_size):
            dense_logits = _next_token_logits(dense, batch)
            pruned_logits = _next_token_logits(pruned, batch)
            if dense_logits.shape != pruned_logits.shape:
                raise DenseModelError(
                    "perplexity: expected models with the same vocabulary; got "
                    f"{dense_logits.shape[2]} (dense) and {pruned_logits.shape[2]} (pruned) tokens"
                )
            targets = batch[:, 1:].to(dense_logits.device)
            for row, part in _chunks(batch):
                reference = dense_logits[row, part].float()
                compared = pruned_logits[row, part].to(reference.device).float()
                number = progress.done + row
                place = f"window {number}, predicted token {part.start}"
                chunk = _compare_chunk(reference, compared, targets[row, part], place)
                sums[number] += chunk.cpu()
            progress.advance(len(batch))
    tokens = count * (window - 1)
    dense_nll, nll, kl, agreement = (sums.sum(dim=0) / tokens).tolist()
    metrics = {
        "dense": {"perplexity": perplexity_of(dense_nll), "nll": dense_nll},
        "pruned": {"perplexity": perplexity_of(nll), "nll": nll},
        "fidelity": {"kl": kl, "agreement": agreement},
        "protocol": {
            "task": "language_modeling",
            "windows": count,
            "tokens_per_window": window,
            "predicted_tokens": tokens,
            **text,
            "context": "every window on its own; its first token is not predicted",
        },
    }
    columns = (sums / (window - 1)).T.numpy()
    per_window = dict(zip(("dense_nll", "nll", "kl", "agree"), columns, strict=True))
    return Evaluation(metrics, compact(per_window))
