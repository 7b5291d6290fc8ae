"""The table of methods: everything that makes one, except the function that carries it out.

The schema, the reports and the documents read this table; `stat_repro.methods.registry` names the
functions. It needs no torch. A further baseline is an entry here, a score function in the registry
and a file `conf/pruning/<name>.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# How heads and neurons share the budget under `allocation=global`:
# - proportional: both lose the same share; for scores that mean nothing across kinds;
# - joint: one ranking of all units, walked down until the budget is spent (FLAP);
# - additive: the split that removes the smallest sum of scores (Kwon et al. 2022).
Split = Literal["proportional", "joint", "additive"]


@dataclass(frozen=True)
class Paper:
    """Where a method was published."""

    authors: str
    year: int
    arxiv: str


@dataclass(frozen=True)
class Method:
    """What makes a method.

    Attributes:
        name: Value of `pruning.method`, and name of its file in `conf/pruning`.
        label: Name in tables and figures.
        keeps: Which units it keeps, in a few words.
        papers: Where it was published, the closest first; none for what is made here.
        colour: Colour of its curves (hex).
        marker: Marker of its curves where it runs as in its paper (a marker of matplotlib).
        defaults: Options of its paper where they are not those of STAT (the defaults of
            `PruningConfig`), as in its file in `conf/pruning`.
        split: How heads and neurons share the budget, of methods that rank units by one score.
        reads_statistics: Whether its choice of units reads the statistics of the sites.
        reads_labels: Whether it learns from the labels of the calibration examples.
        whole_layers: Whether it removes layers as a whole, so that there is nothing to allocate and
            nothing to correct.
    """

    name: str
    label: str
    keeps: str
    papers: tuple[Paper, ...]
    colour: str
    marker: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    split: Split = "proportional"
    reads_statistics: bool = True
    reads_labels: bool = False
    whole_layers: bool = False


_FLYNN = Paper("Flynn et al.", 2024, "2406.00061")
_LI = Paper("Li et al.", 2017, "1608.08710")
_SUN = Paper("Sun et al.", 2024, "2306.11695")
_AN = Paper("An et al.", 2024, "2312.11983")
_LIN = Paper("Lin et al.", 2025, "2408.09632")
_KWON = Paper("Kwon et al.", 2022, "2204.09656")
_MEN = Paper("Men et al.", 2024, "2403.03853")


def _options(allocation: str, correction: str, **others: Any) -> dict[str, Any]:
    return {"allocation": allocation, "correction": correction, **others}


# In the order of tables and legends: name, label, kept units, papers, colour, marker, options.
_TABLE = (
    Method("stat", "STAT", "first pivots of the activations", (_FLYNN,), "#0072B2", "o"),
    Method("stat_plus", "STAT+", "what backward elimination leaves", (), "#000000", "H",
           _options("global", "affine", refit=True)),
    Method("random", "random", "random ones", (), "#7F7F7F", "X",
           _options("uniform", "none"), reads_statistics=False),
    Method("magnitude", "magnitude", "largest norms of the weights", (_LI,), "#999933", "P",
           _options("uniform", "none"), reads_statistics=False),
    Method("wanda_sp", "Wanda-sp", "largest norms of weights times inputs", (_AN, _SUN),
           "#56B4E9", "s", _options("uniform", "none")),
    Method("leverage", "leverage scores", "largest ridge leverage scores of the inputs", (_LIN,),
           "#44AA99", "d", _options("uniform", "lstsq")),
    Method("flap", "FLAP", "most fluctuating inputs", (_AN,), "#882255", "D",
           _options("global", "bias"), split="joint"),
    Method("fisher", "Fisher", "largest Fisher information of the loss", (_KWON,), "#AA4499", "*",
           _options("global", "scale"), split="additive", reads_statistics=False,
           reads_labels=True),
    Method("shortgpt", "ShortGPT", "most influential layers", (_MEN,), "#661100", "p",
           _options("global", "none", min_units=0), reads_statistics=False, whole_layers=True),
)  # fmt: skip
METHODS = {method.name: method for method in _TABLE}
# What each method is without further options.
METHOD_DEFAULTS = {name: dict(method.defaults) for name, method in METHODS.items()}
# Names of files in `conf/pruning` that are no methods: what to choose from Python instead.
PRESETS = {
    "stat_authors": "method=stat with authors_compat=true",
    "stat_no_floor": "method=stat with min_units=0",
    "stat_plus_fisher": "method=stat_plus with curvature=fisher",
    "stat_uniform": "method=stat with allocation=uniform",
}
