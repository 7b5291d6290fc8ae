"""Calibration and pruning: the options, and which of them make sense together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stat_repro.config.checks import ConfigError, at_least, one_of

METHODS = (
    "stat",
    "stat_plus",
    "random",
    "magnitude",
    "wanda_sp",
    "leverage",
    "flap",
    "fisher",
    "shortgpt",
)
ALLOCATIONS = ("global", "uniform", "stat")
CORRECTIONS = ("lstsq", "none", "bias", "affine", "scale")
STATISTICS = ("gram", "exact", "sketch")
SKETCHES = ("gaussian", "countsketch")
KINDS = ("all", "attention", "ffn")
SCALINGS = ("consumer", "none")
CURVATURES = ("none", "fisher")
ENGINES = ("model", "layers")
RECIPES = ("auto", "encoder", "decoder")

# What each method is without further options, as in `conf/pruning/<method>.yaml`. The defaults of
# `PruningConfig` are those of `stat`.
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "stat": {},
    "stat_plus": {"allocation": "global", "correction": "affine", "refit": True},
    "random": {"allocation": "uniform", "correction": "none"},
    "magnitude": {"allocation": "uniform", "correction": "none"},
    "wanda_sp": {"allocation": "uniform", "correction": "none"},
    "leverage": {"allocation": "uniform", "correction": "lstsq"},
    "flap": {"allocation": "global", "correction": "bias"},
    "fisher": {"allocation": "global", "correction": "scale"},
    "shortgpt": {"allocation": "global", "correction": "none", "min_units": 0},
}
# Methods that learn from the labels of the calibration examples.
SUPERVISED = ("fisher",)
# Corrections that give the consumer new weights by least squares, and all that fit something, so
# that a ridge means something.
LEAST_SQUARES = ("lstsq", "affine")
FITTED = (*LEAST_SQUARES, "scale")


@dataclass
class CalibrationConfig:
    """The examples whose activations are decomposed.

    Attributes:
        examples: Calibration sentences or windows, drawn from the training part with `seed`.
        batch_size: Examples per forward pass; does not change the result beyond rounding.
        replacement: Draw with replacement, as the authors' code does.
        statistics: `gram` (streamed sums), `exact` (stored activations, pivoted QR) or `sketch`
            (streamed random combinations S A of the activations, pivoted QR).
        sketch: S for `statistics=sketch`, drawn with `seed`: `gaussian` (what null means there) or
            `countsketch`.
        sketch_size: Rows of S A for every site; null for twice the site's columns.
        engine: `model` takes the statistics of all sites in one pass; `layers` takes all examples
            through one layer after the other, in the memory of one layer's statistics (for
            `pruning.method=stat`, `statistics=gram`). The result is the same.
    """

    examples: int = 512
    batch_size: int = 32
    replacement: bool = False
    statistics: str = "gram"
    sketch: str | None = None
    sketch_size: int | None = None
    engine: str = "model"

    def __post_init__(self) -> None:
        one_of("calibration.statistics", self.statistics, STATISTICS)
        if self.statistics == "sketch":
            self.sketch = self.sketch or "gaussian"  # one run, one name
            one_of("calibration.sketch", self.sketch, SKETCHES)
            if self.sketch_size is not None:
                at_least("calibration.sketch_size", self.sketch_size, 1)
        for key in ("sketch", "sketch_size"):
            if self.statistics != "sketch" and getattr(self, key) is not None:
                raise ConfigError(
                    f"calibration.{key}={getattr(self, key)}: expected "
                    f"calibration.statistics=sketch; got {self.statistics}"
                )
        one_of("calibration.engine", self.engine, ENGINES)
        at_least("calibration.examples", self.examples, 1)
        at_least("calibration.batch_size", self.batch_size, 1)


@dataclass
class PruningConfig:
    """How units are chosen, how many every layer keeps, and what is folded.

    Attributes:
        method: Which units are kept: name in the registry of `stat_repro.methods`.
        recipe: Of STAT's sizes: `encoder` (depth weights 1 + sqrt(L - l + 1)) or `decoder`
            (exponential depth fit, late-head bonus); `auto` follows the model.
        allocation: Sizes of the layers: `global` (one ranking over all layers by the method's own
            scores), `uniform` (equal shares in every layer) or `stat` (those that STAT's recipe
            gives, for another method's selection).
        correction: What the kept units take over: `lstsq` folds the least-squares fit of the
            removed units into the consumer, `affine` fits a constant as well and folds it into the
            consumer's bias, `bias` only adds the removed units' mean contribution to that bias,
            `scale` gives every kept unit one factor; `none` only selects.
        kinds: Which units may go: `all`, `attention` or `ffn`; the ratio is of all prunable MACs
            whatever goes.
        scaling: Of STAT's pivots of neurons: `consumer` scales the activations by the norms of the
            consumer's columns, `none` does not.
        ridge: Ridge of the least squares, relative to the mean squared column norm. Where it is 0
            and there are few calibration tokens, `stat_plus` takes one of its own and says so.
        min_units: Units that every site keeps at least.
        balance_factor: Of STAT's sizes: factor of the mean neuron residual in the balance of heads
            and neurons.
        neuron_mac_share: FFN share of the prunable MACs used for the budget; null computes it.
        head_bonus: Decoder recipe: the i-th of H head errors of a layer is scaled by
            head_bonus^(H - i).
        refit: Fit the consumers once more, front to back, to the dense model's residual stream
            (`stat_plus` only).
        sensitivity_tokens: Calibration tokens on which `stat_plus` measures what the model's output
            loses by each site, rounded up to whole examples; all of them if there are fewer.
        curvature: Of `stat_plus`: `none` counts errors of all output directions alike and measures
            sizes; `fisher` counts them, in the choice of units and of sizes, by what the model's
            own output makes of them, which takes one backward pass per batch and no labels.
        authors_compat: Repeat the recorded slips of the authors' BERT script.
    """

    method: str = "stat"
    recipe: str = "auto"
    allocation: str = "global"
    correction: str = "lstsq"
    kinds: str = "all"
    scaling: str = "consumer"
    ridge: float = 0.0
    min_units: int = 1
    balance_factor: float = 2.0
    neuron_mac_share: float | None = None
    head_bonus: float = 1.125
    refit: bool = False
    sensitivity_tokens: int = 2048
    curvature: str = "none"
    authors_compat: bool = False

    def __post_init__(self) -> None:
        one_of("pruning.method", self.method, METHODS)
        one_of("pruning.recipe", self.recipe, RECIPES)
        one_of("pruning.allocation", self.allocation, ALLOCATIONS)
        one_of("pruning.correction", self.correction, CORRECTIONS)
        one_of("pruning.kinds", self.kinds, KINDS)
        one_of("pruning.scaling", self.scaling, SCALINGS)
        one_of("pruning.curvature", self.curvature, CURVATURES)
        at_least("pruning.ridge", self.ridge, 0)
        at_least("pruning.min_units", self.min_units, 0)
        at_least("pruning.sensitivity_tokens", self.sensitivity_tokens, 1)
        at_least("pruning.balance_factor", self.balance_factor, 0)
        if not self.head_bonus > 0:
            raise ConfigError(f"pruning.head_bonus: expected > 0; got {self.head_bonus}")
        if self.neuron_mac_share is not None and not 0 < self.neuron_mac_share < 1:
            raise ConfigError(
                f"pruning.neuron_mac_share: expected between 0 and 1; got {self.neuron_mac_share}"
            )
        if self.authors_compat:
            self._check_compat()
        self._check_combination()

    @property
    def measures_sizes(self) -> bool:
        """Whether sizes follow from losses of the model's output measured site by site."""
        plus = self.method == "stat_plus" and self.allocation == "global"
        return plus and self.curvature == "none"

    def _check_compat(self) -> None:
        wanted = {
            "method": "stat",
            "allocation": "global",
            "correction": "lstsq",
            "ridge": 0.0,
            "min_units": 0,
            "kinds": "all",
            "scaling": "consumer",
        }
        for key, value in wanted.items():
            if getattr(self, key) != value:
                raise ConfigError(
                    f"pruning.authors_compat=true repeats the authors' script, which knows only "
                    f"{key}={value}; got {key}={getattr(self, key)} (pruning=stat_authors sets all)"
                )
        if self.recipe == "decoder":
            raise ConfigError("pruning.authors_compat=true repeats the BERT script: recipe=decoder")

    def _check_combination(self) -> None:
        """Refuse options that have no meaning together, or none for this method."""
        if self.ridge > 0 and self.correction not in FITTED:
            raise ConfigError(
                f"pruning.ridge={self.ridge} damps a fit, so it needs pruning.correction="
                f"{', '.join(FITTED)}; got correction={self.correction}"
            )
        if self.method == "stat" and self.allocation == "stat":
            raise ConfigError(
                "pruning.allocation=stat gives another method STAT's sizes; for method=stat they "
                "are allocation=global"
            )
        if self.method == "shortgpt":
            self._check_blocks()
        self._check_stat_plus()
        if "stat" not in (self.method, self.allocation):
            for key in ("recipe", "balance_factor", "head_bonus", "scaling"):
                if getattr(self, key) != getattr(PruningConfig, key):
                    raise ConfigError(
                        f"pruning.{key} is an option of STAT's sizes: expected method=stat or "
                        f"allocation=stat; got method={self.method}, allocation={self.allocation}"
                    )

    def _check_stat_plus(self) -> None:
        """What only `stat_plus` does is refused elsewhere, and where nothing of it is left."""
        if self.method != "stat_plus":
            for key in ("refit", "sensitivity_tokens", "curvature"):
                if getattr(self, key) != getattr(PruningConfig, key):
                    raise ConfigError(
                        f"pruning.{key}={getattr(self, key)} is an option of stat_plus: expected "
                        f"method=stat_plus; got method={self.method}"
                    )
            return
        if self.refit and self.correction not in LEAST_SQUARES:
            raise ConfigError(
                "pruning.refit=true moves corrected consumers: expected correction=affine or "
                f"lstsq; got correction={self.correction} (pruning.refit=false)"
            )
        if self.sensitivity_tokens != PruningConfig.sensitivity_tokens and not self.measures_sizes:
            raise ConfigError(
                f"pruning.sensitivity_tokens={self.sensitivity_tokens} measures sizes: expected "
                f"allocation=global and curvature=none; got allocation={self.allocation}, "
                f"curvature={self.curvature}"
            )

    def _check_blocks(self) -> None:
        """Whole blocks leave nothing to allocate inside a layer and nothing to correct."""
        wanted = {**METHOD_DEFAULTS["shortgpt"], "neuron_mac_share": None, "kinds": "all"}
        for key, value in wanted.items():
            if getattr(self, key) != value:
                raise ConfigError(
                    "pruning.method=shortgpt removes whole blocks, so it knows only "
                    f"{key}={value}; got {key}={getattr(self, key)} (pruning=shortgpt sets all)"
                )


def check_statistics(statistics: str, pruning: PruningConfig) -> None:
    """Refuse a sketch where means or single columns are asked for, which it does not have.

    Raises:
        ConfigError: Says what a sketch serves.
    """
    if statistics != "sketch":
        return
    for key, valid in (("method", ("stat",)), ("correction", ("lstsq", "none"))):
        if getattr(pruning, key) not in valid:
            raise ConfigError(
                f"calibration.statistics=sketch serves pruning.{key}={', '.join(valid)}; got "
                f"{key}={getattr(pruning, key)} (choose statistics=gram)"
            )


def check_engine(engine: str, statistics: str, pruning: PruningConfig) -> None:
    """Refuse the engine `layers` for what it does not serve.

    Raises:
        ConfigError: Says what it serves.
    """
    one_of("engine", engine, ENGINES)
    if engine == "model":
        return
    for key, got, valid in (
        ("pruning.method", pruning.method, "stat"),
        ("calibration.statistics", statistics, "gram"),
    ):
        if got != valid:
            raise ConfigError(
                f"engine=layers serves {key}={valid}; got {got} (choose engine=model)"
            )
