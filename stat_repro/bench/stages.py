"""What is timed: compression by stages, its bare forward passes, and one FFN the authors' way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import scipy.linalg
import torch
from transformers import PreTrainedModel

import stat_repro
from stat_repro.api import Compression
from stat_repro.calibration.batches import CalibrationBatch
from stat_repro.calibration.capture import collect_statistics
from stat_repro.calibration.collectors import GramSum
from stat_repro.measure import (
    Stopwatch,
    peak_memory,
    process_peak_rss_bytes,
    reset_cuda_peak_memory,
    reset_process_peak_rss,
)
from stat_repro.models.adapter import Adapter, Site, adapter_for, linear
from stat_repro.scratch import scratch
from stat_repro.surgery.checkpoint import save_pruned
from stat_repro.surgery.edit import SiteEdit, temporarily_pruned

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
        ratio: Share of the prunable MACs that is removed.
        sweep: Ratios of a sweep that shares one calibration; may be empty.
        authors_tokens: Rows of the FFN that is decomposed the authors' way; 0 leaves it out.
        engine: As in `compress`.
        save: Folder that the pruned model is saved in and removed from again; None leaves it out.
    """

    model: PreTrainedModel
    batches: Sequence[CalibrationBatch]
    ratio: float
    sweep: Sequence[float]
    authors_tokens: int
    engine: str = "model"
    save: Path | None = None

    @cached_property
    def adapter(self) -> Adapter:
        """The model's adapter."""
        return adapter_for(self.model)

    def turn(self) -> tuple[dict[str, float], dict[str, int | None]]:
        """Seconds of every stage, and peak memory in bytes, each measured once."""
        device = self.model.device
        watch = Stopwatch(device)
        memory: dict[str, int | None] = {}
        with watch.stage("forward_s"), _peak(memory, "forward", device):
            self._forward(self.batches)
        with watch.stage("compress_s"), _peak(memory, "compress", device):
            result = self._compressed(self.ratio)
        with self._folded(result), watch.stage("forward_folded_s"):
            self._forward(self.batches)
        if self.save is not None:
            with (
                watch.stage("save_s"),
                scratch(self.save, "stat_repro_bench", folder=True) as folder,
            ):
                save_pruned(result.model, folder / "pruned", plan=result.plan, base_model="random")
        seconds = {**watch.seconds, **{k: result.report.timings[k] for k in COMPRESSION_STAGES}}
        if self.sweep:
            seconds["sweep_s"] = self._sweep_seconds()
        if self.authors_tokens:
            seconds |= self._ffn_both_ways(result)
        return seconds, memory

    def wake(self) -> None:
        """One batch, so that libraries and kernels are loaded before the clock starts."""
        self._forward(self.batches[:1])

    def _compressed(self, ratio: float) -> Compression:
        return stat_repro.compress(self.model, self.batches, ratio=ratio, engine=self.engine)

    @torch.inference_mode()
    def _forward(self, batches: Sequence[CalibrationBatch]) -> None:
        """The passes that calibration makes, without taking anything from them."""
        options = {"use_cache": False} if self.adapter.decoder else {}
        backbone = self.model.get_submodule(self.adapter.backbone)
        for batch in batches:
            backbone(**batch, **options)

    def _folded(self, result: Compression) -> AbstractContextManager[None]:
        """The model of the second pass: FFNs folded, heads whole."""
        sites = self.adapter.of_kind("ffn")
        edits = []
        for site in sites:
            weight = linear(result.model, site.consumer).weight.detach()
            edits.append(SiteEdit(*site.key, result.plan.layers[site.layer].kept_neurons, weight))
        return temporarily_pruned(self.model, sites, edits)

    def _sweep_seconds(self) -> float:
        watch = Stopwatch(self.model.device)
        with watch.stage("sweep_s"):
            shared = stat_repro.calibrate(self.model, self.batches)
            for ratio in self.sweep:
                stat_repro.compress(self.model, self.batches, ratio=ratio, calibration=shared)
        return watch.seconds["sweep_s"]

    def _ffn_both_ways(self, result: Compression) -> dict[str, float]:
        """The first layer's FFN after its forward pass: Gram matrix, and QR of what was stored."""
        site, rows = self.adapter.site(0, "ffn"), self._rows
        weight = linear(self.model, site.consumer).weight.detach()
        kept = len(result.plan.layers[0].kept_neurons)
        watch, there = Stopwatch(self.model.device), rows.to(self.model.device)
        with watch.stage("gram_ffn_s"):
            by_gram(there, weight, kept, site)
        del there
        # On the CPU, as the authors do it; SciPy has no half-precision types.
        rows, weight = (
            t.cpu().float() if t.dtype.itemsize < 4 else t.cpu() for t in (rows, weight)
        )
        with watch.stage("authors_ffn_s"):
            by_authors(rows, weight, kept)
        return watch.seconds

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
        return calibration.statistics[0, "ffn"].values[: self.authors_tokens]


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
    reset_cuda_peak_memory(device)
    before = process_peak_rss_bytes() if reset_process_peak_rss() else None
    yield
    after = process_peak_rss_bytes()
    peaks[name] = None if before is None or after is None else after - before
    if (peak := peak_memory(device).get("cuda_peak_allocated_bytes")) is not None:
        peaks[f"{name}_device"] = peak
