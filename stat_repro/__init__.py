"""Structured pruning of trained transformers without gradients (STAT and beyond).

`import stat_repro` also makes pruned models known to transformers, so that
`AutoModelForSequenceClassification.from_pretrained(folder)` and its siblings load them.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stat_repro.api import Compression, calibrate, compress
    from stat_repro.calibration.sketch import Sketch
    from stat_repro.plan import LayerPlan, PruningPlan
    from stat_repro.report import CompressionReport
    from stat_repro.sharded.compress import CheckpointCompression, compress_checkpoint
    from stat_repro.surgery.checkpoint import load_plan, save_pruned

__version__ = "0.1.0"

# Tables and figures are built from records without torch: paper_figures/build.py asks for that.
if os.environ.get("STAT_REPRO_LIGHT") != "1":
    import_module("stat_repro.models.modeling_stat")

# For the same reason names are loaded when first used.
_LAZY = {
    "CheckpointCompression": "stat_repro.sharded.compress",
    "Compression": "stat_repro.api",
    "CompressionReport": "stat_repro.report",
    "LayerPlan": "stat_repro.plan",
    "PruningPlan": "stat_repro.plan",
    "Sketch": "stat_repro.calibration.sketch",
    "calibrate": "stat_repro.api",
    "compress": "stat_repro.api",
    "compress_checkpoint": "stat_repro.sharded.compress",
    "load_plan": "stat_repro.surgery.checkpoint",
    "save_pruned": "stat_repro.surgery.checkpoint",
}

__all__ = [
    "CheckpointCompression",
    "Compression",
    "CompressionReport",
    "LayerPlan",
    "PruningPlan",
    "Sketch",
    "__version__",
    "calibrate",
    "compress",
    "compress_checkpoint",
    "load_plan",
    "save_pruned",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
