"""Sweeps on clusters for real: a Slurm of one node, and Ray. Not part of the default tests.

    apt-get install slurm-wlm munge                                       # Debian, as root
    python -m venv /tmp/with-ray && /tmp/with-ray/bin/pip install -e '.[ray]' 'ray==2.60.*'
    python tests/clusters/check.py --ray-python /tmp/with-ray/bin/python

Takes about eight minutes and 3 GB of memory, starts its own daemons and ends them, and prints one
row per case. Without `--ray-python` Ray is left out, and without Slurm's commands Slurm is. The
exit status is 1 if a case failed or nothing could be run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from one_node_slurm import missing_commands, one_node_slurm  # noqa: E402
from pico_project import sentence_overrides  # noqa: E402

RATIOS = "0.3,0.4,0.5"
COMPARED = ("run_id", "metrics", "plan", "site_errors", "mac_kept_fraction", "error")
ON_SLURM = ("launcher=slurm_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")


class Sweeps:
    """Sweeps of a tiny model; each has a folder of its own.

    Args:
        folder: For everything.
        variables: Of Slurm's commands.
    """

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.overrides = folder, sentence_overrides(folder / "model")
        paths = [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]
        self.variables = {**variables, "PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1"}
        self._basic: dict[float, dict] = {}

    def start(
        self, name: str, *more: str, ratios: str = RATIOS, python: str = sys.executable
    ) -> subprocess.Popen[str]:
        """Start a sweep; its records go to a folder of this name."""
        places = [f"results={self.folder / name}", f"hydra.sweep.dir={self.folder / name}/hydra"]
        command = [python, "run.py", "-m", f"ratio={ratios}", *more, *self.overrides, *places]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.variables, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, name: str, *more: str, **options: str) -> tuple[int, str]:
        """Exit status and output of a sweep."""
        return ended(self.start(name, *more, **options))

    def records(self, name: str) -> dict[float, dict]:
        """What a sweep stored, by ratio."""
        files = (self.folder / name / "local").glob("*.json")
        found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        return {record["ratio"]: record for record in found}

    def wrong(self, name: str, ratios: Sequence[float] = (0.3, 0.4, 0.5)) -> str:
        """How records differ from those of the same sweep without a cluster; empty if not."""
        if not self._basic:
            self.run("basic")
            self._basic = self.records("basic")
        found = self.records(name)
        if sorted(found) != sorted(ratios):
            return f"records of {sorted(found)} instead of {sorted(ratios)}"
        pairs = [(ratio, part) for ratio in ratios for part in COMPARED]
        bad = [pair for pair in pairs if found[pair[0]][pair[1]] != self._basic[pair[0]][pair[1]]]
        return f"other values: {bad}" if bad else ""

    def slurm(self, *command: str) -> str:
        """Output of a command of Slurm."""
        return subprocess.run(
            command, env=self.variables, capture_output=True, text=True, check=False
        ).stdout

    def wait_for_jobs(self, state: str = "R") -> list[str]:
        """Names of the jobs of the first array that is in the queue, once one is in this state."""
        for _ in range(120):
            lines = self.slurm("squeue", "--array", "--noheader", "--format=%i %t").splitlines()
            if any(line.split()[1] == state for line in lines):
                return sorted(line.split()[0] for line in lines)
            time.sleep(0.5)
        raise RuntimeError(f"no job came into the state {state}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output, within ten minutes."""
    try:
        output, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.terminate()
        return -1, f"not ended after ten minutes: {process.communicate()[0][-300:]}"
    return process.returncode, output


def _all_right(sweeps: Sweeps) -> str:
    status, output = sweeps.run("slurm", *ON_SLURM)
    return sweeps.wrong("slurm") or (f"exit status {status}: {output[-300:]}" if status else "")


def _no_gpus(sweeps: Sweeps) -> str:
    status, output = sweeps.run("gpus", "launcher=slurm")
    told = "got short; choose launcher=slurm_cpu" in output and "Traceback" not in output
    return "" if status == 1 and told else output[-300:]


def _cancelled(sweeps: Sweeps) -> str:
    process = sweeps.start("cancelled", *ON_SLURM)
    sweeps.slurm("scancel", sweeps.wait_for_jobs()[1])
    status, output = ended(process)
    if status != 1 or "1 of 3 points did not say how they ended" not in output:
        return f"exit status {status}: {output[-300:]}"
    if "Traceback" in output:
        return f"a traceback: {output[-300:]}"
    before = sweeps.records("cancelled")
    status, output = sweeps.run("cancelled", *ON_SLURM)
    after = sweeps.records("cancelled")
    again = [ratio for ratio in before if before[ratio] != after[ratio]]
    return sweeps.wrong("cancelled") or (f"ran again: {again}" if again else "")


def _time_limit(sweeps: Sweeps) -> str:
    starts = sweeps.folder / "starts.txt"
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20"]
    slow = [
        "+hydra.callbacks.slow._target_=trouble.SlowOnce",
        f"+hydra.callbacks.slow.starts={starts}",
    ]
    status, output = sweeps.run("limit", *ON_SLURM, *limits, *slow)
    lines = starts.read_text(encoding="utf-8").splitlines()
    if status or len(lines) != 4:
        return f"exit status {status}, {len(lines)} starts: {output[-300:]}"
    return sweeps.wrong("limit")


def _too_much_asked(sweeps: Sweeps) -> str:
    status, output = sweeps.run("asked", *ON_SLURM[:2], "hydra.launcher.mem_gb=900")
    told = "Memory specification can not be satisfied" in output or "configuration" in output
    return "" if status == 1 and told and "Traceback" not in output else output[-300:]


def _killed_for_memory(sweeps: Sweeps) -> str:
    greedy = [
        "+hydra.callbacks.greedy._target_=trouble.Greedy", "+hydra.callbacks.greedy.megabytes=1500",
    ]  # fmt: skip
    small = (*ON_SLURM[:2], "hydra.launcher.mem_gb=1", *greedy)
    status, output = sweeps.run("greedy", *small, ratios="0.3,0.4")
    if status != 1 or sweeps.records("greedy") or "Traceback" in output:
        return f"exit status {status}: {output[-300:]}"
    status, output = sweeps.run("greedy", *ON_SLURM)
    return sweeps.wrong("greedy")


def _ray(sweeps: Sweeps, python: str) -> str:
    status, output = sweeps.run("ray", "launcher=ray", python=python)
    return sweeps.wrong("ray") or (f"exit status {status}: {output[-300:]}" if status else "")


# What a row says is what is so if the case passes; without an accounting database in all of them.
SLURM_CASES: dict[str, Callable[[Sweeps], str]] = {
    "Slurm: a sweep of three points stores the records of a sweep here": _all_right,
    "Slurm: a partition without GPUs is named, with what to set": _no_gpus,
    "Slurm: scancel of one job is noticed and told; the same command runs that point": _cancelled,
    "Slurm: at its time limit a job goes back into the queue; right records": _time_limit,
    "Slurm: more memory than a node has is refused in one line": _too_much_asked,
    "Slurm: a job that takes too much is killed and told; with more memory it goes on": (
        _killed_for_memory
    ),
}


def main() -> int:
    """Run the cases; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ray-python", help="an interpreter with the extra `ray`")
    parser.add_argument("--only", default="", help="cases whose row has this text")
    options = parser.parse_args()
    rows: list[tuple[str, str, float]] = []
    with tempfile.TemporaryDirectory(prefix="clusters") as folder, ExitStack() as stack:
        variables, cases = dict(os.environ), {}
        if missing := missing_commands():
            print(f"Slurm is left out: no {', '.join(missing)}")
        else:
            variables = stack.enter_context(one_node_slurm(Path(folder) / "slurm"))
            cases |= SLURM_CASES
        if options.ray_python is None:
            print("Ray is left out: give --ray-python")
        else:
            name = "Ray: a sweep of three points stores the records of a sweep here"
            cases[name] = lambda sweeps: _ray(sweeps, options.ray_python)
        sweeps = Sweeps(Path(folder), variables)
        for name, case in cases.items():
            if options.only in name:
                start = time.monotonic()
                rows.append((name, case(sweeps), time.monotonic() - start))
    for name, problem, seconds in rows:
        print(f"{'failed' if problem else 'passed'}  {seconds:4.0f} s  {name}")
        if problem:
            print(f"        {problem}")
    return 0 if rows and not any(problem for _, problem, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
