"""The error of this package, and how its messages list names."""

from collections.abc import Iterable

_LISTED = 20


class DataError(ValueError):
    """Data that cannot be used; says what was expected, what was got, what is valid."""


def listed(names: Iterable[object]) -> str:
    """Names of columns, keys or classes; of very many the first ones, and how many more."""
    texts = [str(name) for name in names]
    more = [f"... and {len(texts) - _LISTED} more"] if len(texts) > _LISTED else []
    return ", ".join([*texts[:_LISTED], *more])
