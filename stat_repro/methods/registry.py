"""All pruning methods by name, and what each has to be given."""

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
from stat_repro.methods.base import Method

METHODS: dict[str, Method] = {
    "stat": Method(stat.prune, statistics=True),
    "stat_plus": Method(stat_plus.prune, statistics=True),
    "random": Method(random.prune, statistics=False),
    "magnitude": Method(magnitude.prune, statistics=False),
    "wanda_sp": Method(wanda_sp.prune, statistics=True),
    "leverage": Method(leverage.prune, statistics=True),
    "flap": Method(flap.prune, statistics=True),
    "fisher": Method(fisher.prune, statistics=False, labels=True),
    "shortgpt": Method(shortgpt.prune, statistics=False),
}
