"""What stat_plus is given in tests of its parts."""

import torch
from pico_models import pico_batches, pico_model

from stat_repro.calibration.capture import collect_statistics
from stat_repro.config import PruningConfig
from stat_repro.methods.base import MethodInput
from stat_repro.methods.correction import fold_site
from stat_repro.models.adapter import adapter_for


def task_of(name, count=3, **options):
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model, count=count)
    adapter = adapter_for(model)
    calibration = collect_statistics(model, adapter, batches)
    config = PruningConfig(method="stat_plus", correction="affine", refit=True, **options)
    return MethodInput(
        model=model,
        adapter=adapter,
        batches=batches,
        ratio=0.4,
        sequence_length=calibration.mean_length,
        config=config,
        statistics="gram",
        calibration=calibration,
    )


def folded(task, share):
    """Edits that keep the first units of every site."""
    edits = {}
    for site in task.adapter.sites:
        kept = torch.arange(max(1, round(share * site.units)))
        edit, _ = fold_site(task.model, site, kept, task.calibration, task.config)
        edits[site.layer, site.kind] = edit
    return edits
