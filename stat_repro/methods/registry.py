"""All pruning methods by name."""

from __future__ import annotations

from collections.abc import Callable

from stat_repro.methods import stat
from stat_repro.methods.base import MethodInput, MethodOutput

METHODS: dict[str, Callable[[MethodInput], MethodOutput]] = {
    "stat": stat.prune,
}
