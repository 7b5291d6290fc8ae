"""What a method is given and what it returns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from stat_repro.allocation.allocate import Sizes
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.costs import unit_costs
from stat_repro.allocation.latency import LatencyTable, within_latency
from stat_repro.allocation.rounding import final_sizes
from stat_repro.allocation.scores import Vector
from stat_repro.calibration.batches import CalibrationBatch
from stat_repro.calibration.capture import Calibration
from stat_repro.calibration.sketch import Sketch
from stat_repro.calibration.statistics import SiteStatistics
from stat_repro.config import PruningConfig
from stat_repro.measure import Stopwatch
from stat_repro.models.adapter import Adapter, Site
from stat_repro.plan import PruningPlan, SiteKind
from stat_repro.surgery.edit import SiteEdit


@dataclass(frozen=True)
class MethodInput:
    """A request: everything a method may look at. The model is left as it was.

    Attributes:
        model: The dense model.
        adapter: Its adapter.
        batches: Calibration batches; may be iterated several times. They hold labels where the
            method needs them.
        ratio: Share of the prunable MACs to remove.
        sequence_length: Mean tokens per example that costs are counted at.
        config: The method's options.
        statistics_kind: `gram`, `exact` or `sketch`.
        calibration: Dense statistics of all sites over `batches`; empty where
            `PruningConfig.needs_statistics` says so.
        round_to: Neurons kept per layer are a multiple of this where the layer loses any.
        seed: Seed of methods that draw at random.
        sketch: Which sketch, where `statistics_kind` is `sketch`.
        latency: What `ratio` is a share of; None for MACs.
        watch: Gets the seconds of the method's stages, as if nothing were shared with other ratios;
            `shared_s` is the part that was.
    """

    model: PreTrainedModel
    adapter: Adapter
    batches: Iterable[CalibrationBatch]
    ratio: float
    sequence_length: float
    config: PruningConfig
    statistics_kind: str
    calibration: Calibration
    round_to: int = 1
    seed: int = 0
    sketch: Sketch | None = None
    latency: LatencyTable | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def sized(self, allocate: Callable[[Budget], Sizes], neurons: Sequence[Vector]) -> Sizes:
        """What an allocation gives for the budget, in MACs or in time, with neurons rounded.

        Args:
            allocate: The allocation.
            neurons: Scores of the neurons, as `round_neurons` takes them.

        Raises:
            BudgetError: Nothing to prune, or a ratio that cannot be met.
        """
        costs = unit_costs(self.adapter, self.sequence_length)
        if self.config.neuron_mac_share is not None:
            costs = costs.with_neuron_share(self.config.neuron_mac_share)
        table = self.latency
        if table is not None:
            costs = table.prices(costs)
        budget = Budget(costs, self.ratio, self.config.min_units, self.config.kinds)

        def rounded(budget: Budget) -> Sizes:
            return final_sizes(allocate(budget), neurons, budget, self.round_to)

        return rounded(budget) if table is None else within_latency(budget, table, rounded)

    def statistics_of(self, site: Site) -> SiteStatistics:
        """Dense statistics of a site."""
        return self.calibration.statistics[site.key]


@dataclass(frozen=True)
class MethodOutput:
    """A complete plan and the tensors that carry it out.

    Attributes:
        plan: Kept units of all layers.
        edits: New consumers of the sites that lose units.
        norms: New parameters of norms of the stream, by the norm's and the parameter's name.
    """

    plan: PruningPlan
    edits: tuple[SiteEdit, ...]
    norms: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def errors(self) -> dict[tuple[int, SiteKind], float | None]:
        """Relative errors of the edited sites."""
        return {edit.site.key: edit.relative_error for edit in self.edits}


# Plan and edits for one model and one ratio.
Prune = Callable[[MethodInput], MethodOutput]
