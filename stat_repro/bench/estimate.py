"""`python -m stat_repro.bench estimate`: what full Llama-2 runs cost, counted and not measured.

FLOPs and bytes are counted from the shapes and the algorithm; seconds follow from peak rates and
utilisations that the table states. One multiply-add is two FLOPs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stat_repro.calibration.collectors import BLOCK_ROWS
from stat_repro.calibration.spill import gram_file_bytes


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a Llama: hidden size D, FFN F, heads H of size d, key/value groups, layers."""

    name: str
    layers: int
    hidden: int
    neurons: int
    heads: int
    groups: int
    head_dim: int

    @property
    def head_columns(self) -> int:
        """Columns that the attention output projection reads, H d."""
        return self.heads * self.head_dim

    @property
    def layer_params(self) -> int:
        """Parameters of the projections of one layer."""
        attention = 2 * self.head_columns + 2 * self.groups * self.head_dim
        return self.hidden * (attention + 3 * self.neurons)


MODELS = {
    "llama2_7b": DecoderShape("Llama-2 7B", 32, 4096, 11008, 32, 32, 128),
    "llama2_70b": DecoderShape("Llama-2 70B", 80, 8192, 28672, 64, 8, 128),
}


@dataclass(frozen=True)
class Machine:
    """Peak rates from the maker's data sheet, per second.

    Attributes:
        half: FLOPs in bfloat16 with float32 sums, dense.
        double: FLOPs in float64 on tensor cores.
        memory: Bytes of the device's memory.
        link: Bytes between host and device, one way.
        disk: Bytes of the disk; an assumption, not of the device.
    """

    name: str
    half: float
    double: float
    memory: float
    link: float
    disk: float


MACHINES = {
    "a100": Machine("A100 80 GB SXM", 312e12, 19.5e12, 2.04e12, 32e9, 2e9),
    "h100": Machine("H100 80 GB SXM", 989e12, 67e12, 3.35e12, 64e9, 2e9),
}

# Assumed share of the peak rates that is reached, and the price of one kernel launch.
UTILISATION = {"half": 0.4, "double": 0.5, "memory": 0.6, "link": 0.6, "disk": 0.8}
LAUNCH_SECONDS = 6e-6
# Kernels of `linalg.blocked_cholesky` for one pivot.
_LAUNCHES_PER_PIVOT = 28
_PANEL = 128


@dataclass(frozen=True)
class Stage:
    """One kind of work of a whole run.

    Attributes:
        name: What is done.
        formula: How it was counted.
        flops: Floating point operations.
        rate: Name of the peak rate that they run at, a field of `Machine`.
        bytes: Per rate of data movement.
        launches: Kernels that wait for each other.
    """

    name: str
    formula: str
    flops: float
    rate: str
    bytes: dict[str, float]
    launches: int = 0

    def seconds(self, machine: Machine) -> float:
        """Slowest of computing and moving data, and the launches."""
        parts = [self.flops / (getattr(machine, self.rate) * UTILISATION[self.rate])]
        parts += [n / (getattr(machine, key) * UTILISATION[key]) for key, n in self.bytes.items()]
        return max(*parts, self.launches * LAUNCH_SECONDS)


def forward_flops(shape: DecoderShape, tokens: int, window: int, neurons: float) -> float:
    """One pass through all layers.

    Args:
        shape: The model.
        tokens: Tokens N.
        window: Tokens per example; every token attends to as many.
        neurons: FFN neurons per layer (those that are kept, in the second pass).
    """
    s = shape
    attention = 2 * s.head_columns + 2 * s.groups * s.head_dim
    weights = s.hidden * (attention + 3 * neurons)
    return s.layers * tokens * 2 * (weights + 2 * window * s.head_columns)


def gram_flops(columns: int, tokens: int) -> float:
    """A float64 Gram sum of one site, on and above its diagonal blocks."""
    return 2.0 * tokens * (gram_file_bytes(columns) // 8)


def gram_bytes(columns: int, tokens: int) -> float:
    """Memory traffic of that sum: it is read and written once per block of rows."""
    return 2.0 * gram_file_bytes(columns) * -(-tokens // BLOCK_ROWS)


def cholesky_flops(columns: float) -> float:
    """All pivots of a matrix."""
    return columns**3 / 3


def cholesky_bytes(columns: int) -> float:
    """Memory traffic of `blocked_cholesky`: the panel and a row per pivot, the update per panel."""
    panels = columns / _PANEL
    return 8 * columns * columns * (_PANEL / 2 + 2) / 2 + 2 * 8 * columns**2 * panels / 3


def fold_flops(hidden: int, columns: int, kept: float) -> float:
    """Factor G[K, K], the dropped columns of W times G, two triangular solves, two output errors.

    Args:
        hidden: Rows D of the consumer.
        columns: Its columns F.
        kept: Columns that stay, k.
    """
    products = 2 * hidden * (columns - kept) * kept
    errors = 2 * 2.0 * hidden * (gram_file_bytes(columns) // 8)
    return cholesky_flops(kept) + products + 2 * hidden * kept**2 + errors


def stages(shape: DecoderShape, examples: int, window: int, ratio: float) -> list[Stage]:
    """All work of one run of `compress_checkpoint` with uniform sizes.

    Args:
        shape: The model.
        examples: Calibration windows.
        window: Tokens of each.
        ratio: Share of heads and neurons that is removed.
    """
    n, s, f, a = examples * window, shape, shape.neurons, shape.head_columns
    kept, kept_heads = (1 - ratio) * f, (1 - ratio) * a
    hidden_bytes = 2 * 2 * s.layers * n * s.hidden * 2.0
    weight_bytes = 2.0 * 2 * s.layers * s.layer_params
    written = 2.0 * (1 - ratio) * s.layers * s.layer_params
    spilled = 2.0 * s.layers * gram_file_bytes(f)
    return [
        Stage(
            "two forward passes, bfloat16",
            "L N 2 (D (2 H d + 2 G d + 3 F') + 2 S H d), F' = F, then (1 - ratio) F; hidden "
            "states in host memory, to the device and back for every layer",
            forward_flops(s, n, window, f) + forward_flops(s, n, window, kept),
            "half",
            {"link": hidden_bytes / 2},  # both directions at once
        ),
        Stage(
            "Gram sums, float64",
            "about L N (F^2 + 2 (H d)^2): one triangle, heads in both passes",
            s.layers * (gram_flops(f, n) + 2 * gram_flops(a, n)),
            "double",
            {"memory": s.layers * (gram_bytes(f, n) + 2 * gram_bytes(a, n))},
        ),
        Stage(
            "pivoted Cholesky of the FFNs",
            f"L F^3 / 3; {_LAUNCHES_PER_PIVOT} launches per pivot",
            s.layers * cholesky_flops(f),
            "double",
            {"memory": s.layers * cholesky_bytes(f)},
            launches=s.layers * f * _LAUNCHES_PER_PIVOT,
        ),
        Stage(
            "errors of the heads",
            "L ((H d)^3 / 3 + 2 (H d)^2 D), without the small eigendecompositions",
            s.layers * (cholesky_flops(a) + 2.0 * a * a * s.hidden),
            "double",
            {},
        ),
        Stage(
            "folding",
            "L (k^3 / 3 + 2 D (F - k) k + 2 D k^2 + about 2 D F^2), k = (1 - ratio) F, and the "
            "same for H d",
            s.layers * (fold_flops(s.hidden, f, kept) + fold_flops(s.hidden, a, kept_heads)),
            "double",
            {},
            launches=int(s.layers * (kept + kept_heads) * _LAUNCHES_PER_PIVOT),
        ),
        Stage(
            "disk",
            "weights read in both passes and written once, bfloat16; FFN Gram matrices written and "
            "read, float64",
            0.0,
            "double",
            {"disk": weight_bytes + written + spilled},
        ),
    ]


def estimate_table(shape: DecoderShape, examples: int, window: int, ratio: float) -> str:
    """The estimate of one model as Markdown, with its arithmetic."""
    found = stages(shape, examples, window, ratio)
    machines = list(MACHINES.values())
    lines = [
        f"### {shape.name}: estimate, not measured",
        "",
        f"{examples} x {window} = {examples * window:,} tokens, ratio {ratio:g}, one GPU, "
        "layer by layer from disk.",
        "",
        "| stage | FLOPs | bytes | " + " | ".join(f"{m.name} (s)" for m in machines) + " | count |",
        "| --- | --- | --- | " + " | ".join("---" for _ in machines) + " | --- |",
    ]
    for stage in found:
        moved = ", ".join(f"{key} {_short(value)}" for key, value in stage.bytes.items())
        seconds = " | ".join(f"{stage.seconds(m):,.0f}" for m in machines)
        lines.append(
            f"| {stage.name} | {_short(stage.flops)} | {moved} | {seconds} | {stage.formula} |"
        )
    totals = [sum(stage.seconds(m) for stage in found) for m in machines]
    lines.append(
        f"| sum | {_short(sum(stage.flops for stage in found))} | | "
        + " | ".join(f"{total:,.0f} ({total / 3600:.2f} h)" for total in totals)
        + " | the paper (abstract): 7B in under three hours on one GPU |"
    )
    return "\n".join(lines) + "\n"


def assumptions() -> str:
    """Rates and utilisations behind the seconds."""
    rates = "; ".join(
        f"{m.name}: bfloat16 {m.half / 1e12:g} and float64 {m.double / 1e12:g} TFLOP/s, memory "
        f"{m.memory / 1e12:g} TB/s, link {m.link / 1e9:g} GB/s, disk {m.disk / 1e9:g} GB/s"
        for m in MACHINES.values()
    )
    shares = ", ".join(f"{key} {value:.0%}" for key, value in UTILISATION.items())
    return (
        f"Peak rates: {rates}. Assumed utilisation: {shares}; {LAUNCH_SECONDS * 1e6:g} us per "
        "kernel launch. A stage takes the longest of computing, moving data and launching; stages "
        "do not overlap. The disk's rate is an assumption, the others are the maker's data sheets. "
        "Uniform sizes; allocation and embeddings are left out. Nothing was run on a GPU.\n"
    )


def _short(value: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def main(argv: Sequence[str]) -> int:
    """Print the estimates, or write them to a file."""
    parser = argparse.ArgumentParser(
        prog="python -m stat_repro.bench estimate", description=__doc__
    )
    add: Any = parser.add_argument
    add("--model", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    add("--examples", type=int, default=512, help="calibration windows (512)")
    add("--window", type=int, default=2048, help="tokens of each (2048)")
    add("--ratio", type=float, default=0.3, help="share removed (0.3)")
    add("--out", type=Path, help="Markdown file; printed if not given")
    options = parser.parse_args(argv)
    tables = [
        estimate_table(MODELS[name], options.examples, options.window, options.ratio)
        for name in options.model
    ]
    text = "\n".join([*tables, assumptions()])
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")
    return 0
