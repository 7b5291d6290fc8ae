"""What a compression cost and what it did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from stat_repro.allocation.costs import prunable_costs
from stat_repro.methods.base import MethodInput
from stat_repro.plan import PruningPlan, SiteKind


@dataclass(frozen=True)
class SiteFit:
    """How well one site's edit fits on the calibration data.

    Attributes:
        relative_error: As in `surgery.edit.SiteEdit`.
    """

    layer: int
    kind: SiteKind
    units: int
    kept: int
    relative_error: float | None


@dataclass(frozen=True)
class CompressionReport:
    """What the compression cost and what it did.

    Attributes:
        ratio: Share of the prunable MACs that was asked to be removed.
        round_to: What the neurons kept per layer were rounded to; 1: not rounded.
        sequence_length: Mean tokens per example that MACs were counted at.
        calibration_examples: Rows of the calibration batches.
        calibration_tokens: Tokens in them, padding excluded.
        prunable_macs: (dense, pruned) MACs per token of attention and FFN projections and of the
            attention products.
        prunable_params: (dense, pruned) parameters of those projections.
        params: (dense, pruned) parameters of the whole model.
        site_errors: Relative output error of every site on the calibration data, of `refit` before
            it; with `statistics="sketch"` on the sketch, which is too small an error, as the
            weights are fitted to these few rows.
        timings: Seconds per stage; `compress_s` is the whole. Where an earlier ratio of the same
            calibration had done a part already, `shared_s` of the stages' time was saved, and is
            not in `compress_s`.
    """

    ratio: float
    round_to: int
    sequence_length: float
    calibration_examples: int
    calibration_tokens: int
    prunable_macs: tuple[float, float]
    prunable_params: tuple[int, int]
    params: tuple[int, int]
    site_errors: tuple[SiteFit, ...]
    timings: dict[str, float]

    @property
    def mac_kept_fraction(self) -> float:
        """Share of the prunable MACs that is left."""
        return self.prunable_macs[1] / self.prunable_macs[0]

    @property
    def param_kept_fraction(self) -> float:
        """Share of all parameters of the model (embeddings included) that is left."""
        return self.params[1] / self.params[0]

    @property
    def summary(self) -> dict[str, Any]:
        """What the model card says of the compression: `record_summary` of `save_pruned`."""
        return {
            "ratio": self.ratio,
            "mac_kept_fraction": self.mac_kept_fraction,
            "param_kept_fraction": self.param_kept_fraction,
            "parameters": dict(zip(("dense", "pruned"), self.params, strict=True)),
            "calibration": {
                "examples": self.calibration_examples,
                "tokens": self.calibration_tokens,
            },
        }


def report_of(
    request: MethodInput,
    pruned: PreTrainedModel,
    plan: PruningPlan,
    errors: Mapping[tuple[int, SiteKind], float | None],
) -> CompressionReport:
    """The report of a compression.

    Args:
        request: What was asked for, with the seconds of all stages.
        pruned: The pruned model; of it and of the dense one only the sizes are read.
        plan: Its plan.
        errors: Relative errors of the edited sites.
    """
    dense = prunable_costs(request.adapter, request.sequence_length)
    small = prunable_costs(request.adapter, request.sequence_length, plan)
    return CompressionReport(
        ratio=request.ratio,
        round_to=request.round_to,
        sequence_length=request.sequence_length,
        calibration_examples=request.calibration.examples,
        calibration_tokens=request.calibration.tokens,
        prunable_macs=(dense.macs, small.macs),
        prunable_params=(dense.params, small.params),
        params=(request.model.num_parameters(), pruned.num_parameters()),
        site_errors=tuple(
            SiteFit(i, kind, plan.layers[i].units(kind), len(plan.layers[i].kept(kind)), error)
            for (i, kind), error in errors.items()
        ),
        timings=request.watch.seconds,
    )
