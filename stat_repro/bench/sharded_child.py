"""The process that `stat_repro.bench.sharded` measures: prunes one checkpoint and reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from stat_repro.measure import process_peak_rss_bytes, resolve_device
from stat_repro.models.tensor_files import ShardedCheckpoint
from stat_repro.sharded.compress import compress_checkpoint, compute_dtype


def main(argv: Sequence[str]) -> int:
    """Prune `<work>/dense` with random tokens; `argv` holds the task as JSON."""
    task = json.loads(argv[0])
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    work, window = Path(task["work"]), task["window"]
    examples = -(-task["tokens"] // window)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, task["vocabulary"], (examples, window), generator=generator)
    start = process_peak_rss_bytes()
    result = compress_checkpoint(
        work / "dense",
        work / "pruned",
        [{"input_ids": part} for part in ids.split(task["batch_size"])],
        ratio=task["ratio"],
        device=task["device"],
        dtype=task["dtype"],
        spill=work / "spill",
    )
    device = resolve_device(task["device"])
    stored = ShardedCheckpoint(work / "dense").float_dtype
    report = {
        "seconds": result.report.timings,
        "start": start,
        "peak": process_peak_rss_bytes(),
        "device": str(device),
        "compute_dtype": str(compute_dtype(stored, device, task["dtype"])).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    (work / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
