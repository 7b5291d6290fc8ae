"""The table of the speed benchmark."""

import math
import statistics
from collections.abc import Sequence

import pandas as pd

from stat_repro.reporting.tables import Table
from stat_repro.results.speed_record import SpeedRecord

_RATIO_LABELS = {
    "compress_by_forward_passes": "compression / its two bare forward passes",
    "calibrate_by_forward_pass": "first pass / bare",
    "recalibrate_by_forward_pass": "second pass / bare",
    "authors_ffn_by_gram_ffn": "one FFN after the pass: stored activations, QR / Gram matrix",
    "sweep_by_one_ratio": "sweep / one ratio",
}
_NOTES = (
    "random weights and tokens, no padding; stages take turns in one process, ratios are of "
    "one turn; seconds depend on the machine and its load",
    "after the passes: the QR is timed on one FFN and counted once per layer, heads are left "
    "out; the sums of the Gram matrices belong to the passes",
    "memory: parameters and statistics are sizes, peaks are resident memory above what was "
    "there before the stage; of checkpoints larger than memory (sharded) it is the peak of a "
    "whole process of its own, imports included",
)


def speed_table(records: Sequence[SpeedRecord]) -> Table:
    """For every measurement its ratios, seconds by stage, and memory.

    `value` is the median over the turns, `quartiles` the spread of ratios; numbers are the cells.
    """
    rows = []
    for record in records:
        sizes, shown = record.protocol, []
        for name, ratio in record.ratios.items():
            quartiles = f"{ratio['q25']:.2f} to {ratio['q75']:.2f}"
            shown.append((_RATIO_LABELS.get(name, name), f"{ratio['median']:.2f}", quartiles))
        if turns := _after_passes(record):
            rows_seen = f"{sizes['authors_tokens']} of {sizes['examples'] * sizes['length']} tokens"
            words = (
                f"after the passes: QR of the FFNs ({rows_seen}) / pivots and folds of all sites"
            )
            spread = f"{min(turns):.2f} to {max(turns):.2f} (all turns)"
            shown.append((words, f"{statistics.median(turns):.2f}", spread))
        for stage, values in record.seconds.items():
            seconds = f"{statistics.median(values):.2f}"
            shown.append((f"{stage.removesuffix('_s')} (s)", seconds, ""))
        for name, size in record.memory.items():
            memory = "-" if size is None else f"{size / 1e6:.0f}"
            shown.append((f"memory, {name} (MB)", memory, ""))
        columns = ("quantity", "value", "quartiles")
        rows += [_measurement(record) | dict(zip(columns, row, strict=True)) for row in shown]
    cells = pd.DataFrame(rows)
    sources = pd.DataFrame({**_measurement(one), "run_ids": one.run_id} for one in records)
    return Table("table", "", cells, [*_NOTES, shown_measurements(records)], cells, sources)


def _measurement(record: SpeedRecord) -> dict[str, str]:
    """The cells that all rows of one measurement share."""
    sizes = record.protocol
    return {
        "shape": f"{record.shape}, {sizes['layers']} layers",
        "tokens": f"{sizes['examples']} x {sizes['length']}",
        "setting": f"{where_measured(record)}, n={sizes['repeats']}",
    }


def where_measured(record: SpeedRecord) -> str:
    """Threads and processor, or the card and the data type."""
    if record.provenance.get("gpu") is None:
        return ", ".join([f"{record.protocol['threads']} threads", *machine_words(record)])
    return ", ".join([*machine_words(record), record.protocol["dtype"]])


def machine_words(record: SpeedRecord) -> list[str]:
    """The card, or the processor where the record names it."""
    gpu, processor = record.provenance.get("gpu"), record.provenance.get("processor")
    return [str(gpu["name"])] if gpu else [str(processor)] if processor else []


def _after_passes(record: SpeedRecord) -> list[float]:
    """Seconds that the authors' QR takes for the FFNs of all layers by ours for all sites, by turn.

    One FFN is timed and counted once per layer; sums of the Gram matrices are part of the pass.
    Empty where one of them was not timed.
    """
    stages = [record.seconds.get(f"{name}_s") for name in ("errors", "fold_ffn", "fold_heads")]
    authors = record.seconds.get("authors_ffn_s")
    if authors is None or None in stages:
        return []
    ours = [math.fsum(turn) for turn in zip(*stages, strict=True)]
    layers = record.protocol["layers"]
    return [layers * theirs / mine for theirs, mine in zip(authors, ours, strict=True)]


def shown_measurements(records: Sequence[SpeedRecord]) -> str:
    """How many records are shown, and which code made them."""
    commits = sorted({str(record.provenance["commit"]) for record in records})
    return f"{len(records)} records, commits {', '.join(commits)}"
