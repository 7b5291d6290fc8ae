"""Plans from half-precision sums of real activations against float64 sums of the same activations.

    python experiments/half_precision.py --device cuda          # on the CPU without --device

A packaged model computes in bfloat16 and float16. Its activations are added up as the package does
it on that device, and in float64 throughout. Stored are, of every site, the error of the sum, the
pivots of both, and how many of the units kept at 30, 50 and 70 % differ, and whether the plans of
STAT for whole models are equal: two CSV files and a figure in `--results`.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib  # noqa: E402

import stat_repro  # noqa: E402
from stat_repro.calibration import collectors  # noqa: E402
from stat_repro.calibration.collectors import COLLECTORS, GramSum, _BufferedSum  # noqa: E402
from stat_repro.methods.correction import consumer_weight, float64  # noqa: E402
from stat_repro.models.adapter import adapter_for  # noqa: E402
from stat_repro.run.compose import compose_run, prepare  # noqa: E402
from stat_repro.run.sweep_cache import SweepCache  # noqa: E402

RATIOS = (0.3, 0.5, 0.7)
MODELS = {"smollm2": "nyt_editorials", "minilm": "movie_reviews"}


class Float64Sum(GramSum):
    """All products in float64."""

    _new_buffer = _BufferedSum._new_buffer


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Gram matrices are added up in float64 inside the `with`."""
    with (
        mock.patch.dict(COLLECTORS, gram=Float64Sum),
        mock.patch.object(collectors, "FLOAT32_SHARE", 2.0),  # no correlations are that large
    ):
        yield


def both_ways(name: str, dtype: str, device: str, small: bool) -> tuple[list[dict], list[dict]]:
    """Rows about the sites of a model, and about its plans."""
    values: dict[str, Any] = {"dtype": dtype, "device": device, "ratio": 0.5}
    values["calibration.examples"] = 8 if small else {"smollm2": 16, "minilm": 256}[name]
    dataset = {"model": name, "dataset": MODELS[name], "pruning": "stat"}
    config = compose_run(dataset, values)
    dense = SweepCache().dense(config)
    model = dense.loaded.model
    batches = list(dense.workload.calibration(config.calibration, 0).batches)
    ways = []
    for exact in (False, True):
        with float64_throughout() if exact else mock.patch.dict(COLLECTORS):
            calibration = stat_repro.calibrate(model, batches)
            plans = [
                stat_repro.compress(model, batches, ratio=ratio, calibration=calibration).plan
                for ratio in (RATIOS[1:2] if small else RATIOS)
            ]
        ways.append((calibration.statistics, plans))
    (found, plans), (exact_sums, exact_plans) = ways
    about = {"model": name, "dtype": dtype, "device": device}
    sites = []
    for site in adapter_for(model).sites:
        one, two = found[site.key], exact_sums[site.key]
        sites.append(
            {**about, "site": site.name, "tokens": one.tokens, **compared(model, site, one, two)}
        )
    same = [
        {**about, "ratio": ratio, "layers": len(a.layers), "layers that differ": sum(
            x != y for x, y in zip(a.layers, b.layers, strict=True))}
        for ratio, a, b in zip(RATIOS[1:2] if small else RATIOS, plans, exact_plans, strict=True)
    ]  # fmt: skip
    return sites, same


def compared(model: Any, site: Any, found: Any, exact: Any) -> dict[str, Any]:
    """Errors of a sum, and what they do to the pivots."""
    lengths = exact.gram.diagonal().sqrt()
    error = (found.gram - exact.gram) / lengths[:, None] / lengths
    if site.kind == "ffn":
        scale = float64(consumer_weight(model, site)).norm(dim=0)
        one, two = found.pivot_columns(scale), exact.pivot_columns(scale)
    else:
        one, two = found.pivot_units(site.width), exact.pivot_units(site.width)
    kept = [round((1 - ratio) * site.units) for ratio in RATIOS]
    changed = [
        len(set(one.order[:k].tolist()) - set(two.order[:k].tolist())) for k in kept
    ]  # fmt: skip
    deviation = (one.magnitudes - two.magnitudes).abs() / two.magnitudes[0]
    return {
        "error of the sum": float((found.gram - exact.gram).norm() / exact.gram.norm()),
        "largest by lengths": float(error.abs().max()),
        "largest deviation of a pivot by the first": float(deviation.max()),
        "smallest pivot by the first": float(two.magnitudes[-1] / two.magnitudes[0]),
        **{f"changed at {ratio}": n for ratio, n in zip(RATIOS, changed, strict=True)},
        "pivots": (two.magnitudes / two.magnitudes[0]).tolist(),
        "deviations": deviation.tolist(),
    }


def drawn(rows: list[dict], path: Path) -> None:
    """Pivots of all FFNs, and how far those of half-precision sums are off."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    kinds = sorted({(row["model"], row["dtype"]) for row in rows})
    figure, axes = plt.subplots(1, len(kinds), figsize=(3.4 * len(kinds), 3), sharey=True)
    for axis, kind in zip(axes.flat if len(kinds) > 1 else [axes], kinds, strict=True):
        of_kind = [row for row in rows if (row["model"], row["dtype"]) == kind]
        for row in (row for row in of_kind if "ffn" in row["site"]):
            axis.semilogy(row["pivots"], color="tab:blue", linewidth=0.6)
            axis.semilogy(row["deviations"], color="tab:red", linewidth=0.3)
        axis.set(title=f"{kind[0]}, {kind[1]}", xlabel="pivot", ylim=(1e-12, 2))
    figure.axes[0].set_ylabel("by the first pivot\n(red: deviation from float64)")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> int:
    """Measure, store and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "speed")
    parser.add_argument("--models", default="minilm,smollm2")
    parser.add_argument("--small", action="store_true", help="MiniLM, eight examples")
    options = parser.parse_args()
    prepare()
    options.results.mkdir(parents=True, exist_ok=True)
    start = options.results / f"half_precision_{options.device.partition(':')[0]}"
    sites: list[dict] = []
    plans: list[dict] = []
    names = ["minilm"] if options.small else options.models.split(",")
    for name in names:
        for dtype in ("bfloat16", "float16"):
            more, same = both_ways(name, dtype, options.device, options.small)
            sites, plans = sites + more, plans + same
            for row in same:
                print(row, flush=True)
            for rows, kind in ((sites, "sites"), (plans, "plans")):
                path = start.with_name(f"{start.name}_{kind}.csv")
                with path.open("w", newline="", encoding="utf-8") as file:
                    names_of = [key for key in rows[0] if key not in ("pivots", "deviations")]
                    writer = csv.DictWriter(file, names_of, extrasaction="ignore")
                    writer.writeheader()
                    writer.writerows(
                        {k: f"{v:.2e}" if isinstance(v, float) and k != "ratio" else v
                         for k, v in row.items()} for row in rows
                    )  # fmt: skip
            drawn(sites, start.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
