"""The functions of the methods by name; `stat_repro.config.methods` has all else about them."""

from stat_repro.methods import baselines, fisher, shortgpt, stat, stat_plus
from stat_repro.methods.base import Prune
from stat_repro.methods.ranked import by_scores

PRUNE: dict[str, Prune] = {
    "stat": stat.prune,
    "stat_plus": stat_plus.prune,
    "random": by_scores(baselines.random_scores),
    "magnitude": by_scores(baselines.magnitude_scores),
    "wanda_sp": by_scores(baselines.wanda_scores),
    "leverage": by_scores(baselines.leverage_scores),
    "flap": by_scores(baselines.fluctuation_scores),
    "fisher": fisher.prune,
    "shortgpt": shortgpt.prune,
}
