"""The pruning plan: which units every layer keeps, as a value with a JSON round trip.

A plan is made before any weight is touched and is all that is needed to know the shape of the
pruned model. Indices refer to the model the plan was made for and are in ascending order.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

PLAN_VERSION = 1

SiteKind = Literal["attention", "ffn"]


class PlanError(ValueError):
    """A plan that contradicts itself or the model it is applied to."""


def _check_indices(indices: tuple[int, ...], units: int, what: str) -> None:
    if any(b <= a for a, b in itertools.pairwise(indices)):
        raise PlanError(f"{what}: kept indices must be strictly ascending, got {list(indices)}")
    if indices and (indices[0] < 0 or indices[-1] >= units):
        raise PlanError(
            f"{what}: kept indices must lie in 0..{units - 1}, got {indices[0]}..{indices[-1]}"
        )


@dataclass(frozen=True)
class LayerPlan:
    """What one layer keeps.

    Attributes:
        kept_heads: Kept attention units, ascending: heads, or key/value groups (a key/value head
            with all query heads that share it) where the model uses grouped queries.
        kept_neurons: Kept FFN neurons, ascending.
        heads: Attention units of the dense layer.
        neurons: FFN neurons of the dense layer.
    """

    kept_heads: tuple[int, ...]
    kept_neurons: tuple[int, ...]
    heads: int
    neurons: int

    def __post_init__(self) -> None:
        _check_indices(self.kept_heads, self.heads, "kept_heads")
        _check_indices(self.kept_neurons, self.neurons, "kept_neurons")

    def kept(self, kind: SiteKind) -> tuple[int, ...]:
        """Kept unit indices of the site of this kind."""
        return self.kept_heads if kind == "attention" else self.kept_neurons

    def units(self, kind: SiteKind) -> int:
        """Units of the site of this kind in the dense layer."""
        return self.heads if kind == "attention" else self.neurons


@dataclass(frozen=True)
class PruningPlan:
    """Kept units of all layers, and how they were chosen.

    Attributes:
        layers: One entry per transformer layer, first layer first.
        method: Name of the method that chose the units, as in the registry.
        details: Values a reader needs to follow the choice (JSON types only), for example the
            cutoffs of the allocation.
    """

    layers: tuple[LayerPlan, ...]
    method: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def head_counts(self) -> tuple[int, ...]:
        """Kept attention units per layer."""
        return tuple(len(layer.kept_heads) for layer in self.layers)

    @property
    def neuron_counts(self) -> tuple[int, ...]:
        """Kept neurons per layer."""
        return tuple(len(layer.kept_neurons) for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the inverse of `from_dict`."""
        return {
            "plan_version": PLAN_VERSION,
            "method": self.method,
            "details": self.details,
            "layers": [
                {
                    "heads": layer.heads,
                    "kept_heads": list(layer.kept_heads),
                    "neurons": layer.neurons,
                    "kept_neurons": list(layer.kept_neurons),
                }
                for layer in self.layers
            ],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PruningPlan:
        """Read what `to_dict` wrote.

        Raises:
            PlanError: Another plan version, or missing or unknown keys.
        """
        if data.get("plan_version") != PLAN_VERSION:
            raise PlanError(
                f"expected plan_version {PLAN_VERSION}, got {data.get('plan_version')!r}"
            )
        _check_keys(data, {"plan_version", "method", "details", "layers"}, "plan")
        layers = []
        for i, layer in enumerate(data["layers"]):
            _check_keys(layer, {"heads", "kept_heads", "neurons", "kept_neurons"}, f"layer {i}")
            layers.append(
                LayerPlan(
                    kept_heads=tuple(layer["kept_heads"]),
                    kept_neurons=tuple(layer["kept_neurons"]),
                    heads=layer["heads"],
                    neurons=layer["neurons"],
                )
            )
        return cls(layers=tuple(layers), method=data["method"], details=data["details"])

    def to_json(self) -> str:
        """One JSON document, indices of a list on one line per layer."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))


def full_plan(heads: Sequence[int], neurons: Sequence[int], method: str) -> PruningPlan:
    """The plan that keeps everything, for layers with these unit counts."""
    return PruningPlan(
        layers=tuple(
            LayerPlan(tuple(range(h)), tuple(range(f)), h, f)
            for h, f in zip(heads, neurons, strict=True)
        ),
        method=method,
    )


def _check_keys(data: dict[str, Any], expected: set[str], what: str) -> None:
    if set(data) != expected:
        missing, unknown = sorted(expected - set(data)), sorted(set(data) - expected)
        raise PlanError(f"{what}: missing keys {missing}, unknown keys {unknown}")
