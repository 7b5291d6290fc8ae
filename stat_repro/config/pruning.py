"""Calibration and pruning."""

from __future__ import annotations

from dataclasses import dataclass

from stat_repro.config.checks import ConfigError, at_least, one_of

METHODS = ("stat",)
ALLOCATIONS = ("global", "uniform")
CORRECTIONS = ("lstsq", "none")
STATISTICS = ("gram", "exact", "sketch")
SKETCHES = ("gaussian", "countsketch")
RECIPES = ("auto", "encoder", "decoder")


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
    """

    examples: int = 512
    batch_size: int = 32
    replacement: bool = False
    statistics: str = "gram"
    sketch: str | None = None
    sketch_size: int | None = None

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
        at_least("calibration.examples", self.examples, 1)
        at_least("calibration.batch_size", self.batch_size, 1)


@dataclass
class PruningConfig:
    """How units are chosen and what is folded.

    Attributes:
        method: Name in the registry of `stat_repro.methods`.
        recipe: `encoder` (depth weights 1 + sqrt(L - l + 1)) or `decoder` (exponential depth fit,
            late-head bonus); `auto` follows the model.
        allocation: `global` (one ranking over all layers) or `uniform` (equal sizes per layer).
        correction: `lstsq` folds the interpolation into the consumer, `none` only selects.
        ridge: Ridge of the least squares, relative to the mean squared column norm.
        min_units: Units that every site keeps at least.
        balance_factor: Factor of the mean neuron residual in the balance of heads and neurons.
        neuron_mac_share: FFN share of the prunable MACs used for the budget; null computes it.
        head_bonus: Decoder recipe: the i-th of H head errors of a layer is scaled by
            head_bonus^(H - i).
        authors_compat: Repeat the recorded slips of the authors' BERT script.
    """

    method: str = "stat"
    recipe: str = "auto"
    allocation: str = "global"
    correction: str = "lstsq"
    ridge: float = 0.0
    min_units: int = 1
    balance_factor: float = 2.0
    neuron_mac_share: float | None = None
    head_bonus: float = 1.125
    authors_compat: bool = False

    def __post_init__(self) -> None:
        one_of("pruning.method", self.method, METHODS)
        one_of("pruning.recipe", self.recipe, RECIPES)
        one_of("pruning.allocation", self.allocation, ALLOCATIONS)
        one_of("pruning.correction", self.correction, CORRECTIONS)
        at_least("pruning.ridge", self.ridge, 0)
        at_least("pruning.min_units", self.min_units, 0)
        at_least("pruning.balance_factor", self.balance_factor, 0)
        if not self.head_bonus > 0:
            raise ConfigError(f"pruning.head_bonus: expected > 0; got {self.head_bonus}")
        if self.neuron_mac_share is not None and not 0 < self.neuron_mac_share < 1:
            raise ConfigError(
                f"pruning.neuron_mac_share: expected between 0 and 1; got {self.neuron_mac_share}"
            )
        if self.authors_compat:
            self._check_compat()

    def _check_compat(self) -> None:
        wanted = {"allocation": "global", "correction": "lstsq", "ridge": 0.0, "min_units": 0}
        for key, value in wanted.items():
            if getattr(self, key) != value:
                raise ConfigError(
                    f"pruning.authors_compat=true repeats the authors' script, which knows only "
                    f"{key}={value}; got {key}={getattr(self, key)} (pruning=stat_authors sets all)"
                )
        if self.recipe == "decoder":
            raise ConfigError("pruning.authors_compat=true repeats the BERT script: recipe=decoder")
