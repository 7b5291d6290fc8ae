"""Shared set-up: tiny tests use one thread, which is faster for them and kind to the machine.

Tests on real models use all cores, or those that are left to a worker of several.
"""

import importlib.util
import os
import tempfile
from pathlib import Path

# Code of model folders that tests load goes to a folder of its own, not to the user's.
_MODULES = tempfile.TemporaryDirectory(prefix="stat_repro_modules_")
os.environ["HF_MODULES_CACHE"] = _MODULES.name
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Weights that were read from a file lie where its header ends, and without this MKL rounds by how
# memory is aligned: a model would be equal to its saved form on some machines only.
os.environ.setdefault("MKL_CBWR", "AUTO")
# Nothing asks the hub: without this every refused connection is tried again for seconds.
for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
    os.environ.setdefault(_name, "1")
# As `stat_repro.run.cli.main` sets it, for tests that compose without it.
os.environ["STAT_REPRO_EXPERIMENTS"] = str(Path(__file__).resolve().parents[1] / "experiments")

import datasets  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from command_server import command_server  # noqa: E402

THREADS = torch.get_num_threads()


def pytest_configure(config):
    """Without `-m gpu` no test finds a GPU: runs take the CPU, and processes can fork."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before any fixture, so that those of a module have the threads of their tests."""
    real = item.get_closest_marker("real") is not None
    torch.set_num_threads(THREADS if real else 1)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The CPU, and a GPU where there is one (`make gpu` runs the tests marked gpu alone)."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device, or no `-m gpu`")
    return torch.device(request.param)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder for one test."""
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own_datasets_cache(tmp_path, monkeypatch):
    """What `datasets` keeps of local files goes to the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="session")
def build():
    """paper_figures/build.py as a module; its request for a light package stays inside."""
    before = os.environ.get("STAT_REPRO_LIGHT")
    script = Path(__file__).parents[1] / "paper_figures" / "build.py"
    spec = importlib.util.spec_from_file_location("build", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if before is None:
        del os.environ["STAT_REPRO_LIGHT"]
    return module


@pytest.fixture(scope="session")
def run():
    """`run(arguments, cwd, **environment)`: a command and what became of it."""
    with command_server() as run_in_fork:
        yield run_in_fork
