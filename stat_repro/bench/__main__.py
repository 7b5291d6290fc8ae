"""`python -m stat_repro.bench SHAPE ...`: measure compression, one record per shape.

`python -m stat_repro.bench sharded` measures a checkpoint larger than memory, and `... inference`
how fast pruned models are, both with options of their own. What full Llama-2 runs would cost is
counted in docs/scaling.md.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from stat_repro.api import compress
from stat_repro.bench import common, inference, sharded
from stat_repro.bench.shapes import SHAPES, random_batches
from stat_repro.bench.stages import Bench
from stat_repro.config.pruning import ENGINES
from stat_repro.cost.latency import spread
from stat_repro.entry import at_least, folder, number_list, share
from stat_repro.measure import resolve_device
from stat_repro.models.adapter import adapter_for
from stat_repro.progress import track
from stat_repro.results.speed_record import SpeedRecord

# Quotients of one turn's stages: numerator, denominators.
_RATIOS = {
    "compress_by_forward_passes": ("compress_s", ("forward_s", "forward_folded_s")),
    "calibrate_by_forward_pass": ("calibrate_s", ("forward_s",)),
    "recalibrate_by_forward_pass": ("recalibrate_s", ("forward_folded_s",)),
    "authors_ffn_by_gram_ffn": ("authors_ffn_s", ("gram_ffn_s",)),
    "sweep_by_one_ratio": ("sweep_s", ("compress_s",)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the shapes that are named, one after the other."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    others = {"sharded": sharded.main, "inference": inference.main}
    if arguments and arguments[0] in others:
        return others[arguments[0]](arguments[1:])
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return common.measured(options, options.shape, measure)


def measure(name: str, options: argparse.Namespace) -> SpeedRecord:
    """All turns of one shape; the stages take turns, so that a busy machine is busy for all."""
    shape = SHAPES[name] if options.width is None else SHAPES[name].scaled_to(options.width)
    layers, length = options.layers or shape.layers, options.length or shape.length
    examples = options.examples or shape.examples
    batch_size = options.batch_size or shape.batch_size
    device = resolve_device(options.device)
    model = shape.build(layers, length, getattr(torch, options.dtype), device)
    batches = random_batches(model, examples, length, batch_size)
    tokens = examples * length
    rows = tokens if options.authors_tokens is None else min(tokens, options.authors_tokens)
    bench = Bench(model, batches, rows, options)
    tiny = SHAPES["tiny"].build(2, 9, torch.float32, device)
    compress(tiny, random_batches(tiny, 6, 9, 4))  # loads libraries before the clock starts
    bench.forward(batches[:1])
    for _ in range(options.warmup):
        bench.turn()
    turns = [bench.turn() for _ in track(range(options.repeats), f"measuring {name}", unit="turns")]
    seconds = {key: [times[key] for times, _ in turns] for key in turns[0][0]}
    protocol = {
        **{"layers": layers, "examples": examples, "length": length, "batch_size": batch_size},
        **{"model_type": model.config.model_type, **shape.config},
        **{"ratio": options.ratio, "sweep": options.sweep, "authors_tokens": rows},
        **{"warmup": options.warmup, "repeats": options.repeats, "dtype": options.dtype},
        **({"engine": options.engine} if options.engine != "model" else {}),
        "threads": torch.get_num_threads(),
        "thread_variables": {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")},
    }
    return common.record(
        options,
        shape=name if options.width is None else f"{name}-w{options.width}",
        protocol=protocol,
        seconds=seconds,
        ratios=_ratios(seconds),
        memory=_memory(model, [memory for _, memory in turns]),
    )


def _ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Quotients within every turn, and their spread."""
    ratios = {}
    for name, (above, below) in _RATIOS.items():
        if above in seconds:
            totals = [sum(values) for values in zip(*(seconds[b] for b in below), strict=True)]
            pairs = zip(seconds[above], totals, strict=True)
            ratios[name] = spread([value / total for value, total in pairs])
    return ratios


def _memory(
    model: PreTrainedModel, turns: Sequence[dict[str, int | None]]
) -> dict[str, int | None]:
    result: dict[str, int | None] = {
        "parameters": sum(p.nbytes for p in model.parameters()),
        "statistics": sum(8 * site.columns**2 for site in adapter_for(model).sites),
    }
    for stage in turns[0]:
        peaks = [value for memory in turns if (value := memory[stage]) is not None]
        result[f"{stage}_peak"] = max(peaks, default=None)
    return result


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    keys = ("examples", "length", "batch-size", "layers", "width")
    sizes = dict.fromkeys(keys, "another number than the shape has")
    sizes["threads"] = "threads of torch; for those of BLAS set OPENBLAS_NUM_THREADS"
    parser = common.parser("", __doc__, sizes)
    add: Any = parser.add_argument
    add("shape", nargs="+", choices=sorted(SHAPES), metavar="SHAPE", help=", ".join(SHAPES))
    add("--repeats", type=at_least(1), default=5, help="turns that are timed (5)")
    add("--warmup", type=at_least(0), default=1, help="turns before them (1)")
    add("--ratio", type=share, default=0.5, help="share of the prunable MACs removed (0.5)")
    what = "also several ratios of one calibration, such as 0.2,0.3"
    add("--sweep", type=number_list(share), default=[], help=what)
    what = "tokens for the authors' QR of one FFN (all); 0 leaves it out"
    add("--authors-tokens", type=at_least(0), help=what)
    add("--engine", choices=ENGINES, default="model", help="as calibration.engine (model)")
    add("--save", type=folder, help="save the pruned model here, timed, and remove it again")
    options = parser.parse_args(argv)
    if options.sweep and options.engine != "model":
        parser.error("--sweep: expected --engine model, because layers shares no calibration")
    if options.width is not None:
        try:
            for name in options.shape:
                SHAPES[name].scaled_to(options.width)
        except ValueError as err:
            parser.error(str(err))
    return options


if __name__ == "__main__":
    sys.exit(main())
