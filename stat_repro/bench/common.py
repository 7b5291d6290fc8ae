"""What all benchmarks share: their options, the loop that stores records, and who ran them."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from stat_repro.config.run import DTYPES
from stat_repro.entry import at_least, folder, guarded
from stat_repro.measure import describe_hardware, memory_told, resolve_device
from stat_repro.paths import results_dir
from stat_repro.results import collect
from stat_repro.results.speed_record import SpeedRecord, save_speed


def parser(name: str, description: str | None, sizes: dict[str, str]) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have.

    Args:
        name: Name of the benchmark, behind the module's; empty for the compression itself.
        description: Shown by `--help`.
        sizes: Further options that take an integer of at least 1, with their help.
    """
    prog = f"python -m stat_repro.bench {name}".rstrip()
    made = argparse.ArgumentParser(prog=prog, description=description)
    for key, words in sizes.items():
        made.add_argument(f"--{key}", type=at_least(1), help=words)
    made.add_argument("--device", default="cpu", help="as of a run (cpu)")
    made.add_argument("--dtype", default="float32", choices=DTYPES, help="of the model (float32)")
    made.add_argument("--results", type=folder, default=results_dir(), help="folder of the records")
    return made


def measured(
    options: argparse.Namespace,
    names: Iterable[Any],
    measure: Callable[[Any, argparse.Namespace], SpeedRecord],
) -> int:
    """Measure one after the other, and store each at once; the exit status."""
    asked, done = list(names), []

    def work() -> None:
        for name in asked:
            with memory_told():
                record = measure(name, options)
            print(f"{name}: written to {save_speed(record, options.results)}")
            done.append(name)
            for ratio, v in record.ratios.items():
                print(f"  {ratio}: {v['median']:.2f} ({v['q25']:.2f} to {v['q75']:.2f})")
            if peak := record.memory.get("process_peak"):
                print(f"  peak {peak / 1e9:.2f} GB, {record.seconds['compress_s'][0]:.0f} s")

    return guarded(work, lambda: f"{len(done)} of {len(asked)} measured and stored")


def record(options: argparse.Namespace, **keys: Any) -> SpeedRecord:
    """A measurement on random weights: its keys, and where it was made.

    Args:
        options: Options of the command.
        **keys: The other keys of the record.
    """
    device = resolve_device(options.device)
    place = collect(
        device=str(device),
        dtypes={"model": keys["protocol"]["dtype"]},
        data_hashes={},
        model_hash=None,
        hardware=describe_hardware(device),
    )
    return SpeedRecord(**keys, provenance=place)
