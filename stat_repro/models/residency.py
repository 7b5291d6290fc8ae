"""Which weights of a model are in memory while it runs block by block."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class LayerWeights(Protocol):
    """Puts weights where a model expects them, for the length of a block of code."""

    def outside(self) -> AbstractContextManager[None]:
        """What the backbone has before and behind its transformer layers."""
        ...

    def layer(self, layer: int) -> AbstractContextManager[None]:
        """One transformer layer."""
        ...


class AllResident:
    """The weights of a model that is in memory as a whole."""

    def outside(self) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()

    def layer(self, layer: int) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()
