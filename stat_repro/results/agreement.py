"""Whether a run that was measured again found what its record says.

On the same platform plan, counts and metrics are compared exactly; elsewhere floating-point sums
round differently, and `TOLERANCES` says by how much each may differ. Not compared are times,
memory, the errors of the sites, the wording of the protocol, and values per example.
"""

import math
from typing import Any

from stat_repro.results.record import RunRecord
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
    then, now = (dict(flatten(record.provenance, "")) for record in (stored, measured))
    parts = [key for key in then if key.startswith("data_hashes.") and then[key] != now.get(key)]
    # Another draw from the same data is not explained by the data.
    other_run = OTHER_DATA if set(parts) - {"data_hashes.calibration"} else None
    differences, tolerated = [f"other {key.partition('.')[2]} examples" for key in parts], not parts
    if then["model_hash"] != now["model_hash"]:
        trained = ", whose head was trained here" if now["finetuned"] else ""
        other_run = OTHER_WEIGHTS
        differences.append(f"sha256 {then['model_hash']:.10} -> {now['model_hash']:.10}{trained}")
    for kind, (changed, kept, layers) in plan_differences(stored, measured).items():
        if changed:
            differences.append(f"plan: {changed} of {kept} kept {kind} are others ({layers})")
            tolerated &= changed <= TOLERANCES[kind][1] * kept
    again = _values(measured)
    for name, value in _values(stored).items():
        score = not name.startswith("counts.")
        if str(value) != str(again.get(name)) or (other_run and score):  # nan is the same as nan
            differences.append(f"{name} {value} -> {again.get(name)}")
            tolerated &= _near(name, value, again.get(name))
    others = ", ".join(
        f"{key} {then.get(key, 'not in the record')}, here {now.get(key)}"
        for key in _PLATFORM
        if then.get(key) != now.get(key)
    )
    platform = f"another platform ({others})" if others else "same platform"
    verdict = SAME if not differences else WITHIN if others and tolerated else DIFFERS
    return other_run or verdict, "; ".join([platform, *differences])


def plan_differences(stored: RunRecord, measured: RunRecord) -> dict[str, tuple[int, int, str]]:
    """By kind of unit: how many of the kept ones are others, of how many, and in which layers."""
    by_kind = {}
    for kind in ("heads", "neurons"):
        kept, again = (
            [set(getattr(layer, f"kept_{kind}")) for layer in record.layers]
            for record in (stored, measured)
        )
        others = [max(len(a - b), len(b - a)) for a, b in zip(kept, again, strict=False)]
        layers = ", ".join(f"{n} in layer {i}" for i, n in enumerate(others) if n)
        by_kind[kind] = (sum(others), sum(map(len, kept)), layers)
    return by_kind


def _values(record: RunRecord) -> dict[str, Any]:
    """Metrics and counts by dotted name."""
    counts = {key: value for key, value in record.costs.items() if key != "measured"}
    counts |= {key: getattr(record, key) for key in ("mac_kept_fraction", "param_kept_fraction")}
    scores = {key: value for key, value in record.metrics.items() if key != "protocol"}
    return dict(flatten({**scores, "counts": counts}, ""))


def _near(name: str, value: Any, again: Any) -> bool:
    """Whether another platform may explain the difference of two values."""
    if value is None or again is None:
        return False
    kind = "counts" if name.startswith("counts.") else name
    kind = next((one for one in TOLERANCES if kind.endswith(one)), "others")
    absolute, relative = TOLERANCES[kind]
    return math.isclose(value, again, abs_tol=absolute, rel_tol=relative)
