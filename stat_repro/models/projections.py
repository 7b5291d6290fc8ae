"""Projections of a model, and which of their rows belong to which unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stat_repro.models.layers_stat import EmptyLinear, as_matrix


class UnsupportedModelError(TypeError):
    """A model of an unknown architecture, or with unexpected modules."""


@dataclass(frozen=True)
class Producer:
    """A module with rows that make the units of a site.

    Attributes:
        module: Dotted name of the projection inside the model, or of a norm behind it.
        parts: Rows per unit in each part of the module. A fused projection has several, one behind
            the other: first those of all units in the first part.
        norm: Whether it is a norm: its weights go with the units and multiply nothing by a matrix.
    """

    module: str
    parts: tuple[int, ...]
    norm: bool = False

    @property
    def rows_per_unit(self) -> int:
        """Rows that belong to one unit, in all parts."""
        return sum(self.parts)

    def rows(self, units: int) -> torch.Tensor:
        """Which rows belong to which unit.

        Args:
            units: Units of the module.

        Returns:
            int64 tensor of shape (units, rows_per_unit).
        """
        stacked = torch.arange(units * self.rows_per_unit).split([units * n for n in self.parts])
        parts = zip(stacked, self.parts, strict=True)
        return torch.cat([rows.view(units, size) for rows, size in parts], dim=1)

    def kept_rows(self, units: int, kept: Sequence[int]) -> torch.Tensor:
        """Indices of the rows that belong to the kept units, ascending."""
        return self.rows(units)[list(kept)].flatten().sort().values


@dataclass(frozen=True)
class Projection:
    """A Linear, a Conv1D (GPT-2) that reads as one, or a norm over what one of them gives.

    Or an EmptyLinear, which one of them became.

    Attributes:
        module: The module itself, for hooks.
    """

    module: nn.Module

    @property
    def weight(self) -> torch.Tensor:
        """Shape (out, in): the parameter, or its transpose, which shares its memory.

        Shape (width,) of a norm.
        """
        weight: Any = self.module.weight
        return as_matrix(self.module, weight)

    @property
    def bias(self) -> torch.Tensor | None:
        """Shape (out,)."""
        return self.module._parameters.get("bias")

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.weight.shape[0]

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return self.weight.shape[1]


def linear(model: nn.Module, name: str) -> Projection:
    """The projection of this name.

    Raises:
        UnsupportedModelError: It is missing or not a plain Linear or Conv1D (quantised, wrapped).
    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise UnsupportedModelError(
            f"{name}: expected a torch.nn.Linear; the model has no module of this name"
        ) from None
    # By name: a model loaded with trust_remote_code has a copy of the class.
    kind = type(module)
    if not isinstance(module, nn.Linear | Conv1D) and kind.__name__ != EmptyLinear.__name__:
        raise UnsupportedModelError(
            f"{name}: expected a torch.nn.Linear; got {kind.__qualname__} of {kind.__module__} "
            "(quantised or wrapped models cannot be pruned; load the plain weights)"
        )
    return Projection(module)


def producer_of(model: nn.Module, producer: Producer) -> Projection:
    """The module of a producer.

    Raises:
        UnsupportedModelError: A projection that is none (`linear`).
    """
    if producer.norm:
        return Projection(model.get_submodule(producer.module))
    return linear(model, producer.module)
