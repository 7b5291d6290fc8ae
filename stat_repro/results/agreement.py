"""Whether a run that was measured again found what its record says.

On the same platform plan, counts and metrics are compared exactly; elsewhere floating-point sums
round differently, and `TOLERANCES` says by how much each may differ. Not compared are times,
memory, the errors of the sites, the wording of the protocol, and values per example.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from stat_repro.results.record import BEFORE_RECOVERY, RunRecord
from stat_repro.results.store import flatten

SAME, WITHIN, DIFFERS = "same", "within tolerance", "differs"
OTHER_WEIGHTS, OTHER_DATA = "other dense weights", "other data"

# What makes a platform, as keys of the provenance; a record that lacks one may be of another.
_PLATFORM = ("machine", "processor", "threads", "device", "packages.torch")
# How far values may be apart on another platform: absolutely, or relative to the larger one.
TOLERANCES = {
    "heads": (0.0, 0.05),
    "neurons": (0.0, 0.02),
    "counts": (0.0, 0.005),
    "kl": (1e-5, 0.05),
    "mse_to_dense": (1e-5, 0.05),
    "perplexity": (0.0, 0.01),
    "nll": (0.0, 0.01),
    "others": (0.01, 0.0),  # shares of the examples, and correlations
}

# What differs in words, and whether another platform may explain it.
Difference = tuple[str, bool]


def judge(stored: RunRecord, measured: RunRecord) -> tuple[str, str]:
    """The verdict on a run that was measured again, and what it rests on.

    Args:
        stored: Its record.
        measured: The record of the new measurement.

    Returns:
        One of `SAME`, `WITHIN`, `DIFFERS`, `OTHER_WEIGHTS` (the dense model is not the one of the
        record, so all that follows is another run) and `OTHER_DATA` (likewise); and the platform
        with every difference, on one line.
    """
    then, now = (record.provenance for record in (stored, measured))
    parts = [k for k, digest in then["data_hashes"].items() if now["data_hashes"].get(k) != digest]
    different = [(f"other {part} examples", False) for part in parts]
    different += [*_plan(stored, measured), *_counts(stored, measured)]
    models = [str(provenance["model_hash"])[:10] for provenance in (then, now)]
    if models[0] != models[1] or set(parts) - {"calibration"}:
        verdict = OTHER_DATA
        texts = [*(text for text, _ in different), *_scores(stored, measured)]
        if models[0] != models[1]:
            verdict, trained = OTHER_WEIGHTS, " of a head trained here" if now["finetuned"] else ""
            texts.insert(0, f"sha256 {models[0]} -> {models[1]}{trained}")
        return verdict, "; ".join(texts)
    different += _metrics(stored, measured)
    others = _platform(then, now)
    tolerated = bool(others) and all(may for _, may in different)
    platform = f"another platform ({', '.join(others)})" if others else "same platform"
    verdict = SAME if not different else WITHIN if tolerated else DIFFERS
    return verdict, "; ".join([platform, *(text for text, _ in different)])


def _platform(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What tells the platform from that of the record, in words."""
    old, new = (dict(flatten(provenance, "")) for provenance in (then, now))
    return [
        f"{key} {old.get(key, 'not in the record')}, here {new.get(key)}"
        for key in _PLATFORM
        if old.get(key) != new.get(key) or key not in old
    ]


def _scores(stored: RunRecord, measured: RunRecord) -> Iterator[str]:
    """Every score of both measurements, also those that are the same."""
    for group in ("dense", "pruned", "fidelity"):
        for name, was in stored.metrics[group].items():
            yield f"{group} {name} {was:.6g} -> {measured.metrics[group].get(name, math.nan):.6g}"


def plan_differences(stored: RunRecord, measured: RunRecord) -> dict[str, tuple[int, int, str]]:
    """By kind of unit: how many of the kept ones are others, of how many, and in which layers."""
    both = list(zip(stored.layers, measured.layers, strict=False))
    by_kind = {}
    for kind in ("heads", "neurons"):
        kept = [[set(getattr(layer, f"kept_{kind}")) for layer in pair] for pair in both]
        others = [max(len(was - now), len(now - was)) for was, now in kept]
        layers = ", ".join(f"{n} in layer {i}" for i, n in enumerate(others) if n)
        by_kind[kind] = (sum(others), sum(len(was) for was, _ in kept), layers)
    return by_kind


def _plan(stored: RunRecord, measured: RunRecord) -> Iterator[Difference]:
    sizes = [[(one.heads, one.neurons) for one in r.layers] for r in (stored, measured)]
    if sizes[0] != sizes[1]:
        yield "plan: another shape of model", False
    for kind, (others, kept, layers) in plan_differences(stored, measured).items():
        if others:
            text = f"plan: {others} of {kept} kept {kind} are others ({layers})"
            yield text, others <= TOLERANCES[kind][1] * kept


def _counts(stored: RunRecord, measured: RunRecord) -> Iterator[Difference]:
    def counts(record: RunRecord) -> dict[str, Any]:
        costs = {key: value for key, value in record.costs.items() if key != "measured"}
        kept = (record.mac_kept_fraction, record.param_kept_fraction)
        names = ("mac_kept_fraction", "param_kept_fraction")
        return {**dict(zip(names, kept, strict=True)), **dict(flatten(costs, ""))}

    then, now = counts(stored), counts(measured)
    for name, was in then.items():
        yield from _difference(name, was, now.get(name), TOLERANCES["counts"])


def _metrics(stored: RunRecord, measured: RunRecord) -> Iterator[Difference]:
    for group in ("dense", "pruned", "fidelity", BEFORE_RECOVERY):
        now = measured.metrics.get(group, {})
        for name, was in stored.metrics.get(group, {}).items():
            kind = "perplexity" if name.endswith("_perplexity") else name
            tolerance = TOLERANCES.get(kind, TOLERANCES["others"])
            yield from _difference(f"{group} {name}", was, now.get(name), tolerance)


def _difference(
    name: str, was: Any, now: Any, tolerance: tuple[float, float]
) -> Iterator[Difference]:
    """Of two values, unless they are the same; nan is the same as nan."""
    if was == now or (was != was and now != now):
        return
    if was is None or now is None:
        yield f"{name} {was} -> {now}", False
        return
    absolute, relative = tolerance
    near = math.isclose(was, now, abs_tol=absolute, rel_tol=relative)
    yield f"{name} {was:.6g} -> {now:.6g} ({now - was:+.1g})", near
