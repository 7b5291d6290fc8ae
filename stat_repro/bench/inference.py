"""`python -m stat_repro.bench inference SHAPE`: forward passes of pruned models and the dense one.

Random weights, and as many units in every layer: what counts is the sizes. Dense and pruned model
take turns over the same random tokens, none of them padding.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from stat_repro.api import compress
from stat_repro.bench import common
from stat_repro.bench.shapes import SHAPES, random_batches
from stat_repro.cost.latency import spread, time_in_turns
from stat_repro.entry import at_least, number_list, share
from stat_repro.measure import resolve_device
from stat_repro.progress import track
from stat_repro.results.speed_record import SpeedRecord


def main(argv: Sequence[str]) -> int:
    """One record for every shape."""
    options = _parse(argv)
    return common.measured(options, options.shape, measure)


def measure(name: str, options: argparse.Namespace) -> SpeedRecord:
    """Times of all pruned forms of one shape."""
    shape, device = SHAPES[name], resolve_device(options.device)
    layers = options.layers or shape.layers
    dense = shape.build(layers, options.length, getattr(torch, options.dtype), device)
    seconds: dict[str, list[float]] = {}
    speedups: dict[str, dict[str, float]] = {}
    kept: dict[str, float] = {}
    points = list(itertools.product(options.ratios, options.round_to))
    for ratio, round_to in track(points, f"measuring {name}", unit="models"):
        one = random_batches(dense, 1, options.length, 1)
        done = compress(
            dense, one, ratio=ratio, round_to=round_to, method="random", allocation="uniform",
            correction="none",
        )  # fmt: skip
        point = f"ratio={ratio} round_to={round_to}"
        kept[point] = done.report.mac_kept_fraction
        for size, compiled in itertools.product(options.batch_sizes, (False, True)):
            if compiled and round_to not in options.compile:
                continue
            (batch,) = random_batches(dense, size, options.length, size)
            forwards = [_forward(model, batch, compiled) for model in (dense, done.model)]
            warmup = options.warmup + compiled
            before, after = time_in_turns(forwards, device, warmup, options.repeats)
            key = f"{point} batch={size}{' compiled' if compiled else ''}"
            seconds |= {f"dense {key}": before, f"pruned {key}": after}
            quotients = [a / b for a, b in zip(before, after, strict=True)]
            speedups[f"speed-up {key}"] = spread(quotients)
            torch.compiler.reset()
    protocol = {
        **{"layers": layers, "examples": max(options.batch_sizes), "length": options.length},
        **{"batch_sizes": options.batch_sizes, "model_type": dense.config.model_type},
        **shape.config,
        **{"warmup": options.warmup, "repeats": options.repeats, "dtype": options.dtype},
        **{"threads": torch.get_num_threads(), "mac_kept": kept},
    }
    return common.record(
        options,
        shape=f"inference_{name}",
        protocol=protocol,
        seconds=seconds,
        ratios=speedups,
        memory={"parameters": sum(p.nbytes for p in dense.parameters())},
    )


def _forward(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], compiled: bool
) -> Callable[[], object]:
    """A forward pass without a cache; the first call compiles it."""
    options = {"use_cache": False} if model.can_generate() else {}
    # With CUDA graphs: a small model is waiting for the host otherwise, dense or pruned.
    mode = "reduce-overhead" if model.device.type == "cuda" else None
    run: Any = torch.compile(model, dynamic=False, mode=mode) if compiled else model
    return torch.inference_mode()(partial(run, **batch, **options))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = common.parser("inference", __doc__, {"layers": "another number than the shape has"})
    add: Any = parser.add_argument
    add("shape", nargs="+", choices=sorted(SHAPES), metavar="SHAPE", help=", ".join(SHAPES))
    add("--ratios", type=number_list(share), default=[0.3, 0.5, 0.7], help="(0.3,0.5,0.7)")
    add("--round-to", type=number_list(at_least(1)), default=[1, 8, 64, 128], help="(1,8,64,128)")
    add("--batch-sizes", type=number_list(at_least(1)), default=[1, 32], help="(1,32)")
    add("--compile", type=number_list(at_least(1)), default=[], help="measure compiled models "
        "too, for these values of --round-to, such as 1,64")  # fmt: skip
    add("--length", type=at_least(2), default=128, help="tokens per example (128)")
    add("--repeats", type=at_least(1), default=10, help="timed passes of each model (10)")
    add("--warmup", type=at_least(0), default=2, help="passes before them (2)")
    return parser.parse_args(argv)
