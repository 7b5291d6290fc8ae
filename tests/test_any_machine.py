"""The stored tables come out of the records byte for byte on any machine.

Tables are built in child processes that pretend to be other machines: other kernels of OpenBLAS,
numpy and the C library without the instructions of newer processors, one thread or two. By default
a few telling studies on three machines; all studies and docs/results.md on all machines, in some
minutes:

    STAT_REPRO_ALL_MACHINES=1 python -m pytest tests/test_any_machine.py -v

Figures are not compared: where their lines go is in the tables, and how a font is drawn depends on
the fonts and on the version of FreeType.
"""

import json
import math
import os
import platform
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stat_repro.config import SPEED_STUDY
from stat_repro.reporting import bootstrap

ROOT = Path(__file__).parents[1]
STORED = ROOT / "paper_figures" / "out"
ALL = bool(os.environ.get("STAT_REPRO_ALL_MACHINES"))
STUDIES = (
    sorted(folder.name for folder in STORED.iterdir() if (ROOT / "results" / folder.name).is_dir())
    if ALL
    # An interval that ends at zero, perplexities, measured costs, windows of questions, the speed.
    else ["methods_distilminilm", "methods_smollm2", "cost_minilm", "squad_dev_minilm", SPEED_STUDY]
)

# Kernels of OpenBLAS: what a processor needs to run them, and the names that OpenBLAS gives them.
KERNELS = {
    "Haswell": ({"avx2", "fma"}, {"Haswell"}),
    "Zen": ({"avx2", "fma"}, {"Zen", "Haswell"}),
    "SkylakeX": ({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}, {"SkylakeX"}),
    "Sandybridge": ({"avx"}, {"Sandybridge"}),
    "Nehalem": ({"sse4_2"}, {"Nehalem"}),
}
# As numpy names them; `OLD` is a processor without AVX2, for numpy and for the C library.
DISPATCHED = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
OLD = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(DISPATCHED),
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4",
}
NO_AVX512 = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(n for n in DISPATCHED if "512" in n or n == "X86_V4"),
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F",
}
MACHINES = {
    "Sandybridge, old, 1 thread": ("Sandybridge", 1, OLD),
    "Haswell, 2 threads": ("Haswell", 2, NO_AVX512),
    "SkylakeX, 1 thread": ("SkylakeX", 1, {}),
    "Nehalem, old, 2 threads": ("Nehalem", 2, OLD),
    "Sandybridge, 2 threads": ("Sandybridge", 2, {}),
    "Haswell, 1 thread": ("Haswell", 1, {}),
    "Zen, 1 thread": ("Zen", 1, {}),
    "Zen, 2 threads": ("Zen", 2, NO_AVX512),
    "SkylakeX, 2 threads": ("SkylakeX", 2, {}),
    "this one": (None, None, {}),
}

# Builds the tables without the figures, and says on which machine it thinks that it is.
CHILD = """
import json, runpy, sys
import numpy as np
from threadpoolctl import threadpool_info
build, said, page, *sys.argv[1:] = sys.argv[1:]
blas = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"]
simd = np._core._multiarray_umath.__cpu_features__
text = runpy.run_path(page)["results_page"]() if page else None
with open(said, "w") as file:
    json.dump({"blas": blas, "simd": simd, "page": text}, file)
sys.argv[0] = build
runpy.run_path(build, run_name="__main__")
"""


def can_run(kernel):
    if kernel is None:
        return True
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.is_file() else []
    return platform.machine() == "x86_64" and KERNELS[kernel][0] <= set(flags)


@pytest.mark.parametrize("machine", list(MACHINES) if ALL else list(MACHINES)[:3])
def test_tables_are_the_stored_ones_on_another_machine(tmp_path, machine):
    kernel, threads, others = MACHINES[machine]
    if not can_run(kernel):
        pytest.skip(f"this processor cannot run {kernel}")
    environment = {**os.environ, "STAT_REPRO_LIGHT": "1", "PYTHONPATH": str(ROOT), **others}
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE"):
        environment.pop(name, None)
    if kernel is not None:
        environment |= {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": str(threads)}
    said = tmp_path / "said.json"
    scripts = ROOT / "paper_figures"
    page = str(scripts / "results_page.py") if ALL else ""
    arguments = [str(scripts / "build.py"), str(said), page, "--tables", "--study", *STUDIES]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    # It was another machine indeed.
    facts = json.loads(said.read_text())
    for pool in facts["blas"] if kernel is not None else ():
        assert pool["architecture"] in KERNELS[kernel][1]
        assert pool["num_threads"] == min(threads, len(os.sched_getaffinity(0)))
    disabled = others.get("NPY_DISABLE_CPU_FEATURES", "").split()
    assert not any(facts["simd"][name] for name in disabled)
    if ALL:
        assert facts["page"] == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for study in STUDIES:
        built = sorted((tmp_path / "out" / study).iterdir())
        tables = sorted((STORED / study).glob("table*"))
        assert [path.name for path in built] == [path.name for path in tables]
        for ours, stored in zip(built, tables, strict=True):
            assert ours.read_bytes() == stored.read_bytes(), f"{study}/{ours.name}"


def test_sums_over_drawn_examples_are_exact():
    """Also of values that float64 cannot add up: 1e30 and 1, or the smallest number that it has."""
    generator = np.random.default_rng(0)
    columns = [
        generator.integers(0, 2, 301),
        generator.gamma(0.1, size=301).astype(np.float32),
        np.where(np.arange(301) % 2, 1e30, -1e30) + np.arange(301),
        np.append(np.zeros(299), [5e-324, -1e-310]),
        np.exp(50 * generator.normal(size=301)),
        np.zeros(301),
    ]
    values = np.stack(columns, axis=1).astype(np.float64)
    draws = np.concatenate(list(bootstrap._draws(301, 20, 0)))
    sums = bootstrap.resampled_sums(values, resamples=20)
    for column, got in zip(values.T, sums.T, strict=True):
        fractions = [Fraction(value) for value in column]
        for drawn, one in zip(draws, got, strict=True):
            exact = sum(int(count) * value for count, value in zip(drawn, fractions, strict=True))
            assert math.isclose(one, float(exact), rel_tol=4e-16, abs_tol=0)
        # In another order, as another machine would add.
        order = generator.permutation(301)
        parts, _ = bootstrap._split(column[:, None])
        for part in parts.T:
            assert np.array_equal(draws @ part, draws[:, order] @ part[order])
    assert sums[:, 0].tolist() == (draws @ values[:, 0]).tolist()


def test_a_sum_is_rounded_once():
    assert bootstrap.total(np.array([1e16, 1.0, -1e16, -1.0])) == 0
    assert bootstrap.total(np.array([1e16, 1.0, 1.0])) == 1e16 + 2
    assert bootstrap.total(np.array([math.inf, 1.0])) == math.inf
    assert math.isnan(bootstrap.total(np.array([math.inf, -math.inf])))
