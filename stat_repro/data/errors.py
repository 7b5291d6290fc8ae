"""The error of this package."""


class DataError(ValueError):
    """Data that cannot be used; says what was expected, what was got, what is valid."""
