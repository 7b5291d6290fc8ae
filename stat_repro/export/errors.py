"""What an export refuses."""

from __future__ import annotations


class ExportError(ValueError):
    """A model that the other program cannot hold, or options that do not go together."""
