"""What the comments on top of sweeps say of their studies."""

from __future__ import annotations

import re

from stat_repro.paths import experiments_dir

_WORDS = ("Claim", "Command", "Cost", "Anchor", "Run here")


def sweep_header(study: str) -> dict[str, str]:
    """What the comment on top of a study's sweep says, by its words (`Claim`, `Cost`, ...).

    Empty for a study without a sweep.
    """
    path = experiments_dir() / "sweep" / f"{study}.yaml"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    parts = re.split(rf"\b({'|'.join(_WORDS)}): ", comment)
    return {word: text.strip() for word, text in zip(parts[1::2], parts[2::2], strict=True)}
