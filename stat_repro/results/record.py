"""The schema of a run record: what one run found, and everything needed to repeat it.

A record is one strict JSON document; see `results.strict_json` for its layout and for the numbers
that JSON does not have.
"""

from __future__ import annotations

import numbers
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from stat_repro.config import RunConfig, from_dict
from stat_repro.paths import text_without_paths
from stat_repro.plan import LayerPlan, PruningPlan
from stat_repro.results import strict_json
from stat_repro.results.strict_json import RecordError

SCHEMA_VERSION = 1

STATUSES = ("ok", "failed")
METRIC_GROUPS = ("dense", "pruned", "fidelity", "protocol")
# What only runs with a recovery have.
BEFORE_RECOVERY = "before_recovery"
_FRACTIONS = ("mac_kept_fraction", "param_kept_fraction")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*")
_REPEAT_SUFFIX = re.compile(r"\.repeat-\d+$")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. The attributes are the top-level keys of the JSON document, in this order.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the code that wrote the record.
        run_id: Name of the run, derived from the result-changing config.
        status: `ok`, or `failed` with `error` set and whatever was known by then.
        model: Label of the dense model.
        dataset: Label of the data set.
        method: Name of the method in the registry.
        ratio: Share of the prunable MACs that was to be removed, 0 <= ratio < 1.
        seed: Seed of the calibration draw.
        mac_kept_fraction: Realised share of the prunable MACs that is kept; null if failed before.
        param_kept_fraction: Realised share of all parameters of the model that is kept; likewise.
        metrics: `dense` and `pruned` (the same metric names, plain fractions and not percent),
            `fidelity` (`kl` in nats and `agreement`, or what the task has instead), `protocol`
            (the definition of the metrics: split, sizes, how text was joined). With a recovery
            also `before_recovery`, `pruned` and `fidelity` in one as they were before it. Empty if
            failed.
        timings: Seconds per stage; `compress_s` (calibration, plan and surgery) at least.
            `recover_s` and `recover_cpu_s`: training of the pruned model.
        costs: MACs per token and parameters (whole model and prunable part) and size, dense and
            pruned, with the `sequence_length` they hold for; `round_to`; `measured` where latency
            was timed; `recovery`: steps, examples and tokens that it was trained on.
        memory: Peak memory in bytes.
        site_errors: One entry per pruned site: layer, kind, sizes, errors.
        plan: The pruning plan, as `PruningPlan.to_masks` (older records: as `to_dict`), to be read
            as `layers`; empty if failed before it was made.
        config: The whole configuration; of absolute paths the name at their end, with the beginning
            of the content's hash (`stat_repro.run.identity`).
        provenance: Commit, versions, hardware, hashes and date, see `results.provenance`.
        error: Null, or `type`, `message` and `traceback` of what ended the run.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: str
    model: str
    dataset: str
    method: str
    ratio: float
    seed: int
    mac_kept_fraction: float | None = None
    param_kept_fraction: float | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    site_errors: list[Any] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any]
    provenance: dict[str, Any]
    error: dict[str, str] | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _check_names(self)
        for problem in _problems(self):
            raise RecordError(f"{self.run_id}: {problem}")

    @property
    def study(self) -> str:
        """Folder of the record under `results/`."""
        return str(self.config["study"])

    @property
    def task(self) -> str:
        """Task of the data set, one of `stat_repro.config.TASKS`."""
        return str(self.config["dataset"]["task"])

    @cached_property
    def typed_config(self) -> RunConfig:
        """The configuration; settings that are younger than the record are as it ran.

        Raises:
            ConfigError: It is not one of this version.
        """
        return from_dict(self.config)

    @cached_property
    def layers(self) -> tuple[LayerPlan, ...]:
        """What each layer keeps; empty if the run failed before the plan was made."""
        return PruningPlan.from_dict(self.plan).layers if self.plan else ()

    def to_dict(self) -> dict[str, Any]:
        """Plain, finite JSON types with `content` and `non_finite`; tuples become lists.

        Raises:
            RecordError: A value that JSON does not have, named by its place.
        """
        plain = strict_json.to_plain({f.name: getattr(self, f.name) for f in _FIELDS})
        return strict_json.stamped(plain)

    @classmethod
    def from_dict(cls, data: Any) -> RunRecord:
        """Read what `to_dict` wrote. `data` is not changed.

        Raises:
            RecordError: Another schema version, missing or unknown keys, values out of place, or a
                document that was changed since it was written.
        """
        if not isinstance(data, dict):
            raise RecordError(f"record: expected a JSON object; got {type(data).__name__}")
        if data.get("schema_version") != SCHEMA_VERSION:
            raise RecordError(
                f"schema_version: expected {SCHEMA_VERSION}; got {data.get('schema_version')!r}"
            )
        expected = {f.name for f in _FIELDS} | {"non_finite"}
        keys = set(data) - {strict_json.CONTENT}
        missing, unknown = sorted(expected - keys), sorted(keys - expected)
        if missing or unknown:
            raise RecordError(f"record: missing keys {missing}, unknown keys {unknown}")
        values = strict_json.from_plain(data)
        values.pop(strict_json.CONTENT, None)
        strict_json.check_stamp(data)
        return cls(**values)

    def to_json(self) -> str:
        """The document as it is stored: see `results.strict_json`."""
        return strict_json.to_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read what `to_json` wrote.

        Raises:
            RecordError: Not JSON (nan and infinity included), or not a record.
        """
        return cls.from_dict(strict_json.from_text(text))


_FIELDS = fields(RunRecord)


def labels(config: RunConfig) -> dict[str, Any]:
    """The keys of a record that repeat its configuration."""
    return {
        "model": config.model.name,
        "dataset": config.dataset.name,
        "method": config.pruning.method,
        "ratio": config.ratio,
        "seed": config.seed,
    }


def describe_error(error: BaseException) -> dict[str, str]:
    """The `error` value of a failed record, without the folders of absolute paths."""
    return {
        "type": type(error).__name__,
        "message": text_without_paths(str(error)),
        "traceback": text_without_paths("".join(traceback.format_exception(error))),
    }


# What a value must be, by the words of its annotation.
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (numbers.Integral,),
    "float": (numbers.Real,),
    "dict": (dict,),
    "list": (list, tuple),
    "None": (type(None),),
}


def _check_types(record: RunRecord) -> None:
    for one in _FIELDS:
        words = str(one.type).split(" | ")
        types = tuple(kind for word in words for kind in _KINDS[word.partition("[")[0]])
        value = getattr(record, one.name)
        if not isinstance(value, types) or isinstance(value, bool):
            names = " or ".join(kind.__name__ for kind in types)
            raise RecordError(f"{one.name}: expected {names}; got {value!r}")
    for group, values in record.metrics.items():
        if not isinstance(values, dict):
            raise RecordError(f"metrics.{group}: expected dict; got {values!r}")


def _check_names(record: RunRecord) -> None:
    if record.status not in STATUSES:
        raise RecordError(f"status: expected one of {', '.join(STATUSES)}; got {record.status!r}")
    study = record.config.get("study")
    for key, name in (("run_id", record.run_id), ("config.study", study)):
        if not isinstance(name, str) or _SAFE_NAME.fullmatch(name) is None:
            raise RecordError(
                f"{key}: expected a file name of letters, digits and _.+=- that starts with a "
                f"letter, digit or underscore; got {name!r}"
            )
    if _REPEAT_SUFFIX.search(record.run_id) is not None:
        raise RecordError(f"run_id: must not end like a repeat's file name; got {record.run_id!r}")
    dataset = record.config.get("dataset")
    if not isinstance(dataset, dict) or not isinstance(dataset.get("task"), str):
        raise RecordError(f"{record.run_id}: config.dataset.task: expected a task; got {dataset!r}")


def _problems(record: RunRecord) -> Iterator[str]:
    """What contradicts the schema in a record whose values have the right types."""
    if not 0 <= record.ratio < 1:
        yield f"ratio: expected 0 <= ratio < 1; got {record.ratio}"
    for key in _FRACTIONS:
        value = getattr(record, key)
        if value is not None and not 0 <= value <= 1:
            yield f"{key}: expected 0 to 1; got {value}"
    if unknown := sorted(set(record.metrics) - {*METRIC_GROUPS, BEFORE_RECOVERY}):
        yield f"metrics: unknown keys {unknown}; valid: {', '.join(METRIC_GROUPS)}"
    if record.status == "ok":
        yield from _problems_of_results(record)
    elif record.error is None or set(record.error) != {"type", "message", "traceback"}:
        got = None if record.error is None else sorted(record.error)
        yield f"error: a failed run needs the keys type, message and traceback; got {got}"


def _problems_of_results(record: RunRecord) -> Iterator[str]:
    """A run that is ok has measured everything."""
    lacking = [f"metrics.{group}" for group in METRIC_GROUPS if not record.metrics.get(group)]
    if "compress_s" not in record.timings:
        lacking.append("timings.compress_s")
    if not record.plan:
        lacking.append("plan")
    lacking += [key for key in _FRACTIONS if getattr(record, key) is None]
    if lacking:
        yield f"status ok, but without {', '.join(lacking)}"
    dense, pruned = sorted(record.metrics["dense"]), sorted(record.metrics["pruned"])
    if dense != pruned:
        yield f"metrics: dense has {dense}, pruned has {pruned}"
    measured = {f"metrics.{k}": v for k, v in record.metrics.items() if k != "protocol"}
    for group, values in {**measured, "timings": record.timings}.items():
        for name, value in values.items():
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if value is not None and not number:
                yield f"{group}.{name}: expected a number or null; got {value!r}"
    if record.error is not None:
        yield f"status ok, but error is {record.error!r}"
