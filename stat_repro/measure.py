"""Wall time per stage, peak memory, and the device a run computes on."""

import ctypes
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class DeviceError(ValueError):
    """A device that was requested and cannot be used."""


class DeviceMemoryError(DeviceError):
    """A device whose memory was not enough."""


@contextmanager
def memory_told() -> Iterator[None]:
    """Inside the `with`, or in a function that it decorates, a full device is told with a way out.

    Raises:
        DeviceMemoryError: In place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"device memory: {str(error).partition('. GPU')[0]}; choose smaller batches "
            "(calibration.batch_size, evaluation.batch_size), dtype=bfloat16, "
            "calibration.engine=layers, or python -m stat_repro.sharded, which holds one layer at "
            "a time"
        ) from error


def available_devices() -> list[str]:
    """Names that `resolve_device` accepts on this machine, besides `auto`."""
    names = ["cpu"]
    if torch.cuda.is_available():  # GPUs are counted even where their driver is too old for torch
        names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def resolve_device(name: str) -> torch.device:
    """The device of a configuration value.

    Args:
        name: `auto` (the first of cuda, mps, cpu that is there), `cpu`, `cuda`, `cuda:<i>`, `mps`.

    Returns:
        The device; `cuda` becomes `cuda:0`, so that its memory can be queried by index, and
        `cuda:<i>` in the i-th process that torchrun started on this machine.

    Raises:
        DeviceError: An unknown name, or a device that this machine does not have.
    """
    there = available_devices()
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if {kind, f"{kind}:0"} & set(there))
    kind, _, index = name.partition(":")
    known = name in ("cpu", "cuda", "mps") or (kind == "cuda" and index.isdecimal())
    if not known:
        raise DeviceError(f"device: expected auto, cpu, cuda, cuda:<i> or mps; got {name!r}")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if index and processes > 1:
        raise DeviceError(
            f"device: expected auto, cpu, cuda or mps, because each of {processes} processes on "
            f"this machine takes one GPU; got {name}"
        )
    place = int(index or os.environ.get("LOCAL_RANK", "0"))
    wanted = f"cuda:{place}" if kind == "cuda" else name
    if wanted not in there:
        asked = name if processes == 1 else f"{wanted}, for process {place} of {processes},"
        raise DeviceError(f"device: {asked} is not available here; available: {', '.join(there)}")
    return torch.device(wanted)


def synchronize(device: torch.device) -> None:
    """Wait until the work queued on an accelerator is finished; nothing to do on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Wall time of named stages.

    Args:
        device: Device that is synchronised at the borders of each stage.

    Attributes:
        seconds: Seconds per stage, in the order in which the stages first ended. A stage that is
            entered again adds up. The time of a stage includes stages nested in it.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of the `with` as stage `name`; one that raises counts up to the error."""
        synchronize(self.device)
        start = time.perf_counter()
        try:
            yield
            synchronize(self.device)
        finally:
            took = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + took


def process_peak_rss_bytes() -> int | None:
    """Largest resident memory of this process since it started; None where it is unknown.

    It covers everything that the process did, imports and data included, and never goes down; for
    the peak of one stage call `reset_process_peak_rss` before it.
    """
    # `ru_maxrss` of a forked process starts at the parent's size; the kernel's `VmHWM` does not.
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def reset_process_peak_rss() -> bool:
    """Restart `process_peak_rss_bytes` at what is resident now.

    Returns:
        False where that is not possible: outside Linux, and in some containers.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def return_free_memory() -> None:
    """Give freed memory back to the system where the C library keeps it (glibc).

    Small arrays that are kept lie between large ones that are freed, and glibc neither reuses the
    gaps for the next large array nor returns them: resident memory would grow with every layer.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Peak memory so far, in bytes.

    Args:
        device: Device of the run.

    Returns:
        `process_peak_rss_bytes` (see there) and, on a CUDA device, `cuda_peak_allocated_bytes`:
        the most that torch's allocator had handed out at once since the last
        `reset_cuda_peak_memory`.
    """
    peaks = {"process_peak_rss_bytes": process_peak_rss_bytes()}
    if device.type == "cuda":
        peaks["cuda_peak_allocated_bytes"] = torch.cuda.max_memory_allocated(device)
    return peaks


def processor_name(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the processor, as the driver or the system gives it.

    Args:
        device: Device that computes.
        cpuinfo: Where Linux describes the CPU; without such a file `platform` is used.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """What computes: `processor`, `threads` of the CPU, and on a CUDA device its card as `gpu`."""
    gpu = {"gpu": describe_gpu(device)} if device.type == "cuda" else {}
    return {**gpu, "processor": processor_name(device), "threads": torch.get_num_threads()}


def describe_gpu(device: torch.device) -> dict[str, str | int]:
    """The card of a CUDA device: `name`, `memory_bytes`, `driver`, `cuda`."""
    properties = torch.cuda.get_device_properties(device)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        driver = done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "driver": driver,
        "cuda": str(torch.version.cuda),
    }


def reset_cuda_peak_memory(device: torch.device) -> None:
    """Restart the CUDA peak; other devices have no peak that can be reset."""
    if device.type == "cuda":
        torch.cuda.init()  # the first use of a device in a process fails without
        torch.cuda.reset_peak_memory_stats(device)
