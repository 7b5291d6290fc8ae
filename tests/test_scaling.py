"""docs/scaling.md is true: its tables follow from its formulas, and from the stored records."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers as hf

from stat_repro import results
from stat_repro.calibration.collectors import BUFFER_ROWS
from stat_repro.calibration.spill import gram_file_bytes

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
RATIO, TOKENS, WINDOW = 0.3, 512 * 2048, 2048


@dataclass(frozen=True)
class Llama:
    layers: int
    hidden: int
    neurons: int
    heads: int
    groups: int
    head_size: int

    @property
    def columns(self):
        return self.heads * self.head_size

    @property
    def attention(self):
        """Parameters of the four attention projections, by hidden size."""
        return 2 * self.columns + 2 * self.groups * self.head_size


LLAMAS = {
    "llama2_7b": Llama(32, 4096, 11008, 32, 32, 128),
    "llama2_70b": Llama(80, 8192, 28672, 64, 8, 128),
}
SMALL = Llama(2, 4, 6, 2, 1, 3)


def forward(s, tokens, window, neurons):
    return s.layers * tokens * 2 * (s.hidden * (s.attention + 3 * neurons) + 2 * window * s.columns)


def entries(columns):
    """Numbers on and above the diagonal blocks of a Gram matrix."""
    return gram_file_bytes(columns) // 8


def fold(hidden, columns, kept):
    solved = kept**3 / 3 + 2 * hidden * (columns - kept) * kept + 2 * hidden * kept**2
    return solved + 4 * hidden * entries(columns)


def gram_traffic(columns, tokens):
    return 2 * 8 * entries(columns) * -(-tokens // BUFFER_ROWS)


def counts(s, tokens, window, ratio):
    """FLOPs by stage, for one run with uniform sizes."""
    f, a, kept = s.neurons, s.columns, 1 - ratio
    return {
        "forward passes": forward(s, tokens, window, f) + forward(s, tokens, window, kept * f),
        "Gram sums": s.layers * 2 * tokens * (entries(f) + 2 * entries(a)),
        "pivots of the FFNs": s.layers * f**3 / 3,
        "errors of the heads": s.layers * (a**3 / 3 + 2 * a * a * s.hidden),
        "folds": s.layers * (fold(s.hidden, f, kept * f) + fold(s.hidden, a, kept * a)),
    }


def moved(s, tokens, ratio):
    """Bytes over the link to the device, one way; of device memory for the sums; of the disk."""
    weights = 2 * s.layers * s.hidden * (s.attention + 3 * s.neurons)
    per_layer = gram_traffic(s.neurons, tokens) + 2 * gram_traffic(s.columns, tokens)
    return {
        "link": 2 * s.layers * tokens * s.hidden * 2,
        "memory": s.layers * per_layer,
        "disk": (2 + 1 - ratio) * weights + 2 * s.layers * gram_file_bytes(s.neurons),
    }


# Rates of the data sheets times the shares that the page assumes.
GPUS = {
    "A100": {"half": 312e12, "double": 19.5e12, "memory": 2.04e12, "link": 32e9, "disk": 2e9},
    "H100": {"half": 989e12, "double": 67e12, "memory": 3.35e12, "link": 64e9, "disk": 2e9},
}
SHARES = {"half": 0.4, "double": 0.5, "memory": 0.6, "link": 0.6, "disk": 0.8}
LAUNCH, LAUNCHES_PER_PIVOT = 6e-6, 28


def seconds(s, gpu, tokens, window, ratio):
    """Of every stage on a GPU: the slowest of computing, moving data and starting kernels."""
    rate = {key: value * SHARES[key] for key, value in GPUS[gpu].items()}
    flops, data = counts(s, tokens, window, ratio), moved(s, tokens, ratio)
    per_pivot = s.layers * LAUNCHES_PER_PIVOT * LAUNCH
    panels = s.neurons / 128
    pivoting = s.layers * (8 * s.neurons**2 * 33 + 16 * s.neurons**2 * panels / 3)
    doubles = {key: value / rate["double"] for key, value in flops.items()}
    return {
        "forward passes": max(flops["forward passes"] / rate["half"], data["link"] / rate["link"]),
        "Gram sums": max(doubles["Gram sums"], data["memory"] / rate["memory"]),
        "pivots of the FFNs": max(
            doubles["pivots of the FFNs"], pivoting / rate["memory"], per_pivot * s.neurons
        ),
        "errors of the heads": doubles["errors of the heads"],
        "folds": max(doubles["folds"], per_pivot * (1 - ratio) * (s.neurons + s.columns)),
        "disk": data["disk"] / rate["disk"],
    }


# Rows of the measured table, and the timings of a stored record that they add up.
MEASURED = {
    "both passes with their sums": ("calibrate", "recalibrate"),
    "pivots, errors of the heads": ("errors",),
    "folding": ("fold_ffn", "fold_heads"),
}


def grouped(flops, s):
    """FLOPs by rows of the measured table: the FFNs' dense output is measured with the pivots."""
    dense_outputs = s.layers * 2 * s.hidden * entries(s.neurons)
    sums = (
        flops["forward passes"] + flops["Gram sums"],
        flops["pivots of the FFNs"] + flops["errors of the heads"] + dense_outputs,
        flops["folds"] - dense_outputs,
    )
    return dict(zip(MEASURED, sums, strict=True))


def short(value):
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def row(label):
    (cells,) = re.findall(rf"^\| {re.escape(label)} \|(.*)\|$", PAGE, flags=re.MULTILINE)
    return [cell.strip() for cell in cells.split("|")]


@pytest.mark.parametrize("stage", counts(SMALL, 1, 1, 0.5))
def test_counts_of_the_page_follow_from_its_formulas(stage):
    _, *cells = row(stage)
    assert cells == [short(counts(s, TOKENS, WINDOW, RATIO)[stage]) for s in LLAMAS.values()]


def test_bytes_of_the_page_follow_from_the_sizes():
    for label, key in (
        ("hidden states, to the device", "link"),
        ("Gram sums, in device memory", "memory"),
        ("weights and Gram matrices, disk", "disk"),
    ):
        assert row(label)[1:] == [short(moved(s, TOKENS, RATIO)[key]) for s in LLAMAS.values()]


@pytest.mark.parametrize("stage", [*seconds(SMALL, "H100", 1, 1, 0.5), "sum"])
def test_seconds_of_the_page_follow_from_the_rates(stage):
    expected = []
    for s in LLAMAS.values():
        for gpu in GPUS:
            taken = seconds(s, gpu, TOKENS, WINDOW, RATIO)
            expected.append(f"{sum(taken.values()) if stage == 'sum' else taken[stage]:,.0f}")
    assert row(f"{stage} (s)") == expected


def test_measured_rates_of_the_page_are_those_of_the_records():
    records = results.load_speed(ROOT / "results")
    (record,) = [r for r in records if r.name == "sharded_4096x11008-n4x512-d8"]
    shape = Llama(8, 4096, 11008, 32, 32, 128)
    small = grouped(counts(shape, 4 * 512, 512, record.protocol["ratio"]), shape)
    whole = grouped(counts(LLAMAS["llama2_7b"], TOKENS, WINDOW, RATIO), LLAMAS["llama2_7b"])
    for label, stages in MEASURED.items():
        taken = sum(record.seconds[f"{stage}_s"][0] for stage in stages)
        rate = small[label] / taken
        hours = whole[label] / rate / 3600
        assert row(label) == [short(small[label]), f"{taken:.0f}", f"{rate / 1e9:.0f}",
                              f"{hours:.1f}"]  # fmt: skip


def test_peaks_of_the_page_are_those_of_the_records():
    """Those of the CPU; where a GPU computes, the sums may wait in the host's memory."""
    shown = [r for r in results.load_speed(ROOT / "results") if r.shape == "sharded_4096x11008"]
    peaks = [r.memory["process_peak"] for r in shown if r.provenance.get("gpu") is None]
    assert re.findall(r"([\d.]+) GB with", PAGE) == [f"{peak / 1e9:.2f}" for peak in peaks]


def test_counts_by_hand():
    # Per token: q and o 2 * 4 * 6, k and v 2 * 4 * 3, FFN 3 * 4 * 6 multiply-adds; scores and sums
    # over 5 positions 2 * 5 * 6.
    per_token = 48 + 24 + 72 + 60
    assert forward(SMALL, 10, 5, 6) == 2 * 10 * 2 * per_token
    assert forward(SMALL, 10, 5, 3) == 2 * 10 * 2 * (per_token - 36)
    # 400 columns: block rows of 384 and 16.
    assert entries(400) == 384 * 400 + 16 * 16
    assert gram_traffic(400, 257) == 2 * 2 * 8 * entries(400)
    # k = 2 of F = 3 columns, D = 4 rows: 8/3 + 2*4*1*2 + 2*4*4 + two errors of 2*4*9.
    assert fold(4, 3, 2) == pytest.approx(8 / 3 + 16 + 32 + 144)


def test_parameters_are_those_of_the_modules_and_the_published_ones():
    with torch.device("meta"):
        config = hf.LlamaConfig(
            hidden_size=4, num_attention_heads=2, num_key_value_heads=1, head_dim=3,
            intermediate_size=6, num_hidden_layers=2,
        )  # fmt: skip
        layer = hf.LlamaModel(config).layers[0]
    linears = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]

    def parameters(s):
        return s.hidden * (s.attention + 3 * s.neurons)

    assert sum(m.weight.numel() for m in linears) == parameters(SMALL)
    total = {name: s.layers * parameters(s) / 1e9 for name, s in LLAMAS.items()}
    assert {k: round(v, 2) for k, v in total.items()} == {"llama2_7b": 6.48, "llama2_70b": 68.45}
    assert all((ROOT / "conf" / "model" / f"{name}.yaml").is_file() for name in LLAMAS)


def test_what_bert_base_takes_at_least_is_counted_as_the_page_says():
    text = " ".join(
        PAGE.partition("### How much less is possible")[2].partition("\n## ")[0].split()
    )
    hidden, neurons, tokens = 768, 3072, 128
    first, second = (
        4 * hidden**2 + 2 * hidden * kept + 2 * tokens * hidden for kept in (neurons, neurons / 2)
    )
    heads = hidden**2 / 2
    sums = neurons**2 / 2 + heads
    assert f"2 S D = {first / 1e6:.1f} million" in text
    assert f"half of the neurons {second / 1e6:.1f} million" in text
    assert f"in each pass {(sums + heads) / 1e6:.1f} million" in text
    assert f"the passes {(sums + heads) / (first + second):.2f} of both" in text
    counted = [f"{value / 1e6:.1f}" for value in (first, sums, second + heads)]
    assert "({} + {} + 6 x {}) / ({} + {} + {})".format(*counted, *counted) in text
    six = (first + sums + 6 * (second + heads)) / (first + sums + second + heads)
    assert f"= {six:.1f} times" in text
