"""A table of latencies for `pruning.budget=latency`, measured on the device that the model is on.

The whole model runs, with some number of units in every layer (all where it has fewer); what more
units take in one layer is the difference to fewer, by the number of layers that have so many. Times
are shares of the dense model's in the same turn, so that a machine that changes its pace changes
none.
"""

import hashlib
import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from stat_repro.allocation.latency import LatencyTable
from stat_repro.assets.cache import build_once
from stat_repro.cost.compare import random_inputs
from stat_repro.cost.latency import time_in_turns
from stat_repro.measure import processor_name
from stat_repro.models.adapter import Site, adapter_for
from stat_repro.models.modes import evaluating
from stat_repro.models.projections import linear
from stat_repro.models.settings import settings_of
from stat_repro.paths import cache_dir
from stat_repro.plan import SiteKind
from stat_repro.progress import track
from stat_repro.surgery.edit import SiteEdit, temporarily_pruned

_FILE = "table.json"
_TURNS = 7
# Passes of one model in one turn, as many as fit into this time; the quickest counts, because other
# work on the machine makes some of them slower.
_TURN_S, _LEAST, _MOST = 0.3, 3, 20
_KINDS: tuple[SiteKind, SiteKind] = ("attention", "ffn")
# Shares of a layer's units that are timed.
_SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


def latency_table(
    model: PreTrainedModel, batch: int, length: int, round_to: int = 1
) -> LatencyTable:
    """The table of this model shape, from the cache or measured now.

    Args:
        model: Dense; left as it is.
        batch: Examples per forward pass.
        length: Tokens per example.
        round_to: What the neurons kept per layer are rounded to; where 1, odd widths are timed, as
            plans have them.
    """
    adapter, device = adapter_for(model), model.device
    units = {kind: [s.units for s in adapter.of_kind(kind)] for kind in _KINDS}
    measured_on: dict[str, Any] = {
        "model": type(model).__name__,
        "hidden_size": model.config.hidden_size,
        "heads": units["attention"],
        "neurons": units["ffn"],
        "head_width": adapter.sites[0].width,
        "attention": model.config._attn_implementation,
        "vocabulary": model.config.vocab_size,
        "batch_size": batch,
        "sequence_length": length,
        "round_to": round_to,
        "device": str(device),
        "processor": processor_name(device),
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters()}
    described = [measured_on, settings_of(model.config), shapes]
    text = json.dumps(described, sort_keys=True, default=str)
    key = f"latency-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def build(folder: Path) -> None:
        folder.mkdir()
        times = _measured(model, random_inputs(model, batch, length), round_to)
        (folder / _FILE).write_text(json.dumps(times) + "\n", encoding="utf-8")

    folder = build_once(key, build, cache_dir() / "latency" / key)
    times = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    heads, neurons = (tuple((u, s) for u, s in times[kind]) for kind in _KINDS)
    return LatencyTable(heads, neurons, times["dense_s"], measured_on)


def _grid(units: int, round_to: int, kind: SiteKind) -> list[int]:
    """Numbers of units that are timed, from none to all."""
    if kind == "attention":
        return sorted({round(share * units) for share in _SHARES})
    inner = {int(share * units) // round_to * round_to for share in _SHARES[1:-1]}
    odd = {width | 1 for width in inner} if round_to == 1 else inner
    return sorted({0, *(width for width in odd if 0 < width < units), units})


def _measured(model: PreTrainedModel, inputs: dict[str, Any], round_to: int) -> dict[str, Any]:
    """Seconds beyond no units per layer, by kind and units; and of the dense model."""
    adapter, device = adapter_for(model), model.device
    sizes = {kind: [site.units for site in adapter.of_kind(kind)] for kind in _KINDS}
    # With the layers' own sizes: between two places of the grid no layer comes to its end.
    grids = {
        kind: sorted({*_grid(max(units), round_to, kind), *units}) for kind, units in sizes.items()
    }

    def seconds(repeats: int) -> float:
        (times,) = time_in_turns([lambda: model(**inputs)], device, 1, repeats)
        return min(times)

    def shares(repeats: int, whole: float) -> dict[SiteKind, list[float]]:
        """Of the dense model's time, by kind and place in the grid."""
        by_kind: dict[SiteKind, list[float]] = {kind: [] for kind in _KINDS}
        for kind in _KINDS:
            for units in grids[kind][:-1]:
                edits = [_first_units(model, site, units) for site in adapter.of_kind(kind)]
                with temporarily_pruned(model, edits):
                    by_kind[kind].append(seconds(repeats) / whole)
        return by_kind

    with evaluating(model), torch.inference_mode():
        repeats = min(_MOST, max(_LEAST, int(_TURN_S / seconds(1))))
        turns = track(range(_TURNS), "measuring latencies by units", unit="turns")
        dense, timed = zip(
            *((whole := seconds(repeats), shares(repeats, whole)) for _ in turns), strict=True
        )
    times: dict[str, Any] = {"dense_s": (dense_s := statistics.median(dense))}
    for kind in _KINDS:
        columns = zip(*(turn[kind] for turn in timed), strict=True)
        middle = [*(statistics.median(column) for column in columns), 1.0]
        # A pass with more units that was faster is noise.
        rising = [min(middle[i:]) for i in range(len(middle))]
        beyond = [0.0]
        for fewer, (low, high) in zip(grids[kind], pairwise(rising), strict=False):
            layers = sum(units > fewer for units in sizes[kind])
            beyond.append(beyond[-1] + dense_s * (high - low) / layers)
        times[kind] = list(zip(grids[kind], beyond, strict=True))
    return times


def _first_units(model: PreTrainedModel, site: Site, units: int) -> SiteEdit:
    """The first units of a site, with the weights that they have; fewer if it has fewer."""
    kept = min(units, site.units)
    weight = linear(model, site.consumer).weight.detach()[:, : kept * site.width]
    return SiteEdit(site, tuple(range(kept)), weight)
