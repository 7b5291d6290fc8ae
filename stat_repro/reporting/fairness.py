"""What two variants must have in common before their numbers are compared, read from the records.

Per seed: the protocol, the dense model, the evaluated data, and the drawn calibration examples.
Over the seeds: the realised MACs, within half of the larger unit (a head, a key/value group or a
neuron; a whole layer where that is the unit).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from stat_repro.results import RunRecord

_EXACT = 1e-6  # relative: what rounding may leave of a linear relation


@dataclass(frozen=True)
class Unit:
    """Share of the dense model's prunable MACs that the smallest removable parts have.

    Attributes:
        single: The larger one of an attention unit and a neuron; None if the records do not show it
            (sizes that are in proportion, or MACs that do not follow from the units kept).
        layer: The largest layer.
    """

    single: float | None
    layer: float | None


def unit_shares(records: Sequence[RunRecord]) -> Unit:
    """Costs of units, from the kept units and kept MACs of runs of one model at one length.

    MACs are linear in the units kept, so that the dense model and the plans of the records
    determine the cost of an attention unit and of a neuron: least squares, which must leave no more
    than rounding.

    Args:
        records: At least one run; all with the same dense model.
    """
    layers = records[0].layers
    units = [[sum(one.heads for one in layers), sum(one.neurons for one in layers)]]
    shares = [1.0]
    for record in records:
        kept = [(len(one.kept_heads), len(one.kept_neurons)) for one in record.layers]
        units.append([sum(column) for column in zip(*kept, strict=True)])
        shares.append(_kept(record))
    # What there is none of costs 0.
    costs, _, rank, _ = np.linalg.lstsq(np.array(units, float), np.array(shares))
    left = np.abs(units @ costs - shares)
    if rank < np.any(units, axis=0).sum() or (left > _EXACT * (1 + np.array(shares))).any():
        return Unit(None, None)
    whole = [layer.heads * costs[0] + layer.neurons * costs[1] for layer in layers]
    return Unit(float(max(costs)), float(max(whole)))


def units(records: Sequence[RunRecord]) -> dict[Any, Unit]:
    """Costs of units (`unit_shares`) by the hash of the dense model."""
    by_dense = defaultdict(list)
    for record in records:
        by_dense[record.provenance.get("model_hash")].append(record)
    return {dense: unit_shares(same) for dense, same in by_dense.items()}


def identity_difference(
    reference: RunRecord, other: RunRecord, *, calibration: bool = True
) -> str | None:
    """What two runs of one seed do not have in common, in words; None if they are comparable.

    What a record does not name is not taken as the same.

    Args:
        reference: One run.
        other: The other one.
        calibration: Whether they must have the same calibration examples, of the same text.
    """
    protocols = [dict(run.metrics["protocol"]) for run in (reference, other)]
    sources = [protocol.pop("calibrated_on", None) for protocol in protocols]
    if protocols[0] != protocols[1] or (calibration and sources[0] != sources[1]):
        return "another protocol"
    left, right = reference.provenance, other.provenance
    if left.get("model_hash") is None or left["model_hash"] != right.get("model_hash"):
        return "another dense model"
    hashes = [dict(provenance.get("data_hashes", {})) for provenance in (left, right)]
    drawn = [by_part.pop("calibration", None) for by_part in hashes]
    if not calibration:
        for by_part, source in zip(hashes, sources, strict=True):
            by_part.pop(source, None)
    if not hashes[0] or hashes[0] != hashes[1]:
        return "other data"
    if calibration and (drawn[0] is None or drawn[0] != drawn[1]):
        return "other calibration examples"
    return None


def mac_difference(references: Sequence[RunRecord], others: Sequence[RunRecord]) -> float:
    """Mean share of MACs kept by the second runs minus that of the first, seed by seed."""
    pairs = zip(references, others, strict=True)
    return fmean(_kept(b) - _kept(a) for a, b in pairs)


def mac_objection(
    references: Sequence[RunRecord], others: Sequence[RunRecord], unit: Unit
) -> str | None:
    """Why the realised MACs of two variants do not allow a comparison; None if they do.

    Every seed counts, so that differences do not cancel out.

    Args:
        references: Runs of the reference.
        others: Runs of the variant, with the same seeds.
        unit: See `unit_shares`.
    """
    largest = max(abs(_kept(b) - _kept(a)) for a, b in zip(references, others, strict=True))
    if largest <= _EXACT:
        return None
    whole = removes_blocks(others[0]) or removes_blocks(references[0])
    share = unit.layer if whole else unit.single
    if share is None:
        return f"MACs kept differ by {100 * largest:.2f} points, cost of a unit unknown"
    if largest <= share / 2 + _EXACT:
        return None
    name = "block" if whole else "unit"
    return (
        f"MACs kept differ by {100 * largest:.2f} points, more than half a {name} "
        f"({100 * share / 2:.2f})"
    )


def removes_blocks(record: RunRecord) -> bool:
    """Whether the method removes whole layers, which records and tables call blocks."""
    return record.plan.get("details", {}).get("allocation") == "blocks"


def _kept(record: RunRecord) -> float:
    assert record.mac_kept_fraction is not None  # of a run that ended well
    return record.mac_kept_fraction
