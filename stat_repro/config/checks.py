"""Settings with what holds for them, the checks of their values, and the error that these raise."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import field, fields
from typing import Any

from omegaconf import MISSING

# The largest seed that all random generators take.
MAX_SEED = 2**32 - 1


class ConfigError(ValueError):
    """A configuration that cannot be run; says what was expected, what was got, what is valid."""


def setting(default: Any, **notes: Any) -> Any:
    """A field of a section of the schema, with what holds for it.

    Args:
        default: Its default, or the class or function that makes one.
        **notes: `choices`: the valid values. `low`: the smallest valid number; null is valid too.
            `high`: the largest. `exact`: a measured number, which is not rounded.
            `neutral`: it decides where a run goes or how fast it is, but not what it finds, so it
            takes no part in the run id. `later`: it joined the schema after runs had been stored;
            at its default, which must never change, it means what those runs did and takes no part
            in the run id. `of`: the method that has this option (other methods too have those of
            STAT, where they take its sizes).
    """
    if callable(default):
        return field(default_factory=default, metadata=notes)
    return field(default=default, metadata=notes)


def check_settings(section: Any, name: str = "") -> None:
    """Refuse values of a section that are not among the choices, or too small; defaults are valid.

    Numbers are rounded to 10 digits: range(0.1,0.4,0.1) counts to 0.30000000000000004, which names
    another run than 0.3.

    Args:
        section: The section, a dataclass.
        name: Its name with a dot behind it, empty for the whole schema.

    Raises:
        ConfigError: Names the key and what is valid.
    """
    for one in fields(section):
        key, value = f"{name}{one.name}", getattr(section, one.name)
        if isinstance(value, float) and "exact" not in one.metadata:
            value = float(f"{value:.10g}")
            setattr(section, one.name, value)
        if value == one.default:
            continue
        if "choices" in one.metadata:
            one_of(key, value, one.metadata["choices"])
        if "low" in one.metadata:
            at_least(key, value, one.metadata["low"])
        if "high" in one.metadata and value > one.metadata["high"]:
            raise ConfigError(
                f"{key}: expected a value of at most {one.metadata['high']}; got {value}"
            )


def one_of(key: str, value: str, valid: Collection[str]) -> None:
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
