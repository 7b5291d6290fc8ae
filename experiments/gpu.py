"""What is measured on a GPU, in order of importance, within the time that there is.

    make gpu                                        # tests, BERT-base, Llama-2 7B; prints one table
    python experiments/gpu.py --steps all --seconds 580 --results build/gpu
    python experiments/gpu.py --list

Every step has a time budget and stores its records as soon as it has them. A step that fails, or
runs out of its time, does not keep the others from running; the exit status is then 1. A step for
which there is too little time left is not started and counts as failed. What is not about time
(`TOGETHER`) runs at the end, side by side. `--device cpu --small` tries all of it on small shapes
without a GPU.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USUAL = ("bert_base", "llama2_7b", "tests")
# Their seconds are of no interest: plans, accuracies, tests.
TOGETHER = ("tests", "half_precision", "minilm_cpu")
GPU_TESTS = ("tests/test_on_devices.py", "tests/test_golden.py", "tests/test_linalg.py")


def steps(options: argparse.Namespace) -> dict[str, tuple[int, list[str]]]:
    """Seconds on an H100, with a margin, and arguments of Python; most important first."""
    small, device = options.small, ["--device", options.device]
    stored = [*device, "--results", str(options.results)]
    half = ["--dtype", "bfloat16"]
    bench, once = ["-m", "stat_repro.bench"], ["--repeats", "1", "--warmup", "0"]
    tiny = ["--layers", "2", "--width", "24", "--heads", "4", "--neurons", "40", "--tokens", "64",
            "--window", "16", "--vocabulary", "50", "--work", str(options.results)]  # fmt: skip
    whole = tiny if small else ["--layers", str(options.layers), "--tokens", "262144",
                                "--window", "2048", "--batch-size", "4"]  # fmt: skip
    two_of_70b = tiny if small else ["--layers", "2", "--width", "8192", "--heads", "64",
                                     "--groups", "8", "--neurons", "28672", "--tokens", "65536",
                                     "--window", "2048"]  # fmt: skip
    minilm = ["model=minilm", "dataset=movie_reviews", "ratio=0.3,0.5", "tracking=disabled"]
    compiled = ["--ratios", "0.5", "--round-to", "1,8", "--compile", "1,8"]
    return {
        "llama2_7b": (200, [*bench, *(["tiny"] if small else
            ["llama2_7b", "--layers", str(options.layers)]), *stored, *half, *once,
            "--authors-tokens", "0", "--save", str(options.results)]),
        "bert_base": (60, [*bench, *(["tiny"] if small else ["bert_base"]), *stored, "--sweep",
            "0.2,0.3,0.4,0.5,0.6,0.7",
            *(once if small else ["--repeats", "3", "--authors-tokens", "4096"])]),
        "sharded_7b": (180, [*bench, "sharded", *whole, "--no-spill", *stored]),
        "sharded_70b": (100, [*bench, "sharded", *two_of_70b, "--no-spill", *stored]),
        "minilm_gpu": (60, ["run.py", "-m", *minilm, f"device={options.device}",
            f"results={options.results}/minilm_gpu"]),
        "minilm_cpu": (60, ["run.py", "-m", *minilm, "device=cpu",
            f"results={options.results}/minilm_cpu"]),
        "compiled": (120, [*bench, "inference", *(["tiny", "--length", "9"] if small else
            ["bert_base", "llama2_7b"]), "--layers", "2", *compiled, *stored, *half]),
        "half_precision": (90, ["experiments/half_precision.py", *(["--small"] if small else []),
            *device, "--results", str(options.results)]),
        "tests": (150, ["-m", "pytest", "-q", "-m", "gpu", "-n", "4", *GPU_TESTS]),
    }  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A command of its own process group."""
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, start_new_session=True)


def ended(process: subprocess.Popen[bytes], seconds: float) -> str:
    """What went wrong with a command within this time; empty if nothing did."""
    try:
        status = process.wait(timeout=max(seconds, 0))
    except subprocess.TimeoutExpired:
        stop(process)
        return f"ran out of its {seconds:.0f} s"
    return f"exit status {status}" if status else ""


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and its children, if it runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    """Run the steps; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--steps", default=",".join(USUAL), help="names, separated by commas, or all"
    )
    parser.add_argument("--seconds", type=float, default=3600, help="for all steps together (3600)")
    parser.add_argument("--results", type=Path, default=ROOT / "build/gpu")
    parser.add_argument("--layers", type=int, default=32, help="of Llama-2 7B")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    parser.add_argument("--list", action="store_true", help="only print the commands of all steps")
    options = parser.parse_args()
    options.results = options.results.resolve()
    known = steps(options)
    chosen = list(known) if options.steps == "all" else options.steps.split(",")
    if unknown := set(chosen) - set(known):
        parser.error(f"--steps: expected some of {', '.join(known)}; got {', '.join(unknown)}")
    if options.list:
        for name in known:
            print(f"{name} ({known[name][0]} s): python {' '.join(known[name][1])}")
        return 0
    options.results.mkdir(parents=True, exist_ok=True)
    end, rows = time.monotonic() + options.seconds, []
    groups = [[name] for name in known if name in chosen and name not in TOGETHER]
    groups.append([name for name in known if name in chosen and name in TOGETHER])
    waiting = [(max((known[name][0] for name in group), default=0), group) for group in groups]
    while waiting:
        budget, group = waiting.pop(0)
        left, begun = end - time.monotonic(), time.monotonic()
        # A step may take longer than was thought, but not the time of those behind it.
        limit = begun + max(budget, left - sum(later for later, _ in waiting))
        running = [(n, start(known[n][1])) for n in group] if left >= budget else []
        try:
            for name, process in running:
                problem = ended(process, limit - time.monotonic())
                rows.append((name, time.monotonic() - begun, problem))
                print(f"== {name}: {problem or 'done'}", flush=True)
        finally:  # Ctrl-C reaches this process alone
            for _, process in running:
                stop(process)
        for name in group[len(running) :]:
            rows.append((name, 0.0, f"not started: {left:.0f} s left"))
            print(f"== {name}: {rows[-1][2]}", flush=True)
    table = ended(start(["paper_figures/build.py", "--results", str(options.results), "--out",
                         str(options.results / "out")]), 120)  # fmt: skip
    path = options.results / "out" / "speed" / "table.md"
    print(path.read_text(encoding="utf-8") if path.exists() else f"no table: {table}")
    for name, seconds, problem in rows:
        print(f"{name:15} {seconds:5.0f} s  {problem or 'done'}")
    return 1 if any(problem for *_, problem in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
