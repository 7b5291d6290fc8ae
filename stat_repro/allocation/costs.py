"""Multiply-accumulates and parameters of the prunable part, dense and under a plan.

The cost model is the one of Kwon et al. (2022) that STAT's code uses: MACs per token of all
projections of a layer, plus attention scores and weighted sums over `sequence_length` positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stat_repro.models.adapter import Adapter
from stat_repro.plan import PruningPlan, SiteKind


class BudgetError(ValueError):
    """A ratio that no plan can meet."""


@dataclass(frozen=True)
class UnitCosts:
    """What the allocation needs to know of costs.

    Attributes:
        head: MACs per token of one attention unit.
        neuron: MACs per token of one neuron.
        heads: Attention units per layer.
        neurons: Neurons per layer.
        measure: What the costs are, where it is not MACs per token.
    """

    head: float
    neuron: float
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    measure: str = "MACs"

    @property
    def total(self) -> float:
        """Prunable MACs per token of the dense model."""
        return self.head * sum(self.heads) + self.neuron * sum(self.neurons)

    def with_neuron_share(self, share: float) -> UnitCosts:
        """The same costs with heads re-priced so that the FFN has this share of the total.

        Raises:
            BudgetError: No heads or no neurons.
        """
        if not (sum(self.heads) and sum(self.neurons)):
            raise BudgetError("neuron_mac_share: expected heads and neurons; one kind has none")
        head = self.neuron * sum(self.neurons) * (1.0 - share) / (share * sum(self.heads))
        return replace(self, head=head)


def unit_costs(adapter: Adapter, sequence_length: float) -> UnitCosts:
    """Costs of one head and one neuron at this mean sequence length.

    Raises:
        BudgetError: Nothing to prune, or units that differ in cost between layers.
    """
    costs: dict[SiteKind, float] = {}
    for kind in ("attention", "ffn"):
        values = {site.unit_macs(sequence_length) for site in adapter.of_kind(kind) if site.units}
        if len(values) > 1:
            raise BudgetError(
                f"expected one cost per {kind} unit in all layers, got {sorted(values)}"
            )
        costs[kind] = values.pop() if values else 0.0
    if not any(site.units for site in adapter.sites):
        raise BudgetError("nothing to prune: expected heads or neurons in at least one layer")
    return UnitCosts(
        head=costs["attention"],
        neuron=costs["ffn"],
        heads=tuple(site.units for site in adapter.of_kind("attention")),
        neurons=tuple(site.units for site in adapter.of_kind("ffn")),
    )


@dataclass(frozen=True)
class PrunableCosts:
    """MACs per token and parameters of the prunable part."""

    macs: float
    params: int


def prunable_costs(
    adapter: Adapter, sequence_length: float, plan: PruningPlan | None = None
) -> PrunableCosts:
    """Costs of the prunable part under a plan, of the dense model if None."""
    macs, params = 0.0, 0
    for site in adapter.sites:
        units = site.units if plan is None else len(plan.layers[site.layer].kept(site.kind))
        macs += units * site.unit_macs(sequence_length)
        params += units * site.params_per_unit
    return PrunableCosts(macs=macs, params=params)
