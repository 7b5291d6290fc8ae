"""What the kept units take over from the removed ones: the corrections, one site at a time.

A is what the consumer reads, W and b its weight and bias, K the kept columns:

- `none`: W[:, K].
- `lstsq`: W T^T with A ~= A[:, K] T (STAT, arXiv 2406.00061; Lee et al. 2020).
- `bias`: W[:, K], and b + W[:, removed] mean(A[:, removed]) (FLAP, An et al. 2024, section 3.4).
- `affine`: A ~= A[:, K] T + 1 c^T, fitted on centred statistics with c = mean - T^T mean[K]; W T^T
  and b + W c. It is an interpolative decomposition in which a constant column is always kept.
- `scale`: W[:, K] with one factor per kept unit, by least squares (mask tuning of Kwon et al. 2022,
  section 3.3).
"""

import logging
from dataclasses import dataclass

import torch
from torch import nn

from stat_repro.calibration.capture import Calibration
from stat_repro.calibration.statistics import SiteStatistics
from stat_repro.config import PruningConfig
from stat_repro.linalg.interpolative import fold
from stat_repro.linalg.pivoting import NOISE_RTOL, check_finite
from stat_repro.linalg.units import output_products, unit_columns
from stat_repro.models.adapter import Site
from stat_repro.models.devices import float64_home
from stat_repro.models.projections import linear
from stat_repro.surgery.edit import SiteEdit

log = logging.getLogger("stat_repro")

# Factors of mask tuning beyond this are not trusted, as in the code of Kwon et al.
MAX_SCALE = 10.0


def fold_site(
    model: nn.Module,
    site: Site,
    kept_units: torch.Tensor,
    calibration: Calibration,
    config: PruningConfig,
    norm: float | None = None,
) -> SiteEdit:
    """Keep these units of a site and fold the correction into its consumer.

    Args:
        model: The dense model.
        site: A site of it.
        kept_units: Unit indices in any order.
        calibration: Statistics that the correction is fitted to; may lack the site where there is
            no correction.
        config: `correction` and `ridge` are used.
        norm: ||A W^T||_F of the dense consumer, if it is known already.
    """
    units = kept_units.sort().values
    kept = tuple(units.tolist())
    weight = consumer_weight(model, site)
    if len(kept) == site.units:
        return SiteEdit(site, kept, weight.clone(), relative_error=0.0)
    exact = float64(weight)
    columns = unit_columns(units.to(exact.device), site.width)
    statistics = calibration.statistics.get(site.key)
    shift = error = None
    if statistics is None:
        if config.correction != "none":
            raise ValueError(f"{site.name}: correction={config.correction} needs its statistics")
        folded = exact[:, columns]
    else:
        cut = _Cut(site, exact, statistics, columns)
        folded, shift = _corrected(cut, config)
        norm = statistics.output_error(exact) if norm is None else norm
        if norm > 0:
            error = _output_error(cut, folded, shift) / norm
    bias = None if shift is None else moved(linear(model, site.consumer).bias, shift, weight)
    return SiteEdit(site, kept, folded.to(weight), bias, error)


@dataclass(frozen=True)
class _Cut:
    """A site that keeps some columns.

    Attributes:
        site: The site.
        weight: Weight of its consumer, (D, F), float64.
        statistics: That the correction is fitted to.
        columns: The kept ones, (k,).
    """

    site: Site
    weight: torch.Tensor
    statistics: SiteStatistics
    columns: torch.Tensor


def _corrected(cut: _Cut, config: PruningConfig) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The new weight (D, k), float64, and what is added to the bias (D,), if anything."""
    weight, statistics, columns = cut.weight, cut.statistics, cut.columns
    if config.correction == "lstsq":
        return statistics.fold(weight, columns, config.ridge).to(weight.device), None
    if config.correction == "bias":
        missing = statistics.mean.to(weight).clone()
        missing[columns] = 0.0
        return weight[:, columns], weight @ missing
    if config.correction == "affine":
        interpolation = statistics.centred().interpolation(columns, config.ridge)
        interpolation = interpolation.to(weight.device)
        mean = statistics.mean.to(weight)
        constant = mean - interpolation.T @ mean[columns]
        return fold(weight, interpolation), weight @ constant
    if config.correction == "scale":
        factors = _scales(cut, config.ridge)
        return weight[:, columns] * factors.repeat_interleave(cut.site.width), None
    return weight[:, columns], None


def _scales(cut: _Cut, ridge: float) -> torch.Tensor:
    """Factors m of the kept units, (k,), that bring sum m_u y_u closest to the dense output.

    y_u is what unit u adds to the output. The factors are 1 + d with the smallest d among equals;
    the ridge draws d to zero. A site with a factor beyond `MAX_SCALE` keeps all at 1.
    """
    width = cut.site.width
    products = output_products(cut.statistics.gram, cut.weight, width).to(cut.weight.device)
    kept = cut.columns[::width] // width
    normal = products[kept][:, kept]
    missing = products[kept].sum(dim=1) - normal.sum(dim=1)  # inner products with what is removed
    if not len(kept):
        return missing
    normal = normal + ridge * products.diagonal().mean() * torch.eye(len(kept)).to(normal)
    values, vectors = torch.linalg.eigh(normal)
    live = values > NOISE_RTOL[cut.statistics.dtype] * values.max()
    inverse = torch.where(live, 1.0 / values, torch.zeros_like(values))
    factors = 1.0 + vectors @ (inverse * (vectors.T @ missing))
    if float(factors.abs().max()) > MAX_SCALE:
        log.warning(
            "%s: mask tuning asks for a factor of %.1f (more than %g); the site keeps its scale",
            *(cut.site.name, float(factors.abs().max()), MAX_SCALE),
        )
        return torch.ones_like(factors)
    return factors


def _output_error(cut: _Cut, folded: torch.Tensor, shift: torch.Tensor | None) -> float:
    """||A W^T - A[:, K] W'^T - 1 shift^T||_F."""
    difference, statistics = cut.weight.clone(), cut.statistics
    difference[:, cut.columns] -= folded
    if shift is None:
        return statistics.output_error(difference)
    # The error around the mean, and the error of the mean once per token.
    spread = statistics.centred().output_error(difference)
    offset = float((difference @ statistics.mean.to(cut.weight) - shift).norm())
    return float((spread**2 + statistics.tokens * offset**2) ** 0.5)


def moved(old: torch.Tensor | None, change: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A weight or bias after a change, which is all of it where there was none.

    Args:
        old: What there was, in any type.
        change: Of its shape, float64, at home (`float64_home`).
        like: Has the device and the type of the result.
    """
    return (change if old is None else float64(old) + change).to(like)


def consumer_weight(model: nn.Module, site: Site) -> torch.Tensor:
    """W of the site's consumer, (D, F).

    Raises:
        LinAlgInputError: It is not finite; names the site.
    """
    weight = linear(model, site.consumer).weight.detach()
    check_finite(weight, f"{site.name}, weight of the consumer")
    return weight


def float64(weight: torch.Tensor) -> torch.Tensor:
    """A float64 copy, on the CPU where the device (mps) has no float64."""
    home = float64_home(weight.device)
    return weight.detach().to(device=home, dtype=torch.float64, copy=True)
