"""The numbers of stored records that a selection of docs/claims.yaml chooses.

A selection names a study, a value and settings. Studies are those of results/: runs, the benchmark
(`speed`) and what other programs were timed with (`served.<study>`, of served.json).

Values of runs are metrics of the pruned model (`accuracy`), of the dense one (`dense.accuracy`), of
the model before its recovery (`before_recovery.accuracy`), times, counts, and those of `DERIVED`
and `TIMED`. Settings are those of the configuration by their last name, or by a longer one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from stat_repro.config import SPEED_STUDY, RunConfig
from stat_repro.reporting.variants import CONTENT
from stat_repro.results import RecordError, RunRecord, load_records, load_speed
from stat_repro.results.speed_record import SpeedRecord
from stat_repro.results.store import flatten
from stat_repro.results.strict_json import check_stamp

Selection = Mapping[str, Any]

SERVED = "served."
DENSE = "dense."
_BATCH = "batch"
_SHORT = {"method": "pruning.method", "model": "model.name", "dataset": "dataset.name"}
# `as_layers`: of the records that fit, the one with the most layers, its seconds for this many.
_AS_LAYERS = "as_layers"
_OF_SPEED = ("shape", "card", "layers", "examples", "length", "dtype", "threads", _AS_LAYERS)
_OF_SERVED = ("model", "ratio", _BATCH, "program", "type", "what", "bits")
_PLACES = ("metrics.pruned.", "metrics.fidelity.", "metrics.", "timings.", "costs.")
_QUARTILES = ("median", "q25", "q75")
DERIVED = {
    "heads_kept": lambda run: _kept((len(one.kept_heads), one.heads) for one in run.layers),
    "neurons_kept": lambda run: _kept((len(one.kept_neurons), one.neurons) for one in run.layers),
    "macs_kept": lambda run: run.mac_kept_fraction,
    "time_in_all": lambda run: run.timings["compress_s"] + run.timings.get("recover_s", 0.0),
    "training_steps": lambda run: run.costs.get("recovery", {}).get("steps", 0),
    "training_seconds": lambda run: run.timings.get("recover_s", 0.0),
    "gradient_seconds": lambda run: run.timings.get("gradients_s", 0.0),
}
# Of measured costs (`cost=measured`), which `batch` chooses too: the value and its quartiles.
TIMED = {
    "speedup": lambda cost, run: [cost["speedup"][name] for name in _QUARTILES],
    "time_kept": lambda cost, run: [1 / cost["speedup"][q] for q in ("median", "q75", "q25")],
    # Of the whole model: embeddings and norms take time that no plan can save.
    "time_asked": lambda cost, run: (
        [run.plan.get("details", {}).get("latency", {}).get("target", 1 - run.ratio)] * 3
    ),
    "speedup_of_macs": lambda cost, run: (
        [cost["macs_per_token"]["dense"] / cost["macs_per_token"]["pruned"]] * 3
    ),
}


class ClaimError(ValueError):
    """Something in docs/claims.yaml that cannot be right; names the place."""


@dataclass(frozen=True)
class Missing:
    """Why there is no value, and the study where a record is missing, if that is why."""

    reason: str
    study: str = ""


@dataclass(frozen=True)
class Reading:
    """One number of one record (`<study>/<run_id>`); `low` and `high` are its spread, if any."""

    record: str
    seed: int
    value: float
    low: float
    high: float
    spread: str = ""
    run: RunRecord | None = None


def text(value: Any) -> str:
    """A setting as the data file writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float | int) else str(value)


_SETTINGS = (_BATCH, *dict(flatten(asdict(RunConfig()), "")))


def full_name(study: str, key: str) -> str:
    """A setting by its one full name.

    Raises:
        ClaimError: No setting has this name, or several end like it.
    """
    if study == SPEED_STUDY or study.startswith(SERVED):
        there = _OF_SPEED if study == SPEED_STUDY else _OF_SERVED
        names = [name for name in there if name == key]
    else:
        there = _SETTINGS
        names = [name for name in there if name == _SHORT.get(key, key)]
        names = names or [name for name in there if name.endswith(f".{key}")]
    if len(names) != 1:
        choose = ", ".join(names or (*_SHORT, *there))
        raise ClaimError(f"expected the name of one setting; got {key!r}; choose one of {choose}")
    return names[0]


class Records:
    """The records under a folder; each study is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._studies: dict[str, list[tuple[RunRecord, dict[str, str]]]] = {}

    def read(self, selection: Selection) -> list[Reading] | Missing:
        """One reading for every seed, in their order.

        Raises:
            ClaimError: The settings leave several records of one seed.
        """
        study, value = selection["study"], selection["value"]
        keys = {k: text(v) for k, v in selection.items() if k not in ("study", "value")}
        source = self._of_runs
        if study == SPEED_STUDY or study.startswith(SERVED):
            source = self._of_speed if study == SPEED_STUDY else self._of_served
        there = sorted(source(study, value, keys), key=lambda one: one.seed)
        words = ", ".join(f"{k}={v}" for k, v in keys.items())
        if twice := [a.record for a, b in pairwise(there) if a.seed == b.seed]:
            raise ClaimError(
                f"expected settings that leave one record of a seed in {study}; got {words}, which "
                f"leave several, such as {twice[0]}; choose further settings"
            )
        return there or Missing("no record", study)

    def runs(self, study: str) -> list[tuple[RunRecord, dict[str, str]]]:
        """Runs that ended well with all their settings; none where there is no such study."""
        if study not in self._studies:
            there = load_records(self.root, study) if (self.root / study).is_dir() else []
            self._studies[study] = [
                (run, {name: text(one) for name, one in flatten(asdict(run.typed_config), "")})
                for run in there
            ]
        return self._studies[study]

    def _of_runs(self, study: str, name: str, keys: Mapping[str, str]) -> Iterator[Reading]:
        wanted = {full_name(study, key): value for key, value in keys.items()}
        batch = wanted.pop(_BATCH, None)
        for run, settings in self.runs(study):
            if any(value not in _spellings(settings[key]) for key, value in wanted.items()):
                continue
            place = f"{study}/{run.run_id}"
            if name not in TIMED:
                if (number := _number(run, name)) is not None:
                    yield Reading(place, run.seed, *[number] * 3, run=run)
                continue
            for cost in run.costs.get("measured", ()):
                if batch in (None, text(cost["batch_size"])):
                    spread = _turns("quartiles", cost["repeats"])
                    yield Reading(place, run.seed, *TIMED[name](cost, run), spread, run)

    def _of_speed(self, study: str, name: str, keys: Mapping[str, str]) -> Iterator[Reading]:
        there = load_speed(self.root) if any((self.root / study).glob("*.json")) else []
        wanted = {key: value for key, value in keys.items() if key != _AS_LAYERS}
        there = [one for one in there if ".repeat-" not in one.run_id and _fits(one, wanted)]
        most = max((one.protocol["layers"] for one in there), default=0)
        for one in there:
            layers, factor = one.protocol["layers"], 1.0
            if _AS_LAYERS in keys:
                if layers < most:
                    continue
                factor = int(keys[_AS_LAYERS]) / layers
            place = f"{study}/{one.run_id}"
            if name in one.ratios:
                numbers = [one.ratios[name][q] for q in _QUARTILES]
                yield Reading(place, 0, *numbers, _turns("quartiles", one.protocol["repeats"]))
            elif name in one.seconds:
                turns = [factor * seconds for seconds in one.seconds[name]]
                spread = _turns("lowest and highest", len(turns))
                if _AS_LAYERS in keys:
                    spread += f"; {layers} layers, times {keys[_AS_LAYERS]} / {layers}"
                yield Reading(place, 0, statistics.median(turns), min(turns), max(turns), spread)
            elif (size := one.memory.get(name)) is not None:
                yield Reading(place, 0, *[float(size)] * 3)

    def _of_served(self, study: str, name: str, keys: Mapping[str, str]) -> Iterator[Reading]:
        path = self.root / f"{SERVED}json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if (found := stored.get(study.removeprefix(SERVED))) is None:
            return
        try:
            check_stamp(found)
        except RecordError as err:
            raise RecordError(f"{path}: {study.removeprefix(SERVED)}: {err}") from err
        for row in found["rows"]:
            if name in row and all(text(row.get(key)) == value for key, value in keys.items()):
                one = row[name]
                turns = isinstance(one, dict)
                numbers = [one[q] for q in _QUARTILES] if turns else [one] * 3
                yield Reading(study, found["seed"], *numbers, "quartiles of all turns" * turns)


def _spellings(setting: str) -> tuple[str, str]:
    """A setting as the record has it, and the name alone of a file that is named with its hash."""
    return setting, CONTENT.sub("", setting)


def _turns(what: str, number: int) -> str:
    return f"{what} of {number} turns" if number > 1 else "one turn"


def _fits(one: SpeedRecord, keys: Mapping[str, str]) -> bool:
    gpu = one.provenance.get("gpu")
    settings = {**one.protocol, "shape": one.shape, "card": gpu and gpu["name"]}
    return all(text(settings.get(key)) == value for key, value in keys.items())


def _kept(counts: Iterable[tuple[int, int]]) -> float:
    kept, whole = zip(*counts, strict=True)
    return sum(kept) / sum(whole)


def _number(run: RunRecord, name: str) -> float | None:
    if name in DERIVED:
        return float(DERIVED[name](run))
    parts = {"metrics": run.metrics, "timings": run.timings, "costs": run.costs}
    there = dict(flatten(parts, ""))
    number = next((there[place + name] for place in _PLACES if place + name in there), None)
    return float(number) if isinstance(number, int | float) else None
