"""The pruning plan: which units every layer keeps, as a value with a JSON round trip.

A plan is made before any weight is touched and is all that is needed to know the shape of the
pruned model. Indices refer to the model the plan was made for and are in ascending order.

A plan has two forms in JSON, and both are read. With a model it lists the indices (version 1). In
a run's record, of which there are many, it has a bit per unit instead (version 2). There a layer
reads, for 12 heads of which 3 are kept and 8 neurons of which 5 are kept:

    {"heads": 12, "kept_heads": 3, "head_mask": "110000000001",
     "neurons": 8, "kept_neurons": 5, "neuron_mask": "b5"}

The characters of `head_mask` are the heads in order, 1 for a kept one. `neuron_mask` has four
neurons per hexadecimal digit, the first of them as its highest bit, filled up with zeros to whole
bytes: b5 is 10110101, so that the neurons 0, 2, 3, 5 and 7 are kept (`numpy.packbits` in its usual
order).
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SiteKind = Literal["attention", "ffn"]


class PlanError(ValueError):
    """A plan that contradicts itself or the model it is applied to."""


def _check_indices(indices: tuple[int, ...], units: int, what: str) -> None:
    if any(map(operator.ge, indices, indices[1:])):
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
        """Plain JSON types, with the kept indices in lists (version 1)."""
        return {
            "plan_version": 1,
            "method": self.method,
            "details": self.details,
            "layers": [
                {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(layer).items()}
                for layer in self.layers
            ],
        }

    def to_masks(self) -> dict[str, Any]:
        """Plain JSON types, with a bit per unit (version 2, see the module's docstring)."""
        layers = [_to_masks(layer) for layer in self.layers]
        return {**self.to_dict(), "plan_version": 2, "layers": layers}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PruningPlan:
        """Read what `to_dict` or `to_masks` wrote.

        Raises:
            PlanError: Another plan version, missing or unknown keys, or a mask that does not fit
                the numbers beside it.
        """
        version = data.get("plan_version") if isinstance(data, dict) else None
        if version not in _FORMS:
            raise PlanError(f"plan_version: expected 1 or 2; got {version!r}")
        _check_keys(data, {"plan_version", "method", "details", "layers"}, "plan")
        if not isinstance(data["layers"], list):
            raise PlanError(f"layers: expected a list; got {data['layers']!r}")
        keys, read = _FORMS[version]
        layers = []
        for i, layer in enumerate(data["layers"]):
            _check_keys(layer, keys, f"layer {i}")
            try:
                layers.append(read(layer))
            except (TypeError, ValueError) as err:
                raise PlanError(f"layer {i}: {err}") from err
        return cls(layers=tuple(layers), method=data["method"], details=data["details"])

    def to_json(self) -> str:
        """One JSON document of `to_dict`, with a line per layer."""
        data = self.to_dict()
        lines = ",\n ".join(json.dumps(layer) for layer in data.pop("layers"))
        return f'{json.dumps(data)[:-1]}, "layers": [\n {lines}\n]}}'

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))


def _from_lists(layer: dict[str, Any]) -> LayerPlan:
    heads, neurons = tuple(layer["kept_heads"]), tuple(layer["kept_neurons"])
    return LayerPlan(heads, neurons, layer["heads"], layer["neurons"])


def _to_masks(layer: LayerPlan) -> dict[str, Any]:
    return {
        "heads": layer.heads,
        "kept_heads": len(layer.kept_heads),
        "head_mask": "".join(map(str, _bits(layer.kept_heads, layer.heads))),
        "neurons": layer.neurons,
        "kept_neurons": len(layer.kept_neurons),
        "neuron_mask": np.packbits(_bits(layer.kept_neurons, layer.neurons)).tobytes().hex(),
    }


def _from_masks(layer: dict[str, Any]) -> LayerPlan:
    packed = np.frombuffer(bytes.fromhex(layer["neuron_mask"]), dtype=np.uint8)
    bits = [int(bit) for bit in layer["head_mask"]], np.unpackbits(packed)
    heads, neurons = (tuple(np.flatnonzero(one).tolist()) for one in bits)
    plan = LayerPlan(heads, neurons, layer["heads"], layer["neurons"])
    # Counts, lengths and the zeros at the end are then right as well.
    if _to_masks(plan) != layer:
        raise PlanError(f"expected masks that fit the numbers of units; got {layer}")
    return plan


def _bits(kept: Sequence[int], units: int) -> NDArray[np.uint8]:
    """One value per unit, 1 where it is kept, (units,)."""
    bits = np.zeros(units, dtype=np.uint8)
    bits[list(kept)] = 1
    return bits


_COUNTS = {"heads", "kept_heads", "neurons", "kept_neurons"}
# Per version of the plan the keys of a layer, and how it is read.
_FORMS = {1: (_COUNTS, _from_lists), 2: (_COUNTS | {"head_mask", "neuron_mask"}, _from_masks)}


def _check_keys(data: dict[str, Any], expected: set[str], what: str) -> None:
    if not isinstance(data, dict):
        raise PlanError(f"{what}: expected keys {sorted(expected)}; got {data!r}")
    if set(data) != expected:
        missing, unknown = sorted(expected - set(data)), sorted(set(data) - expected)
        raise PlanError(f"{what}: missing keys {missing}, unknown keys {unknown}")
