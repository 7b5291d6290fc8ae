"""Which examples of the training part are calibrated on."""

import numpy as np

from stat_repro.data.errors import DataError


def draw_indices(pool: int, examples: int, seed: int, replacement: bool) -> tuple[int, ...]:
    """Draw calibration examples.

    With replacement this is the draw of the authors' code (`np.random.choice` after
    `np.random.seed`), number by number; duplicates are kept. No global generator is touched.

    Args:
        pool: Examples to draw from, at least one.
        examples: Examples to draw, at least one.
        seed: Seed of the draw, 0 to 2^32 - 1.
        replacement: Whether an example may come more than once.

    Returns:
        Indices below `pool`, in the order drawn.

    Raises:
        DataError: Without replacement more examples than the pool has.
    """
    if not replacement and examples > pool:
        raise DataError(
            f"calibration.examples: expected at most {pool} (all there are); got {examples}. "
            "calibration.replacement=true draws with repeats"
        )
    drawn = np.random.RandomState(seed).choice(pool, examples, replace=replacement)
    return tuple(drawn.tolist())
