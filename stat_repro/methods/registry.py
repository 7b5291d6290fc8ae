"""The functions of the methods by name; `stat_repro.config.methods` has all else about them."""

from __future__ import annotations

from stat_repro.methods import (
    fisher,
    flap,
    leverage,
    magnitude,
    random,
    shortgpt,
    stat,
    stat_plus,
    wanda_sp,
)
from stat_repro.methods.base import Prune

PRUNE: dict[str, Prune] = {
    "stat": stat.prune,
    "stat_plus": stat_plus.prune,
    "random": random.prune,
    "magnitude": magnitude.prune,
    "wanda_sp": wanda_sp.prune,
    "leverage": leverage.prune,
    "flap": flap.prune,
    "fisher": fisher.prune,
    "shortgpt": shortgpt.prune,
}
