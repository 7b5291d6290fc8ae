"""Which weights of a model are in memory while it runs layer by layer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class LayerWeights(Protocol):
    """Puts weights into a model for the length of a `with`."""

    def outside(self) -> AbstractContextManager[None]:
        """The weights of the backbone outside its transformer layers."""
        ...

    def layer(self, layer: int) -> AbstractContextManager[None]:
        """The weights of one transformer layer."""
        ...


class AllResident:
    """The weights of a model that is in memory as a whole."""

    def outside(self) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()

    def layer(self, layer: int) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()
