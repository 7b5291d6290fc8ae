"""Callbacks of Hydra that give a job of a cluster trouble, inside the job."""

import time
from pathlib import Path

from hydra.experimental.callback import Callback


class SlowOnce(Callback):
    """The first job that starts waits for ten minutes; every start leaves a line in a file."""

    def __init__(self, starts: str) -> None:
        self.starts = Path(starts)

    def on_job_start(self, config, **kwargs) -> None:
        first = not self.starts.exists()
        with self.starts.open("a", encoding="utf-8") as file:
            file.write("started\n")
        if first:
            time.sleep(600)


class Greedy(Callback):
    """Every job takes this much memory, and keeps it for a minute."""

    def __init__(self, megabytes: int) -> None:
        self.megabytes = megabytes

    def on_job_start(self, config, **kwargs) -> None:
        taken = bytearray(b"x" * (self.megabytes << 20))
        time.sleep(60)
        del taken
