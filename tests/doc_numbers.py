"""Numbers in documents and where they come from: `0.0155<!-- from methods_minilm: kl ... -->`.

A mark is an HTML comment, so no reader sees it: `from <study>: <value> [key=value ...]`.
- After a number it names its source. `a / b` divides: keys after the slash replace those before.
- On a line of its own above a table it holds for the table; a comment in a header cell or in the
  first cell of a row adds keys for that column or row (`<!-- method=stat -->`), or another
  `from`. `by=ratio` takes a column's key from its header: `50 %` is 0.5, `1,024` is 1024.
- `checked by tests/<file>.py` on a line of its own, for its section and those inside: that test
  computes the numbers; it must name the page.
Values are columns of the study's records by their last name (`kl`, `accuracy` of the pruned
model, `dense.accuracy`, `compress_s`), of its measured costs (`speedup`), quantities of the study
`speed`, `examples` (evaluated), `worst.nll` (the worst example) or `rest.perplexity` (without it).
Keys are `variant`, `ratio`, `seed`, ... and settings by their last name. What is left must be one
variant at one ratio; seeds are averaged. The printed digits are compared.
"""

from __future__ import annotations

import functools
import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stat_repro.reporting.costs import cost_points, measured_runs
from stat_repro.reporting.speed_table import speed_table
from stat_repro.reporting.styles import quantity_style
from stat_repro.reporting.variants import with_variants
from stat_repro.results import load_records, load_speed, read_examples, to_frame

RESULTS = Path(__file__).resolve().parents[1] / "results"
COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
# Versions, names and identifiers that look like measured numbers.
NO_MEASUREMENT = re.compile(
    r"Python 3\.\d+(?:(?:, | or )3\.\d+)*|SQuAD (?:1\.1|2\.0)|"
    r"(?:torch|onnxruntime|transformers) \d+\.\d+(?:\.\d+)?|"
    r"arXiv(?: |:)\d{4}\.\d{5}|abs/\d{4}\.\d{5}|Llama-3\.\d|Qwen2\.5|MIT-\d\.\d|Apache-2\.0"
)


@dataclass(frozen=True)
class Source:
    """What a mark says.

    Attributes:
        study: Name of the study.
        value: Name of the value.
        keys: Which runs.
        divisor: Which runs it is divided by, None for no division.
    """

    study: str
    value: str
    keys: tuple[tuple[str, str], ...]
    divisor: tuple[tuple[str, str], ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `from <study>: <value> [key=value ...] [/ key=value ...]`."""
        found = re.fullmatch(r"from ([\w]+): (.+)", " ".join(text.split()))
        assert found, f"expected 'from <study>: <value> key=value ...'; got {text!r}"
        value, *words = shlex.split(found[2])
        slash = words.index("/") if "/" in words else len(words)
        keys, other = pairs(words[:slash]), pairs(words[slash + 1 :])
        divisor = tuple({**keys, **other}.items()) if slash < len(words) else None
        return cls(found[1], value, tuple(keys.items()), divisor)

    def number(self) -> float:
        """The value from the records, in their units, times the scale of its style.

        A quotient has no unit and is not scaled.
        """
        value = self._of(dict(self.keys))
        if self.divisor is not None:
            return value / self._of(dict(self.divisor))
        return quantity_style(self.value.rpartition(".")[2]).scale * value

    def _of(self, keys: dict[str, str]) -> float:
        scale = float(keys.pop("scale", "1"))
        if self.study == "speed":
            return scale * _speed(self.value, keys)
        frame = _frame(self.study)
        if self.value in _costs(self.study):
            frame = _costs(self.study)
        frame = _chosen(frame, keys, self.study)
        return scale * float(_values(frame, self.value, self.study).mean())


def pairs(words: list[str]) -> dict[str, str]:
    """`key=value` words as a mapping."""
    assert all("=" in word for word in words), f"expected key=value; got {words}"
    return dict(word.split("=", 1) for word in words)


def agrees(printed: str, value: float) -> bool:
    """Whether the printed number is the value, rounded to its digits."""
    text = printed.replace(",", "")
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5 * 10**-digits * (1 + 1e-9)


@functools.cache
def _frame(study: str) -> pd.DataFrame:
    return with_variants(to_frame(load_records(RESULTS, study)))


@functools.cache
def _costs(study: str) -> pd.DataFrame:
    measured = measured_runs(_frame(study).drop(columns=["variant", "extras", "order", "style"]))
    return measured if measured.empty else cost_points(measured)


def _speed(value: str, keys: dict[str, str]) -> float:
    table = speed_table(load_speed(RESULTS)).cells
    chosen = _chosen(table[table["quantity"] == value], keys, "speed")
    assert len(chosen) == 1, f"speed, {value}, {keys}: expected one row; got\n{chosen.to_string()}"
    return float(chosen["value"].iloc[0])


def _column(frame: pd.DataFrame, name: str) -> str:
    """A column by its last name; settings and metrics of the pruned model come first."""
    places = ("", "config.pruning.", "config.calibration.", "config.dataset.", "config.", "costs.")
    metrics = ("metrics.pruned.", "metrics.fidelity.", "metrics.", "timings.")
    for place in (*places, *metrics):
        if f"{place}{name}" in frame:
            return f"{place}{name}"
    raise AssertionError(f"{name}: no such column; there are {', '.join(map(str, frame.columns))}")


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "none"
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float | int | np.number) else str(value)


def _chosen(frame: pd.DataFrame, keys: dict[str, str], study: str) -> pd.DataFrame:
    for key, value in keys.items():
        column = frame[_column(frame, key)]
        there = column.map(_shown)
        frame = frame[there == value]
        assert not frame.empty, f"{study}: no {key}={value}; there are {sorted(set(there))}"
    return frame


def _values(frame: pd.DataFrame, name: str, study: str) -> pd.Series:
    for key in ("model", "dataset", "variant", "ratio"):
        kinds = sorted(map(str, set(frame[key])))
        if not (key in ("variant", "ratio") and name.startswith("dense.")):
            assert len(kinds) == 1, f"{study}, {name}: expected one {key}; got {kinds}"
    if name == "examples":
        return frame["metrics.protocol"].map(lambda text: json.loads(text)["examples"])
    if name in ("worst.nll", "rest.perplexity"):
        return frame["run_id"].map(lambda run_id: _without_worst(study, run_id)[name])
    return frame[_column(frame, name)].astype(float)


def _without_worst(study: str, run_id: str) -> dict[str, float]:
    """The highest loss of all windows (nats per token), and the perplexity of the others."""
    (record,) = (r for r in load_records(RESULTS, study) if r.run_id == run_id)
    values = read_examples(record, RESULTS / study / f"{run_id}.json")
    assert values is not None
    losses = sorted(values["nll"].tolist())
    rest = math.exp(math.fsum(losses[:-1]) / len(losses[:-1]))
    return {"worst.nll": losses[-1], "rest.perplexity": rest}
