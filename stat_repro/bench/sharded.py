"""`python -m stat_repro.bench sharded`: peak memory and time of a checkpoint larger than memory.

A randomly initialised Llama checkpoint in shards is made on disk layer by layer, and pruned in a
fresh process, whose peak resident memory is stored with the seconds of the stages.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from stat_repro import measure
from stat_repro.bench import common
from stat_repro.bench.shapes import sizes_of
from stat_repro.calibration.spill import gram_file_bytes
from stat_repro.entry import at_least, folder, share
from stat_repro.models.adapter import adapter_for
from stat_repro.models.tensor_files import INDEX_FILE
from stat_repro.progress import track
from stat_repro.results.speed_record import SpeedRecord
from stat_repro.scratch import scratch
from stat_repro.sharded.compress import compress_checkpoint, compute_dtype


def main(argv: Sequence[str]) -> int:
    """One record for every depth."""
    options = _parse(argv)
    return common.measured(options, options.layers, measure_depth)


def write_checkpoint(
    folder: Path, config: LlamaConfig, dtype: torch.dtype, device: torch.device | None = None
) -> PreTrainedModel:
    """A random checkpoint with one shard per layer; never more than one shard in memory.

    Args:
        folder: An empty folder.
        config: Its shape.
        dtype: Type of all tensors.
        device: Where they are drawn; a GPU takes seconds for what takes a CPU minutes.

    Returns:
        The model on the meta device.
    """
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    groups: dict[str, list[str]] = {}
    for name in model.state_dict():
        parts = name.split(".")
        groups.setdefault(parts[2] if parts[1] == "layers" else name, []).append(name)
    generator = torch.Generator(device or "cpu").manual_seed(0)
    places: dict[str, str] = {}
    for number, names in enumerate(track(groups.values(), "making the checkpoint", unit="shards")):
        shard = {name: _random(model.get_parameter(name), dtype, generator) for name in names}
        file = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config.architectures = [type(model).__name__]
    config.dtype = str(dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    return model


def _random(like: torch.Tensor, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if like.ndim == 1:
        return torch.ones(like.shape, dtype=dtype)
    tensor = torch.empty(like.shape, dtype=dtype, device=generator.device)
    return tensor.normal_(0.0, like.shape[1] ** -0.5, generator=generator).cpu()


def measure_depth(layers: int, options: argparse.Namespace) -> SpeedRecord:
    """Make a checkpoint of this depth and prune it in a process of its own."""
    heads, groups = options.heads, options.groups or options.heads
    shape = sizes_of(
        options.width, heads, options.neurons, options.vocabulary, num_key_value_heads=groups
    )
    positions = max(options.window, 4096)
    config = LlamaConfig(**shape, num_hidden_layers=layers, max_position_embeddings=positions)
    watch = measure.Stopwatch()
    with scratch(options.work, "stat_repro_bench", folder=True) as work:
        for folder in ("dense", "spill"):
            (work / folder).mkdir()
        with watch.stage("make_checkpoint_s"):
            device = measure.resolve_device(options.device)
            model = write_checkpoint(work / "dense", config, torch.bfloat16, device)
        # A fresh process, because a peak is that of all that a process has done.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                report = pool.submit(_prune, work, options).result()
            except BaseException:
                for child in active_children():
                    child.terminate()
                raise
    sizes = [site.columns for site in adapter_for(model).sites if site.layer == 0]
    protocol = {
        **{"layers": layers, "examples": -(-options.tokens // options.window)},
        **{"length": options.window, "batch_size": options.batch_size, "model_type": "llama"},
        **shape,
        **{"ratio": options.ratio, "repeats": 1},
        **{"dtype": "bfloat16", "spill": options.spill, **report["protocol"]},
        "thread_variables": {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")},
    }
    return common.record(
        options,
        shape=f"sharded_{options.width}x{options.neurons}",
        protocol=protocol,
        seconds={key: [value] for key, value in {**watch.seconds, **report["seconds"]}.items()},
        ratios={},
        memory={
            "parameters": 2 * model.num_parameters(),
            "statistics": sum(8 * columns**2 for columns in sizes),
            "gram_files": layers * gram_file_bytes(config.intermediate_size),
            **report["memory"],
        },
    )


def _prune(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Prune `<work>/dense` with random tokens, in a process of its own.

    Returns:
        `seconds` by stage; `memory`, peaks before and after; `protocol`, what it was computed with.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    size = (-(-options.tokens // options.window), options.window)
    ids = torch.randint(1, options.vocabulary, size, generator=torch.Generator().manual_seed(0))
    start = measure.process_peak_rss_bytes()
    result = compress_checkpoint(
        work / "dense",
        work / "pruned",
        [{"input_ids": part} for part in ids.split(options.batch_size)],
        ratio=options.ratio,
        device=options.device,
        dtype=options.dtype,
        spill=work / "spill" if options.spill else None,
    )
    device = measure.resolve_device(options.device)
    memory = {"process_start": start, "process_peak": measure.process_peak_rss_bytes()}
    if (peak := measure.peak_memory(device).get("cuda_peak_allocated_bytes")) is not None:
        memory["process_device"] = peak
    computed = str(compute_dtype(torch.bfloat16, device, options.dtype)).removeprefix("torch.")
    protocol = {"compute_dtype": computed, "threads": torch.get_num_threads()}
    return {"seconds": result.report.timings, "memory": memory, "protocol": protocol}


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    threads = {"threads": "threads of torch; for those of BLAS set OPENBLAS_NUM_THREADS"}
    parser = common.parser("sharded", __doc__, threads)
    # The checkpoint's, if none is given; on the CPU float32.
    parser.set_defaults(dtype=None)
    add: Any = parser.add_argument
    add("--layers", type=at_least(1), nargs="+", default=[4], help="depths, one record each (4)")
    add("--width", type=at_least(1), default=4096, help="hidden size (4096)")
    add("--heads", type=at_least(1), default=32, help="attention heads (32)")
    add("--groups", type=at_least(1), help="key/value heads (as many as heads)")
    add("--neurons", type=at_least(1), default=11008, help="FFN neurons (11008)")
    add("--vocabulary", type=at_least(2), default=32000, help="tokens of the vocabulary (32000)")
    add("--tokens", type=at_least(1), default=2048, help="calibration tokens (2048)")
    add("--window", type=at_least(2), default=512, help="tokens per example (512)")
    add("--batch-size", type=at_least(1), default=1, help="examples per forward pass (1)")
    add("--ratio", type=share, default=0.3, help="share of the prunable MACs removed (0.3)")
    add("--no-spill", dest="spill", action="store_false", help="nothing waits in files")
    add("--work", type=folder, default=Path(tempfile.gettempdir()),
        help="existing folder for checkpoint and files (system's temporary folder)")  # fmt: skip
    options = parser.parse_args(argv)
    if options.width % options.heads:
        parser.error(f"--width {options.width}: expected a multiple of --heads {options.heads}")
    if options.groups and options.heads % options.groups:
        parser.error(f"--heads {options.heads}: expected a multiple of --groups {options.groups}")
    return options
