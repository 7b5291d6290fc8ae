"""Consumers fitted once more, front to back, to the dense model's residual stream.

The corrections of `methods.correction` are fitted to the dense model's activations, one site at a
time. In the pruned model every site reads what the sites before it have changed. Here all batches
pass through the dense and the pruned layers side by side, and every consumer is moved towards the
output that would give the dense stream behind it, so that it makes up for the error of this site
and of those before it:

    minimise  sum over tokens of w (s_dense - s_pruned - D a - d)^2 + ridge ||D||^2

with a what the pruned consumer reads and w the inverse mean square of s_dense: errors count as the
norm that follows sees them, and a few tokens with massive activations do not outweigh all others.
A share `STEP` of D and d is taken.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from stat_repro.calibration.layerwise import LayerPasses, StreamRecorder
from stat_repro.calibration.spill import MemoryStore
from stat_repro.linalg.refit import RefitSums
from stat_repro.methods.base import MethodInput
from stat_repro.methods.common import Key
from stat_repro.methods.correction import moved
from stat_repro.models.adapter import Site
from stat_repro.models.devices import float64_home
from stat_repro.models.modes import LayerWeights
from stat_repro.models.projections import linear
from stat_repro.parallel import sum_over_ranks
from stat_repro.progress import track
from stat_repro.surgery.edit import SiteEdit, temporarily_pruned

# Trials on MiniLM (movie_reviews, validation part, 512 calibration sentences): the whole step
# over-corrects, and a weaker ridge fits the calibration sentences instead of the model.
STEP = 0.5
RIDGE = 0.05


def refit_to_stream(request: MethodInput, edits: Mapping[Key, SiteEdit]) -> dict[Key, SiteEdit]:
    """The edits with consumers that also make up for the sites before them.

    Holds the hidden states of all calibration tokens twice and one layer's targets: four vectors
    of the model's width per token.

    Args:
        request: What the method was given.
        edits: One for every site with units, fitted to the dense model.

    Returns:
        One for each of them, with the same kept units.
    """
    adapter, model = request.adapter, request.model
    dense, pruned = (
        LayerPasses(model, adapter, LayerWeights(), request.batches, MemoryStore(), request.device)
        for _ in range(2)
    )
    dense.start()
    pruned.start()
    refitted: dict[Key, SiteEdit] = {}
    for layer in track(range(adapter.num_layers), "fitting to the dense stream", unit="layers"):
        sites = [adapter.site(layer, kind) for kind in ("attention", "ffn")]
        targets = _dense_streams(request, dense, layer, sites)
        done: list[SiteEdit] = []
        for site in (site for site in sites if site.units):
            edit = edits[site.key]
            with temporarily_pruned(model, [*done, edit]):
                sums = _sums(request, pruned, site, targets[site.kind])
            done.append(_moved(request, edit, sums))
            refitted[site.key] = done[-1]
        if layer < adapter.num_layers - 1:
            with temporarily_pruned(model, done):
                passing = StreamRecorder(adapter, layer, [], lambda *_: None)
                pruned.advance(layer, passing, f"pruned layer {layer}")
    return refitted


def _dense_streams(
    request: MethodInput, passes: LayerPasses, layer: int, sites: list[Site]
) -> dict[str, list[torch.Tensor]]:
    """The dense stream behind each site, per batch (n, D), on the CPU; batches move on."""
    streams: dict[str, list[torch.Tensor]] = {site.kind: [] for site in sites}

    def keep(site: Site, inputs: torch.Tensor, stream: torch.Tensor) -> None:
        streams[site.kind].append(stream.cpu())

    wanted = [site for site in sites if site.units]
    recorder = StreamRecorder(request.adapter, layer, wanted, keep)
    passes.advance(layer, recorder, f"dense layer {layer}")
    return streams


def _sums(
    request: MethodInput, passes: LayerPasses, site: Site, targets: list[torch.Tensor]
) -> RefitSums:
    """Sums of the refit of one site; the batches stay in front of its layer."""
    consumer = linear(request.model, site.consumer)
    home = float64_home(consumer.weight.device)
    sums = RefitSums.empty(consumer.in_features, consumer.out_features, home)
    waiting = iter(targets)

    def add(_: Site, inputs: torch.Tensor, stream: torch.Tensor) -> None:
        wanted = next(waiting).to(home, torch.float64)
        weights = 1.0 / wanted.square().mean(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        missing = wanted - stream.to(home, torch.float64)
        sums.add(inputs.to(home, torch.float64), missing, weights)

    recorder = StreamRecorder(request.adapter, site.layer, [site], add, stop=site)
    passes.advance(site.layer, recorder, f"{site.kind} of pruned layer {site.layer}")
    sum_over_ranks([sums.products, sums.cross, sums.inputs, sums.targets, sums.total])
    return sums


def _moved(request: MethodInput, edit: SiteEdit, sums: RefitSums) -> SiteEdit:
    """The edit, a step towards the fit."""
    weight_change, bias_change = sums.solve(RIDGE)
    weight, bias = edit.consumer_weight, edit.consumer_bias
    if bias is None:
        bias = linear(request.model, edit.site.consumer).bias
    return replace(
        edit,
        consumer_weight=moved(weight, STEP * weight_change, weight),
        consumer_bias=moved(bias, STEP * bias_change, weight),
    )
