"""From the values of a label column to class indices or regression targets."""

import math
import re
from collections.abc import Collection
from contextlib import suppress
from numbers import Integral, Real
from typing import Any

from stat_repro.config.model import class_name, placeholders
from stat_repro.data.errors import DataError
from stat_repro.entry import listed


def class_names(values: list[Any], what: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the classes of a training part, in the order of their indices.

    Integers keep their order and must be consecutive, so that 0..K-1 are the class indices
    themselves; names are sorted, a number at their end counts as a number (`LABEL_2`, `LABEL_10`).

    Args:
        values: Labels of the training part: all integers (also as "1" or "1.0") or all strings.
        what: File and column, for the message.
        known: The classes, if all labels are among them.

    Raises:
        DataError: Missing or mixed labels, gaps between integers, or a single class.
    """
    keys = [_label(value, what, row) for row, value in enumerate(values, start=1)]
    if set(keys) <= (named := {class_name(name) for name in known}):
        keys = list(named)
    numbers = {int(key) for key in keys if re.fullmatch("-?[0-9]+", key)}
    if len(numbers) < len(set(keys)):
        names = sorted(set(keys), key=_stem_and_number)
    else:
        names = [str(number) for number in sorted(numbers)]
        if max(numbers) - min(numbers) + 1 != len(numbers):
            raise DataError(
                f"{what}: expected consecutive class numbers; got {listed(names)}. Use names "
                "(strings that are no numbers) if these are the classes"
            )
    if len(names) < 2:
        choose = f", or one of the model's: {listed(known)} (--set '{placeholders(len(known))}')"
        raise DataError(
            f"{what}: expected at least two classes{choose if known else ''}; got only {names[0]!r}"
        )
    return tuple(names)


def class_indices(values: list[Any], names: tuple[str, ...], what: str) -> list[int]:
    """Class indices of labels.

    Args:
        values: Labels, of the kind that `class_names` takes.
        names: The classes of the training part.
        what: File and column, for the message.

    Raises:
        DataError: A label that the training part does not have.
    """
    index = {name: position for position, name in enumerate(names)}
    return _positions(values, index, what, f"a class of the training part, {listed(names)}")


def hidden(values: list[Any]) -> bool:
    """Whether all labels are -1, as those of a benchmark's test part are."""
    return all(not isinstance(value, bool) and str(value) in ("-1", "-1.0") for value in values)


def fixed_indices(values: list[Any], names: tuple[str, ...], what: str) -> list[int]:
    """Class indices of labels whose classes are fixed by a benchmark.

    Args:
        values: Names of classes, or their indices (also as strings).
        names: The classes in the benchmark's order.
        what: File and column, for the message.

    Raises:
        DataError: Anything else, -1 (a hidden label) included; says which row.
    """
    index = {str(position): position for position in range(len(names))}
    index |= {name: position for position, name in enumerate(names)}
    valid = f"{', '.join(names)}, or 0 to {len(names) - 1} in this order (-1: a hidden label)"
    return _positions(values, index, what, valid)


def _positions(values: list[Any], index: dict[str, int], what: str, valid: str) -> list[int]:
    """The entries of `index` for labels, which are refused by row where there are none."""
    keys = [_label(value, what, row) for row, value in enumerate(values, start=1)]
    for row, key in enumerate(keys, start=1):
        if key not in index:
            raise DataError(f"{what}, row {row}: expected {valid}; got {key!r}")
    return [index[key] for key in keys]


def targets(values: list[Any], what: str) -> list[float]:
    """Regression targets.

    Args:
        values: Numbers, or strings that are numbers.
        what: File and column, for the message.

    Raises:
        DataError: A value is no finite number; says which row.
    """
    numbers = []
    for row, value in enumerate(values, start=1):
        number = math.nan
        if isinstance(value, (str, Real)) and not isinstance(value, bool):
            with suppress(ValueError):
                number = float(value)
        if not math.isfinite(number):
            raise DataError(
                f"{what}, row {row}: expected a finite number (task=regression); got {value!r}"
            )
        numbers.append(number)
    return numbers


def _label(value: Any, what: str, row: int) -> str:
    """One label as a string; integers in their shortest form, whatever type holds them."""
    if isinstance(value, (bool, Integral)) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    text = value.strip() if isinstance(value, str) else ""
    if not text or text.lower() == "nan":
        raise DataError(
            f"{what}, row {row}: expected a class, an integer or a string; got {value!r} "
            "(numbers with a fraction are targets of task=regression)"
        )
    return class_name(text)


def _stem_and_number(name: str) -> tuple[str, int, str]:
    """Sort key of class names: what comes before the digits at the end, then their number."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or -1), name
