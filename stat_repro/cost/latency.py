"""Wall time of forward passes, two models in turns."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from stat_repro.measure import synchronize


def time_in_turns(
    forwards: Sequence[Callable[[], object]], device: torch.device, warmup: int, repeats: int
) -> list[list[float]]:
    """Seconds of every pass of every model.

    The models take turns, so that a machine that slows down or speeds up does so for all.

    Args:
        forwards: One per model; runs a forward pass.
        device: Device they run on; an accelerator's queue is emptied around every pass.
        warmup: Untimed passes of each model before the clock starts.
        repeats: Timed passes of each model.

    Returns:
        Per model, `repeats` times; times with the same index are of one turn.
    """
    seconds: list[list[float]] = [[] for _ in forwards]
    for turn in range(-warmup, repeats):
        for forward, times in zip(forwards, seconds, strict=True):
            synchronize(device)
            start = time.perf_counter()
            forward()
            synchronize(device)
            if turn >= 0:
                times.append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """`median`, quartiles `q25` and `q75` (linear between the values) and `min`."""
    q25, median, q75 = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "q25": q25, "q75": q75, "min": min(values)}
