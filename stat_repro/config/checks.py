"""Settings with what holds for them, the checks of their values, and the error that these raise."""

import math
import operator
import re
from collections.abc import Collection
from dataclasses import field, fields
from numbers import Real
from typing import Any

# The largest seed that all random generators take.
MAX_SEED = 2**32 - 1


class ConfigError(ValueError):
    """A configuration that cannot be run; says what was expected, what was got, what is valid."""


def setting(default: Any, **notes: Any) -> Any:
    """A field of a section of the schema, with what holds for it.

    Args:
        default: Its default, or the class or function that makes one.
        **notes: `choices`: the valid values. `low` and `high`: the smallest and the largest valid
            number, or of each in a list; null is valid too. `above` and `below`: numbers that valid
            ones do not reach. `exact`: a measured number, which is not rounded.
            `file_name`: a label that becomes part of the names of files.
            `neutral`: it decides where a run goes or how fast it is, but not what it finds, so it
            takes no part in the run id. `later`: it joined the schema after runs had been stored;
            at its default, which must never change, it means what those runs did and takes no part
            in the run id. `of`: the method that has this option (other methods too have those of
            STAT, where they take its sizes). `tasks`: the tasks that read it.
    """
    if callable(default):
        return field(default_factory=default, metadata=notes)
    return field(default=default, metadata=notes)


class Section:
    """A part of the schema, whose values are checked when it is made; defaults are valid.

    Numbers are rounded to 10 digits: range(0.1,0.4,0.1) counts to 0.30000000000000004, which names
    another run than 0.3.

    Raises:
        ConfigError: Names the key and what is valid.
    """

    _prefix = ""

    def __init_subclass__(cls, name: str = "") -> None:
        cls._prefix = name and f"{name}."

    def __post_init__(self) -> None:
        section: Any = self
        for one in fields(section):
            key, value = f"{self._prefix}{one.name}", getattr(self, one.name)
            if isinstance(value, float) and "exact" not in one.metadata:
                value = float(f"{value:.10g}")
                setattr(self, one.name, value)
            if type(one.default) is float:
                number(key, value)
            if type(one.default) is bool and not isinstance(value, bool):
                raise ConfigError(f"{key}: expected true or false; got {value!r}")
            if type(one.default) is int:
                value = integer(key, value)
                setattr(self, one.name, value)
            if value == one.default:
                continue
            if "choices" in one.metadata:
                one_of(key, value, one.metadata["choices"])
            if "file_name" in one.metadata:
                _file_name(key, value)
            for item in value if isinstance(value, list) else [value]:
                in_range(key, item, **{k: v for k, v in one.metadata.items() if k in _BOUNDS})


def one_of(key: str, value: str, valid: Collection[str]) -> None:
    """Refuse a value that is not listed."""
    if value not in valid:
        raise ConfigError(f"{key}: expected one of {', '.join(valid)}; got {value!r}")


def integer(key: str, value: Any) -> int:
    """An integer, also one of numpy, as Python's; anything else is refused, 2.0 too."""
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{key}: expected an integer; got {value}") from None


def number(key: str, value: Any) -> None:
    """Refuse what is no real number, texts such as "0.5" too."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{key}: expected a number; got {value!r}")


def _file_name(key: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
        raise ConfigError(
            f"{key}: expected letters, digits, '_', '-' and '.' (it names files); got {value!r}"
        )


# What bounds are called in a message, and how they hold.
_BOUNDS = {
    "low": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "high": ("at most", operator.le),
    "below": ("less than", operator.lt),
}


def in_range(key: str, value: float | None, **bounds: float) -> None:
    """Refuse a number outside the bounds, named as in `setting`; null passes."""
    if value is None or not bounds:
        return
    number(key, value)
    finite = math.isfinite(value)
    if finite and all(_BOUNDS[name][1](value, bound) for name, bound in bounds.items()):
        return
    words = " and ".join(f"{_BOUNDS[name][0]} {bound}" for name, bound in bounds.items())
    raise ConfigError(
        f"{key}: expected a {'' if finite else 'finite '}value of {words}; got {value}"
    )
