"""Random sketches S A of the activations: few rows for many tokens, as STAT does for 7B models.

S has s rows and one column per token, and E[S^T S] = I: Gaussian with variance 1 / s, or a
CountSketch, one entry of +1 or -1 per column (Clarkson and Woodruff, 2013). S A is a sum over the
tokens, so it is streamed like a Gram matrix.
"""

import operator
from dataclasses import dataclass

import torch

SKETCHES = ("gaussian", "countsketch")
# Far apart, so that neighbouring seeds do not give one site's numbers to another site.
_SITE_STRIDE = 1_000_003


@dataclass(frozen=True)
class Sketch:
    """Which sketch of the activations is taken.

    Attributes:
        kind: `gaussian` or `countsketch`.
        size: Rows s of the sketch of every site; None for twice the site's columns.
        seed: Seed of S. Every site has a different S, whatever other sites there are.
    """

    kind: str = "gaussian"
    size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key, value in (("size", self.size), ("seed", self.seed)):
            if value is not None:  # integers of numpy become Python's
                object.__setattr__(self, key, operator.index(value))
        if self.kind not in SKETCHES:
            raise ValueError(f"sketch: expected one of {', '.join(SKETCHES)}; got {self.kind!r}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"sketch size: expected at least 1; got {self.size}")

    def generator(self, layer: int, kind: str) -> torch.Generator:
        """The source of a site's S; on the CPU, so that every device gets the same numbers."""
        site = 2 * layer + (kind == "ffn")
        return torch.Generator().manual_seed(self.seed + _SITE_STRIDE * site)


def sketch_rows(
    total: torch.Tensor, rows: torch.Tensor, kind: str, drawn: int, generator: torch.Generator
) -> None:
    """Add S rows to a sketch, in place, with the next columns of S.

    Args:
        total: S A so far, shape (s, F), float64.
        rows: Activations of r tokens, shape (r, F), float64, on the same device.
        kind: One of `SKETCHES`.
        drawn: Columns of S that are drawn, at least r: as many for a last part that is not full, so
            that the numbers of a token depend on its position alone.
        generator: On the CPU; moved on by `drawn` columns.
    """
    size, count = total.shape[0], rows.shape[0]
    if kind == "gaussian":
        columns = torch.randn(drawn, size, dtype=torch.float64, generator=generator)
        total.addmm_(columns[:count].to(total.device).T, rows, alpha=size**-0.5)
    else:
        bucket = torch.randint(size, (drawn,), generator=generator)[:count]
        sign = torch.randint(2, (drawn, 1), generator=generator)[:count] * 2.0 - 1.0
        total.index_add_(0, bucket.to(total.device), rows * sign.to(rows))
