"""What is timed: compression by stages, its bare forward passes, and one FFN the authors' way."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property

import scipy.linalg
import torch
from transformers import PreTrainedModel

from stat_repro import measure
from stat_repro.api import Compression, calibrate, compress
from stat_repro.calibration.batches import CalibrationBatch
from stat_repro.calibration.capture import collect_statistics
from stat_repro.calibration.collectors import GramSum
from stat_repro.calibration.statistics import ActivationStatistics
from stat_repro.models.adapter import Adapter, Site, adapter_for
from stat_repro.models.projections import linear
from stat_repro.scratch import scratch
from stat_repro.surgery.checkpoint import save_pruned
from stat_repro.surgery.edit import SiteEdit, evenly_sized, temporarily_pruned

# Stages of `compress` that are stored by their own names; together with `calibrate_s` they are all
# of it but for bookkeeping.
COMPRESSION_STAGES = (
    *("calibrate_s", "errors_s", "allocate_s", "fold_ffn_s"),
    *("recalibrate_s", "fold_heads_s", "surgery_s"),
)


@dataclass
class Bench:
    """One model, its batches, and the measurements of one turn.

    Attributes:
        model: In evaluation mode; not changed.
        batches: Inputs without padding.
        authors_tokens: Rows of the FFN that is decomposed the authors' way; 0 leaves it out.
        options: `ratio` and `engine` of the command, as in `compress`; `sweep`, ratios of a sweep
            that shares one calibration, may be empty; `save`, a folder that the pruned model is
            saved in and removed from again, or None.
    """

    model: PreTrainedModel
    batches: Sequence[CalibrationBatch]
    authors_tokens: int
    options: argparse.Namespace

    @cached_property
    def adapter(self) -> Adapter:
        """The model's adapter."""
        return adapter_for(self.model)

    def turn(self) -> tuple[dict[str, float], dict[str, int | None]]:
        """Seconds of every stage, and peak memory in bytes, each measured once."""
        device, asked = self.model.device, self.options
        watch = measure.Stopwatch(device)
        memory: dict[str, int | None] = {}
        with watch.stage("forward_s"), _peak(memory, "forward", device):
            self.forward(self.batches)
        with watch.stage("compress_s"), _peak(memory, "compress", device):
            result = compress(self.model, self.batches, ratio=asked.ratio, engine=asked.engine)
        with self._folded(result), watch.stage("forward_folded_s"):
            self.forward(self.batches)
        if asked.save is not None:
            place = scratch(asked.save, "stat_repro_bench", folder=True)
            with watch.stage("save_s"), place as folder:
                save_pruned(result.model, folder / "pruned", plan=result.plan, base_model="random")
        if asked.sweep:
            with watch.stage("sweep_s"):
                shared = calibrate(self.model, self.batches)
                for ratio in asked.sweep:
                    compress(self.model, self.batches, ratio=ratio, calibration=shared)
        if self.authors_tokens:
            self._ffn_both_ways(result, watch)
        stages = {key: result.report.timings[key] for key in COMPRESSION_STAGES}
        return {**watch.seconds, **stages}, memory

    @torch.inference_mode()
    def forward(self, batches: Sequence[CalibrationBatch]) -> None:
        """The passes that calibration makes, without taking anything from them."""
        options = {"use_cache": False} if self.adapter.layout.decoder else {}
        backbone = self.model.get_submodule(self.adapter.backbone)
        for batch in batches:
            backbone(**batch, **options)

    def _folded(self, result: Compression) -> AbstractContextManager[None]:
        """The model of the second pass: FFNs folded, heads whole."""
        edits = []
        for site in self.adapter.of_kind("ffn"):
            weight = linear(result.model, site.consumer).weight.detach()
            edits.append(SiteEdit(site, result.plan.layers[site.layer].kept_neurons, weight))
        return temporarily_pruned(self.model, evenly_sized(edits, self.model.device))

    def _ffn_both_ways(self, result: Compression, watch: measure.Stopwatch) -> None:
        """The first layer's FFN after its forward pass: Gram matrix, and QR of what was stored."""
        site, rows = self.adapter.site(0, "ffn"), self._rows
        weight = linear(self.model, site.consumer).weight.detach()
        kept = len(result.plan.layers[0].kept_neurons)
        there = rows.to(self.model.device)
        with watch.stage("gram_ffn_s"):
            by_gram(there, weight, kept, site)
        del there
        # On the CPU, as the authors do it; SciPy has no half-precision types.
        rows, weight = (
            t.cpu().float() if t.dtype.itemsize < 4 else t.cpu() for t in (rows, weight)
        )
        with watch.stage("authors_ffn_s"):
            by_authors(rows, weight, kept)

    @cached_property
    def _rows(self) -> torch.Tensor:
        """Activations of the first layer's FFN."""
        site = self.adapter.site(0, "ffn")
        # No more batches than rows are needed.
        per_batch = self.batches[0]["input_ids"].numel()
        enough = self.batches[: -(-self.authors_tokens // per_batch)]
        calibration = collect_statistics(
            self.model, self.adapter, enough, sites=[site], statistics="exact"
        )
        stored = calibration.statistics[site.key]
        assert isinstance(stored, ActivationStatistics)
        return stored.activations[: self.authors_tokens]


def by_gram(rows: torch.Tensor, weight: torch.Tensor, kept: int, site: Site) -> torch.Tensor:
    """New consumer of an FFN from its activations (n, F): sum, pivots and fold in float64."""
    collector = GramSum(site, rows.device)
    collector.add(rows)
    statistics = collector.finish()
    order = statistics.pivot_columns(weight.double().norm(dim=0)).order
    return statistics.fold(weight, order[:kept], 0.0)


def by_authors(rows: torch.Tensor, weight: torch.Tensor, kept: int) -> torch.Tensor:
    """The same as STAT's released code does it: LAPACK's pivoted QR of the stored activations.

    In the model's data type. Only R is computed, which favours this side.
    """
    scale = weight.norm(dim=0)
    r, order = scipy.linalg.qr(
        (rows * scale).numpy(), mode="r", pivoting=True, overwrite_a=True, check_finite=False
    )
    tail = scipy.linalg.solve_triangular(r[:kept, :kept], r[:kept, kept:])
    read = (weight / scale).numpy()[:, order]  # the consumer of the scaled activations
    folded = (read[:, :kept] + read[:, kept:] @ tail.T) * scale.numpy()[order[:kept]]
    return torch.from_numpy(folded)


@contextmanager
def _peak(peaks: dict[str, int | None], name: str, device: torch.device) -> Iterator[None]:
    """Peak resident memory inside the `with`, above that before; None if the system has none.

    On a CUDA device also all that its allocator has handed out at once, the model included.
    """
    measure.reset_cuda_peak_memory(device)
    before = measure.process_peak_rss_bytes() if measure.reset_process_peak_rss() else None
    yield
    after = measure.process_peak_rss_bytes()
    peaks[name] = None if before is None or after is None else after - before
    if (peak := measure.peak_memory(device).get("cuda_peak_allocated_bytes")) is not None:
        peaks[f"{name}_device"] = peak
