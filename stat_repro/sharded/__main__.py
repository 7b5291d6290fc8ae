"""`python -m stat_repro.sharded FOLDER OUTPUT --text FILE ...`: prune a model larger than memory.

FOLDER is a Hugging Face folder of a supported decoder with safetensors weights and its tokenizer;
windows of the running text in FILE are the calibration set.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stat_repro.config.checks import MAX_SEED, in_range
from stat_repro.config.run import DTYPES
from stat_repro.config.torchrun import several_processes
from stat_repro.data.batching import Batch, LazySequence, check_positions, window_batches
from stat_repro.data.errors import DataError
from stat_repro.data.sampling import draw_indices
from stat_repro.data.text_data import TextPart, read_text
from stat_repro.data.windows import token_windows
from stat_repro.entry import at_least, folder, guarded, share
from stat_repro.measure import process_peak_rss_bytes
from stat_repro.models.loading import load_config, load_tokenizer
from stat_repro.models.positions import positions_of
from stat_repro.sharded.compress import compress_checkpoint, in_one_process


def main(argv: Sequence[str] | None = None) -> int:
    """Prune one checkpoint."""
    options = _parse(argv)
    return guarded(
        lambda: _prune(options),
        lambda: f"nothing was written to {options.output}; the same command starts again",
    )


def _prune(options: argparse.Namespace) -> None:
    if several_processes():
        in_one_process(int(os.environ["WORLD_SIZE"]))
    result = compress_checkpoint(
        options.folder,
        options.output,
        _text_batches(options),
        ratio=options.ratio,
        round_to=options.round_to,
        allocation=options.allocation,
        device=options.device,
        dtype=options.dtype,
        spill=options.spill,
    )
    report = result.report
    print(f"{result.folder}: {report.mac_kept_fraction:.2%} of the prunable MACs kept")
    print(f"  heads per layer: {', '.join(map(str, result.plan.head_counts))}")
    print(f"  neurons per layer: {', '.join(map(str, result.plan.neuron_counts))}")
    print("  " + ", ".join(f"{key} {value:.1f}" for key, value in report.timings.items()))
    if (peak := process_peak_rss_bytes()) is not None:
        print(f"  peak resident memory: {peak / 1e9:.2f} GB")


def _text_batches(options: argparse.Namespace) -> LazySequence[Batch]:
    """Windows of the text that do not overlap, drawn as a run with this seed draws them.

    Raises:
        ConfigError: A seed that is no seed.
        ModelLoadError: No tokenizer.
        DataError: Too little text, or windows that are too long for the model.
    """
    in_range("--seed", options.seed, high=MAX_SEED)
    check_positions(options.window, positions_of(load_config(options.folder)), "--window")
    part = TextPart((read_text(options.text, "--text", "calibration"),), join="")
    pool = token_windows(load_tokenizer(options.folder), part, options.window, key="--window").ids
    if options.examples > len(pool):
        raise DataError(
            f"--examples: expected at most {len(pool)}, the windows in --text; got "
            f"{options.examples}; choose fewer, more text, or a smaller --window"
        )
    chosen = torch.tensor(draw_indices(len(pool), options.examples, options.seed, False))
    return window_batches(pool[chosen], options.batch_size)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stat_repro.sharded", description=__doc__)
    add: Any = parser.add_argument
    add("folder", type=Path, help="dense checkpoint")
    add("output", type=folder, help="new folder for the pruned one")
    add("--text", type=Path, required=True, help="UTF-8 file with running text")
    add("--ratio", type=share, default=0.3, help="share of the prunable MACs removed (0.3)")
    add(
        "--round-to",
        type=at_least(1),
        default=1,
        help="multiple that kept neurons are rounded to (1)",
    )
    add("--allocation", default="global", choices=("global", "uniform"))
    add("--examples", type=at_least(1), default=128, help="calibration windows (128)")
    add("--window", type=at_least(2), default=2048, help="tokens in each window (2048)")
    add("--batch-size", type=at_least(1), default=1, help="windows per forward pass (1)")
    add("--seed", type=at_least(0), default=0, help="seed of the draw of windows (0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:<i> or mps (auto)")
    add("--dtype", choices=DTYPES, help="to calibrate in (the checkpoint's; on CPU: float32)")
    add("--spill", type=folder, help="folder for Gram matrices and hidden states")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
