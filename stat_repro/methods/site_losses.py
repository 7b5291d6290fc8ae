"""What the model's output loses by each site: measured at few sizes, fitted for all.

One site is cut to one size, its consumer corrected, and the model run on some of the calibration
examples; the divergence of its output from the dense model's is that size's loss. No labels and no
gradients take part.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch

from stat_repro.allocation.losses import fitted_losses
from stat_repro.allocation.scores import Vector
from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.divergence import DenseRun
from stat_repro.linalg.elimination import Elimination
from stat_repro.methods.base import MethodInput
from stat_repro.methods.common import Key
from stat_repro.methods.correction import fold_site
from stat_repro.models.adapter import Site
from stat_repro.plan import SiteKind
from stat_repro.progress import track
from stat_repro.surgery.edit import temporarily_pruned

# Shares of the units kept at which the loss is measured: where plans for ratios up to 0.8 end up.
MEASURED_SHARES: dict[SiteKind, tuple[float, ...]] = {
    "attention": (1 / 4, 2 / 3),
    "ffn": (0.08, 0.4),
}


def site_losses(
    request: MethodInput, eliminations: Mapping[Key, Elimination], tokens: int
) -> dict[Key, Vector]:
    """Loss of the model's output with 0..H units of a site kept and all others whole.

    Args:
        request: What the method was given.
        eliminations: Order and output errors of every site with units.
        tokens: Calibration tokens that the losses are measured on.

    Returns:
        Per site, shape (H + 1,): mean KL divergence in nats per prediction (squared difference for
        outputs that are no probabilities), never increasing.

    Raises:
        CalibrationError: Outputs that are not finite; names the site.
    """
    sites = [site for site in request.adapter.sites if site.units]
    dense = DenseRun(request.model, request.adapter, request.batches, tokens)
    losses = {site.key: np.zeros(1) for site in request.adapter.sites}
    for site in track(sites, "measuring what each site matters", unit="sites"):
        elimination, kept = eliminations[site.key], _sizes(site)
        measured = [_loss(request, site, elimination.order[:size], dense) for size in kept]
        losses[site.key] = fitted_losses(elimination.errors.numpy(), kept, measured)
    return losses


def _sizes(site: Site) -> list[int]:
    """Sizes to measure, the whole site excluded."""
    shares = MEASURED_SHARES[site.kind]
    sizes = {max(1, round(share * site.units)) for share in shares}
    return sorted(sizes - {site.units}) or [0]


def _loss(request: MethodInput, site: Site, kept: torch.Tensor, dense: DenseRun) -> float:
    edit = fold_site(request.model, site, kept, request.calibration, request.config)
    with temporarily_pruned(request.model, [edit]):
        loss = dense.divergence(site.layer)
    if not math.isfinite(loss):
        raise CalibrationError(
            f"{site.name}: expected finite outputs with {len(kept)} of {site.units} units; got "
            f"a divergence of {loss} (a model in a half type may need dtype=float32)"
        )
    return loss
