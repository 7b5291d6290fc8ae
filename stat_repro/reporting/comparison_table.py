"""Comparisons of variants as tables: text cells, their notes, and the numbers behind them."""

import math
from collections.abc import Sequence
from dataclasses import astuple
from decimal import Context, Decimal
from typing import Any

import pandas as pd

from stat_repro.reporting.bootstrap import CONFIDENCE, RESAMPLES, Estimate
from stat_repro.reporting.comparison import MEASURED, Comparison
from stat_repro.reporting.styles import QuantityStyle, quantity_style
from stat_repro.reporting.tables import MISSING, Table

_DECIMAL = Context(prec=28, traps=[])  # without traps, what is too large is infinite
# What the values per example are called in the other tables.
_QUANTITY = {"correct": "accuracy", "squared_difference": "mse_to_dense", "agree": "agreement"}
_DISTANCE = {"kl": "KL", "squared_difference": "squared difference"}
_NOTES = (
    "differences: variant minus reference, mean over the evaluated examples (sentences, questions, "
    "windows of text) of values averaged over the calibration seeds that both have",
    f"in brackets: {100 * CONFIDENCE:g} % paired percentile bootstrap interval over the examples, "
    f"{RESAMPLES:,} draws, the same for both and for all seeds; it says nothing of other seeds, is "
    "too narrow for few examples, and is not corrected for the number of comparisons",
    "*: the interval excludes 0 (of a ratio: 1); KL: from the dense model, in nats",
    "compared only where protocol, dense model and data are the same, per seed the calibration "
    "examples, and MACs kept within half of the larger unit (head, group or neuron)",
)
_BLOCKS = (
    "whole blocks: MACs kept are equal within half a block only, so read the differences beside "
    "that of the MACs; never marked with *"
)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """One row per variant and ratio; its sources seed by seed.

    Args:
        comparisons: What `compare` gives, not empty.
    """
    cells = pd.DataFrame([_row(one) for one in comparisons]).fillna(MISSING)
    references = dict.fromkeys((c.dataset, c.model, c.reference) for c in comparisons)
    lines = [f"reference of {data} ({model}): {label}" for data, model, label in references]
    note = [_BLOCKS] if any(one.whole_blocks for one in comparisons) else []
    names = ("model", "dataset", "reference", "variant", "ratio")
    sources = pd.DataFrame(
        {name: getattr(one, name) for name in names}
        | {"run_ids": " ".join(one.run_ids), "reference_run_ids": " ".join(one.reference_ids)}
        for one in comparisons
    )
    return Table(
        "table_comparison",
        ", paired comparison",
        cells,
        [*lines, *_NOTES, *note],
        pd.DataFrame([_numbers(one) for one in comparisons]),
        sources,
        # Six significant digits, so that the file does not depend on the last bit of a sum.
        float_format="%.6g",
    )


def _numbers(one: Comparison) -> dict[str, Any]:
    names = MEASURED[one.task]
    row: dict[str, Any] = {
        **{k: getattr(one, k) for k in ("model", "dataset", "task", "reference", "variant")},
        **{"ratio": one.ratio, "seeds": len(one.seeds), "examples": one.examples},
        **{"macs_kept_difference": one.macs, "whole_blocks": one.whole_blocks},
        **{"metric": _name(names[0]), "distance": _name(names[1])},
    }
    for name, estimate in (
        ("metric_difference", one.metric),
        ("distance_difference", one.fidelity),
        ("distance_ratio", one.fidelity_ratio),
        ("agreement_difference", one.agreement),
    ):
        values = (None, None, None) if estimate is None else astuple(estimate)
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return row | {"left_out": one.left_out}


def _row(one: Comparison) -> dict[str, str]:
    metric, distance = MEASURED[one.task]
    marked = not one.whole_blocks
    style = quantity_style(_name(metric))
    agreement = quantity_style("agreement")
    words = _DISTANCE[distance]
    row = {
        **{"model": one.model, "dataset": one.dataset, "variant": one.variant},
        **{"ratio": f"{one.ratio:g}", "seeds": str(len(one.seeds)), "examples": str(one.examples)},
        "MACs kept (points)": MISSING if one.macs is None else f"{100 * one.macs:+.2f}",
        "metric": style.label,
        "difference": _cell(one.metric, style, marked=marked),
    }
    if one.task == "language_modeling":
        row["perplexity ratio"] = _ratio(exponential(one.metric), marked=marked)
    row[f"{words} difference"] = _cell(one.fidelity, quantity_style(distance), marked=marked)
    row[f"{words} ratio"] = _ratio(one.fidelity_ratio, marked=marked)
    if one.task not in ("regression", "similarity"):
        row["agreement (points)"] = _cell(one.agreement, agreement, marked=marked)
    return row | {"left out": one.left_out or MISSING}


def _name(value: str) -> str:
    """The record's name of the mean of a value per example, if it has one."""
    return _QUANTITY.get(value, value)


def exponential(estimate: Estimate | None) -> Estimate | None:
    """Of a difference of log-likelihoods: how many times the perplexity of the reference.

    In decimal digits: the last bit of a float exponential depends on the processor.
    """
    if estimate is None:
        return None
    return Estimate(*(float(_DECIMAL.exp(Decimal(v))) for v in astuple(estimate)))


def _cell(estimate: Estimate | None, style: QuantityStyle, *, marked: bool) -> str:
    """A difference: fractions in points, everything else with three digits."""
    form = f"+.{style.decimals}f" if style.fraction else "+#.3g"
    return _text(estimate, form, style.scale, 0.0, marked=marked)


def _ratio(estimate: Estimate | None, *, marked: bool) -> str:
    return _text(estimate, "#.3g", 1.0, 1.0, marked=marked)


def _text(one: Estimate | None, form: str, scale: float, neutral: float, *, marked: bool) -> str:
    if one is None or math.isnan(one.value):
        return MISSING
    value, low, high = (f"{scale * v:{form}}" for v in astuple(one))
    if math.isnan(one.low):
        return value
    return f"{value} [{low}, {high}]" + ("*" if marked and one.excludes(neutral) else "")
