"""`python run.py` in forks of one process that has imported everything: a command costs no imports.

Every command is a process of its own, with its own arguments, working directory, environment,
streams and exit status, as if it had been typed; only what Python and the libraries do at import
happened before, once, in the server's environment.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "run.py"
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
# What a run imports on its way; a module that is missing here costs every command its time again.
_MODULES = (
    "stat_repro.run.cli",
    "stat_repro.run.pipeline",
    "stat_repro.run.tracking",
    "stat_repro.reporting.tables",
    "datasets",
    "sklearn.metrics",
    "transformers.models.bert.modeling_bert",
    "transformers.models.distilbert.modeling_distilbert",
    "transformers.models.llama.modeling_llama",
)
_SECONDS = 300

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_in_new_process(
    arguments: Sequence[str], cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command as it is typed, imports and all."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


@contextmanager
def command_server() -> Iterator[Run]:
    """A function with the arguments and the result of `run_in_new_process`, without the imports."""
    with (
        TemporaryDirectory(prefix="stat_repro_commands_") as folder,
        subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        files = [Path(folder, "stdout"), Path(folder, "stderr")]

        def run(
            arguments: Sequence[str], cwd: Path, **environment: str
        ) -> subprocess.CompletedProcess[str]:
            job = {
                "arguments": [str(SCRIPT), *arguments],
                "cwd": str(cwd),
                "environment": {**os.environ, **ENVIRONMENT, **environment},
                "files": [str(path) for path in files],
            }
            print(json.dumps(job), file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            return subprocess.CompletedProcess(
                job["arguments"], status, *(path.read_text(encoding="utf-8") for path in files)
            )

        yield run


def _serve() -> None:
    """Fork for every line of standard input; answer with the exit status."""
    sys.path[0] = str(ROOT)  # as in `python run.py`
    for name in _MODULES:
        importlib.import_module(name)
    gc.freeze()  # else every fork copies the memory of all modules, to find nothing in it
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
            runpy.run_path(str(SCRIPT), run_name="__main__")
            sys.exit()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)


def _become(job: dict) -> None:
    """Make a fork of the server the process that a command would have been."""
    signal.alarm(_SECONDS)
    sys.argv = job["arguments"]
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in zip((1, 2), job["files"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)


if __name__ == "__main__":
    _serve()
