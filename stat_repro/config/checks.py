"""Checks that the sections of the schema share, and the error they raise."""

from __future__ import annotations

import re

from omegaconf import MISSING


class ConfigError(ValueError):
    """A configuration that cannot be run; says what was expected, what was got, what is valid."""


def one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse a value that is not listed."""
    if value not in valid:
        raise ConfigError(f"{key}: expected one of {', '.join(valid)}; got {value!r}")


def file_name(key: str, value: str) -> None:
    """Labels become parts of file names."""
    if value != MISSING and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
        raise ConfigError(
            f"{key}: expected letters, digits, '_', '-' and '.' (it names files); got {value!r}"
        )


def at_least(key: str, value: float | None, low: float) -> None:
    """Refuse a number below `low`; null passes."""
    if value is not None and not value >= low:
        raise ConfigError(f"{key}: expected a value of at least {low}; got {value}")
