"""Shared set-up: tiny tests use one thread, which is faster for them and kind to the machine."""

import os
import tempfile

# Code of model folders that tests load goes to a folder of its own, not to the user's.
_MODULES = tempfile.TemporaryDirectory(prefix="stat_repro_modules_")
os.environ["HF_MODULES_CACHE"] = _MODULES.name
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing asks the hub: without this every refused connection is tried again for seconds.
for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402
import torch  # noqa: E402

THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def _threads(request):
    real = request.node.get_closest_marker("real") is not None
    torch.set_num_threads(THREADS if real else 1)
