"""Structured pruning of trained transformers without gradients (STAT and beyond).

`import stat_repro` also makes pruned models known to transformers, so that
`AutoModelForSequenceClassification.from_pretrained(folder)` and its siblings load them.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stat_repro.api import Compression as Compression
    from stat_repro.api import calibrate as calibrate
    from stat_repro.api import compress as compress
    from stat_repro.calibration.sketch import Sketch as Sketch
    from stat_repro.models.peft_targets import register_peft_targets as register_peft_targets
    from stat_repro.plan import LayerPlan as LayerPlan
    from stat_repro.plan import PruningPlan as PruningPlan
    from stat_repro.report import CompressionReport as CompressionReport
    from stat_repro.sharded.compress import CheckpointCompression as CheckpointCompression
    from stat_repro.sharded.compress import compress_checkpoint as compress_checkpoint
    from stat_repro.surgery.checkpoint import load_plan as load_plan
    from stat_repro.surgery.checkpoint import save_pruned as save_pruned

__version__ = "0.1.0"

# Tables and figures are built from records without torch: paper_figures/build.py asks for that. The
# program `stat-repro` loads what its command needs.
if os.environ.get("STAT_REPRO_LIGHT") != "1" and Path(sys.argv[0]).stem != "stat-repro":
    try:
        import_module("stat_repro.models.modeling_stat")
    except KeyboardInterrupt:
        if sys.argv[0] != "-m":  # not one of this package's commands
            raise
        print("interrupted: nothing was started", file=sys.stderr)
        sys.exit(130)

# For the same reason names are loaded when first used.
_LAZY = {
    "stat_repro.api": ("Compression", "calibrate", "compress"),
    "stat_repro.calibration.sketch": ("Sketch",),
    "stat_repro.models.peft_targets": ("register_peft_targets",),
    "stat_repro.plan": ("LayerPlan", "PruningPlan"),
    "stat_repro.report": ("CompressionReport",),
    "stat_repro.sharded.compress": ("CheckpointCompression", "compress_checkpoint"),
    "stat_repro.surgery.checkpoint": ("load_plan", "save_pruned"),
}

__all__ = ["__version__", *(name for names in _LAZY.values() for name in names)]


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
