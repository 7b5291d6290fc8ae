"""What methods are given, in tests of their parts."""

import torch
from pico_models import pico_batches, pico_model

import stat_repro
from stat_repro.calibration.capture import Calibration, collect_statistics
from stat_repro.config import PruningConfig
from stat_repro.methods.base import MethodInput
from stat_repro.methods.correction import fold_site
from stat_repro.models.adapter import adapter_for


def request_for(model, calibration=None, *, batches=(), config=None, seed=0):
    """A request for this model, without statistics unless a calibration is given."""
    calibration = Calibration({}, 1, 1) if calibration is None else calibration
    return MethodInput(
        model=model,
        adapter=adapter_for(model),
        batches=batches,
        ratio=0.4,
        sequence_length=calibration.mean_length,
        config=PruningConfig() if config is None else config,
        statistics_kind="gram",
        calibration=calibration,
        seed=seed,
    )


def stat_plus_request(name, count=3, **options):
    """What stat_plus is given for a pico model and some batches."""
    model = pico_model(name, dtype=torch.float64)
    batches = pico_batches(model, count=count)
    config = PruningConfig(method="stat_plus", correction="affine", refit=True, **options)
    calibration = collect_statistics(model, adapter_for(model), batches)
    return request_for(model, calibration, batches=batches, config=config)


def folded(request, share):
    """Edits that keep the first units of every site."""
    edits = {}
    for site in request.adapter.sites:
        kept = torch.arange(max(1, round(share * site.units)))
        edits[site.key] = fold_site(request.model, site, kept, request.calibration, request.config)
    return edits


def shares_and_agrees(model, batches, calibration, **options):
    """Whether a ratio used what others of its calibration had done, which must change nothing."""
    together = stat_repro.compress(model, batches, calibration=calibration, **options)
    alone = stat_repro.compress(model, batches, **options)
    assert together.plan == alone.plan
    for key, value in alone.model.state_dict().items():
        assert torch.equal(together.model.state_dict()[key], value)
    return together.report.timings["shared_s"] > 0
