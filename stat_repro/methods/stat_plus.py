"""stat_plus: STAT's frame, with other choices where they were measured to work better.

It uses no labels and no gradients, as STAT, and the same calibration examples:

1. Units of a site are ordered by backward elimination: the one goes next whose loss raises the
   error of the consumer's output least, the consumer fitted again after every step
   (`linalg.elimination`), instead of by pivots of the activations.
2. Sizes follow from what the model's output loses by each site, measured on some of the
   calibration examples and extended to all sizes by the output errors of step 1
   (`methods.site_losses`), as a knapsack (`allocation.losses`), instead of from depth weights.
3. Corrections keep a constant as well (`correction=affine`).
4. Consumers are fitted once more, front to back, to the dense model's residual stream
   (`methods.stream_refit`).

Each step can be switched off: `allocation=stat` or `uniform`, `correction=lstsq` or `none`,
`refit=false`. With `curvature=fisher` the errors of steps 1 and 2 are those of the model's output
to second order (`calibration.curvature`): its gradients take part, still no labels, and nothing is
measured site by site.
"""

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

import numpy as np
import torch

from stat_repro.allocation.allocate import Sizes, allocate_ranked
from stat_repro.allocation.budget import Budget
from stat_repro.allocation.losses import allocate_losses
from stat_repro.allocation.scores import Vector
from stat_repro.calibration.curvature import output_curvature
from stat_repro.config import LEAST_SQUARES
from stat_repro.linalg.damping import damped_root
from stat_repro.linalg.elimination import Elimination, eliminate
from stat_repro.methods.base import MethodInput, MethodOutput
from stat_repro.methods.common import Key, fold_all, once_per_calibration, output_of
from stat_repro.methods.correction import consumer_weight, float64, fold_site
from stat_repro.methods.site_losses import site_losses
from stat_repro.methods.stat import sizes_of_stat
from stat_repro.methods.stream_refit import refit_to_stream
from stat_repro.models.adapter import Site
from stat_repro.progress import track
from stat_repro.surgery.edit import SiteEdit

log = logging.getLogger("stat_repro")

# Relative ridge of the elimination. MiniLM, movie_reviews, KL on the validation part at ratio 0.5:
# 0.0169, 0.0165, 0.0154, 0.0176 for 1e-4 to 1e-1, at 0.7 0.0481, 0.0475, 0.0498, 0.0512 (steps 1 to
# 3, one seed): the order of units fitted to few tokens wants some, and little.
RIDGE = 1e-3

# Added to the curvature of every output direction, as a share of the mean: a few hundred examples
# do not tell which directions are free. Trials as above, all steps, for 0.03, 0.1 and 0.3: 0.0114,
# 0.0112, 0.0114 and 0.0363, 0.0354, 0.0375.
CURVATURE_FLOOR = 0.1

# Ridge of the corrections where the widest site has fewer calibration tokens per column than this.
# The fits of this method are more and freer than STAT's, and with few tokens they fit those.
# MiniLM, movie_reviews, KL on the validation part at 0.5, one seed, ridge 0, 0.01, 0.03, 0.1:
# 16 sentences 0.457, 0.156, 0.148, 0.134; 64: 0.0395, 0.0329, 0.0308, 0.0372; 128 (2.3 tokens per
# column): 0.0230, 0.0214, 0.0209, 0.0249; 256 (4.6): 0.0175, 0.0176, 0.0188, 0.0230.
FEW_TOKENS = 4
FEW_TOKENS_RIDGE = 0.03


def prune(request: MethodInput) -> MethodOutput:
    """Plan and edits of stat_plus for one model and one ratio."""
    request = _damped(request)
    eliminations, losses = _analysis(request)
    sizes = _sizes(request, losses)

    def kept(site: Site) -> torch.Tensor:
        return eliminations[site.key].order[: sizes.of(site)]

    if request.config.refit:
        edits = _fold_to_stream(request, kept)
    else:
        edits = fold_all(request, lambda site, _: kept(site))
    return output_of(request, edits, sizes.details)


def _damped(request: MethodInput) -> MethodInput:
    """The same request, with a ridge where there are few tokens and none is asked for."""
    config, tokens = request.config, request.calibration.tokens
    columns = max(site.columns for site in request.adapter.sites)
    fitted = config.correction in LEAST_SQUARES
    if not fitted or config.ridge > 0 or tokens >= FEW_TOKENS * columns:
        return request
    log.warning(
        "%d calibration tokens are fewer than %d per column of the widest site (%d): stat_plus "
        "fits with pruning.ridge=%g; more examples are better",
        *(tokens, FEW_TOKENS, columns, FEW_TOKENS_RIDGE),
    )
    return replace(request, config=replace(config, ridge=FEW_TOKENS_RIDGE))


# Order and output errors of every site; and the loss of the model's output with 0..H units of a
# site kept, which is the output errors where it is not measured.
Analysis = tuple[Mapping[Key, Elimination], Mapping[Key, Vector]]


def _analysis(request: MethodInput) -> Analysis:
    """What is the same for all ratios; worked out once for all of one calibration."""
    config = request.config
    # `problem_type` says how the model's outputs are compared; a first loss may write it.
    problem = getattr(request.model.config, "problem_type", None)
    options: tuple[Hashable, ...] = (config.curvature, problem)
    if config.curvature == "fisher":
        options += (request.seed,)
    if config.measures_sizes:  # with the correction; nothing else depends on the options
        options += (config.correction, config.ridge, config.sensitivity_tokens)

    def work(request: MethodInput) -> Analysis:
        roots: Mapping[Key, torch.Tensor] = {}
        if config.curvature == "fisher":
            with request.watch.stage("curvature_s"):
                curvature = output_curvature(
                    request.model, request.adapter, request.batches, request.seed
                )
                roots = {key: damped_root(c, CURVATURE_FLOOR) for key, c in curvature.items()}
        with request.watch.stage("eliminate_s"):
            eliminations = {
                site.key: _elimination(request, site, roots.get(site.key))
                for site in track(request.adapter.sites, "eliminating units", unit="sites")
            }
        if config.measures_sizes:
            with request.watch.stage("sensitivity_s"):
                losses = site_losses(request, eliminations, config.sensitivity_tokens)
        else:
            losses = {key: one.errors.numpy() for key, one in eliminations.items()}
        return eliminations, losses

    return once_per_calibration(request, ("stat_plus", *options), work)


def _elimination(request: MethodInput, site: Site, root: torch.Tensor | None) -> Elimination:
    """Of the centred statistics: the mean of a unit that goes is left in the bias.

    Args:
        request: What the method was given.
        site: The site.
        root: What output errors are multiplied with, shape (D, D); None for the errors as they are.
    """
    if not site.units:
        return Elimination(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.float64))
    weight = float64(consumer_weight(request.model, site))
    if root is not None:
        weight = root.to(weight) @ weight
    return eliminate(request.statistics_of(site).centred().gram, weight, site.width, RIDGE)


def _sizes(request: MethodInput, losses: Mapping[Key, Vector]) -> Sizes:
    """Units per layer by the configured allocation, neurons rounded."""
    if request.config.allocation == "stat":
        return sizes_of_stat(request)

    heads, neurons = (
        [losses[site.key] for site in request.adapter.of_kind(kind)]
        for kind in ("attention", "ffn")
    )
    head_steps, steps = ([-np.diff(loss) for loss in of_kind] for of_kind in (heads, neurons))

    def allocated(budget: Budget) -> Sizes:
        if request.config.allocation == "global":
            return allocate_losses(heads, neurons, budget)
        return allocate_ranked(head_steps, steps, budget, uniform=True, split="proportional")

    with request.watch.stage("allocate_s"):
        return request.sized(allocated, steps)


def _fold_to_stream(request: MethodInput, kept: Callable[[Site], torch.Tensor]) -> list[SiteEdit]:
    """Corrections from the dense statistics, then consumers moved towards the dense stream.

    The errors are those of the corrections: with a moved consumer a site is not alone any more.
    """
    config = request.config
    with request.watch.stage("fold_s"):
        static = {
            site.key: fold_site(request.model, site, kept(site), request.calibration, config)
            for site in track(request.adapter.sites, "folding sites", unit="sites")
            if site.units
        }
    with request.watch.stage("refit_s"):
        return list(refit_to_stream(request, static).values())
