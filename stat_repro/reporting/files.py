"""Writing an output file whole or not at all. Outputs, unlike records, are replaced."""

from __future__ import annotations

import os
from pathlib import Path

from stat_repro.scratch import scratch


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step; a failure leaves what was there before.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch(path.parent, f".{path.name}", folder=False) as temporary:
        temporary.write_bytes(data)
        os.replace(temporary, path)
