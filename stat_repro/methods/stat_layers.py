"""STAT layer by layer: the steps and results of `methods.stat`, in the memory of one layer.

1. All batches go through the dense layers, one after the other. Of each layer's statistics only its
   analysis stays; the FFN's Gram matrix, which folding needs again, waits in a file.
2. Sizes are allocated.
3. All batches go through the layers again. In each the FFN is folded first, so that the batches
   leave it as they leave the model with folded FFNs; the head statistics taken on the way give the
   kept heads and their fold.

At any time one layer's weights, its statistics with the workspace of one factorisation, and one
batch of activations are in use. Hidden states wait in memory, or in files if a folder is given.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import psutil
import torch

from stat_repro.allocation.allocate import Sizes
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.capture import Calibration, Reduction
from stat_repro.calibration.layerwise import LayerPasses
from stat_repro.calibration.spill import (
    FileStore,
    MemoryStore,
    TensorStore,
    get_gram,
    gram_file_bytes,
    put_gram,
)
from stat_repro.calibration.statistics import GramStatistics, SiteStatistics
from stat_repro.config import LEAST_SQUARES
from stat_repro.measure import return_free_memory
from stat_repro.methods import stat
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, output_of, warn_of_few_tokens
from stat_repro.methods.correction import fold_site
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.devices import float64_home, spare_memory
from stat_repro.models.modes import LayerWeights
from stat_repro.progress import track
from stat_repro.scratch import scratch
from stat_repro.surgery.edit import SiteEdit, evenly_sized, temporarily_pruned

log = logging.getLogger("stat_repro")


def prune_by_layers(request: MethodInput, spill: str | Path | None) -> MethodOutput:
    """Plan and edits of STAT for a model in memory; equal to those of `methods.stat.prune`.

    Args:
        request: Its `calibration` needs to hold the counts only.
        spill: Folder for hidden states and Gram matrices; None keeps the hidden states in memory
            and Gram matrices in the system's folder for temporary files.
    """
    with working_folder(request.adapter, spill, request.device) as folder:
        layers = LayerwiseStat(
            request, LayerWeights(), folder, request.device, in_files=spill is not None
        )
        sizes = layers.sizes()
        edits = [edit for of_layer in layers.fold(sizes) for edit in of_layer]
    return output_of(request, edits, sizes.details)


@contextmanager
def working_folder(
    adapter: Adapter, spill: str | Path | None, device: torch.device
) -> Iterator[Path | None]:
    """A new folder for what waits, removed at the end whatever happens.

    Args:
        adapter: The model's adapter, for the size of its Gram matrices.
        spill: Where the folder is made; None for the system's folder for temporary files.
        device: Where layers run. Without `spill`, a GPU leaves its Gram matrices to the host's
            memory if they take no more than half of what is free there, and there is no folder.

    Raises:
        CalibrationError: No such folder, a read-only one, or too little room for the Gram matrices.
    """
    place = Path(tempfile.gettempdir() if spill is None else spill).expanduser()
    if not place.is_dir():
        raise CalibrationError(f"spill={spill}: expected an existing folder")
    needed = sum(gram_file_bytes(site.columns) for site in adapter.of_kind("ffn"))
    if spill is None and device.type == "cuda" and 2 * needed < psutil.virtual_memory().available:
        log.info("Gram matrices of the FFNs take %.1f GB of the host's memory", needed / 1e9)
        yield None
        return
    if not os.access(place, os.W_OK):
        raise CalibrationError(f"spill={place}: expected a folder that can be written to")
    with scratch(place, "stat_repro", folder=True) as folder:
        folder.chmod(0o700)  # the temporary files of a system are in a place for all users
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise CalibrationError(
                f"{place}: expected {needed / 1e9:.1f} GB of free space for the Gram "
                f"matrices of the FFNs; got {free / 1e9:.1f} GB (give another folder: spill)"
            )
        log.info("Gram matrices of the FFNs take %.1f GB in %s", needed / 1e9, folder)
        yield folder


@dataclass
class LayerwiseStat:
    """The two passes; `sizes`, then `fold`.

    Attributes:
        request: What the method is given; its `calibration` needs to hold the counts only.
        weights: Brings layers into memory.
        folder: For files, removed by whoever made it; None if nothing waits in files.
        device: Where layers run.
        in_files: Whether hidden states wait in files.
    """

    request: MethodInput
    weights: LayerWeights
    folder: Path | None
    device: torch.device
    _: KW_ONLY
    in_files: bool

    def __post_init__(self) -> None:
        request, weights = self.request, self.weights
        files = None if self.folder is None else FileStore(self.folder)
        self._grams: TensorStore = files or MemoryStore()
        in_memory = MemoryStore(spare_memory(self.device) // 4)
        store = files if self.in_files and files else in_memory
        self._passes = LayerPasses(
            request.model, request.adapter, weights, request.batches, store, self.device
        )
        self._analyses: dict[Key, stat.SiteAnalysis] = {}
        # Statistics of the FFNs without their Gram matrices.
        self._others: dict[int, GramStatistics] = {}

    def sizes(self) -> Sizes:
        """First pass and allocation: what every layer keeps."""
        request, watch = self.request, self.request.watch
        model, config = request.model, request.config
        with watch.stage("calibrate_s"):
            self._passes.start()
        for layer in track(range(request.adapter.num_layers), "dense layers", unit="layers"):
            with self.weights.layer(layer):
                sites = [request.adapter.site(layer, kind) for kind in ("attention", "ffn")]
                calibration = self._statistics(layer, sites, "calibrate_s")
                with watch.stage("errors_s"):
                    self._analyses |= stat.site_analyses(model, sites, calibration, config)
                with watch.stage("spill_s"):
                    self._spill(layer, calibration)
                del calibration  # before the next layer comes
            return_free_memory()
        with watch.stage("allocate_s"):
            return stat.allocate(self._analyses, request)

    def fold(self, sizes: Sizes) -> Iterator[list[SiteEdit]]:
        """Second pass: the edits of one layer after the other, attention before FFN."""
        request, watch = self.request, self.request.watch
        model, adapter, config = request.model, request.adapter, request.config
        if config.correction in LEAST_SQUARES:
            tokens = request.calibration.tokens
            warn_of_few_tokens(adapter.of_kind("ffn"), sizes.neurons, tokens)
        with watch.stage("recalibrate_s"):
            self._passes.start()
        for layer in track(range(adapter.num_layers), "folding layers", unit="layers"):
            attention, ffn = (adapter.site(layer, kind) for kind in ("attention", "ffn"))
            with self.weights.layer(layer):
                with watch.stage("fold_ffn_s"):
                    edits = [self._fold_ffn(ffn, sizes.neurons[layer])]
                with temporarily_pruned(model, evenly_sized(edits, self.device)):
                    calibration = self._statistics(layer, [attention], "recalibrate_s")
                if attention.units:
                    with watch.stage("fold_heads_s"):
                        kept = stat.head_order(attention, calibration)[: sizes.heads[layer]]
                        edits.insert(0, fold_site(model, attention, kept, calibration, config))
                del calibration
            return_free_memory()
            yield edits

    def _statistics(self, layer: int, sites: list[Site], stage: str) -> Calibration:
        """Statistics of sites of a layer; the batches move on behind it."""
        with self.request.watch.stage(stage):
            reduction = Reduction(sites, self.device)
            self._passes.advance(layer, reduction, f"statistics of layer {layer}")
            calibration = reduction.finish()
        return_free_memory()
        return calibration

    def _spill(self, layer: int, calibration: Calibration) -> None:
        statistics = calibration.statistics.get((layer, "ffn"))
        if isinstance(statistics, GramStatistics):
            put_gram(self._grams, f"gram-{layer}", statistics.gram)
            self._others[layer] = replace(statistics, gram=torch.empty(0))

    def _fold_ffn(self, site: Site, kept: int) -> SiteEdit:
        request, analysis = self.request, self._analyses[site.key]
        statistics: dict[Key, SiteStatistics] = {}
        if kept < site.units:
            home = float64_home(self.device)
            gram = get_gram(self._grams, f"gram-{site.layer}", site.columns, home)
            statistics[site.key] = replace(self._others[site.layer], gram=gram)
        calibration = replace(request.calibration, statistics=statistics)
        units, config = analysis.order[:kept], request.config
        return fold_site(request.model, site, units, calibration, config, analysis.norm)
