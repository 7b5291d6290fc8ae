"""Calibration and pruning: the options, and which of them make sense together."""

from dataclasses import dataclass, fields
from typing import Any

from stat_repro.config.checks import ConfigError, Section, in_range, number, one_of, setting
from stat_repro.config.methods import METHODS, PRESETS

ALLOCATIONS = ("global", "uniform", "stat")
CORRECTIONS = ("lstsq", "none", "bias", "affine", "scale")
ENGINES = ("model", "layers")
# Corrections that give the consumer new weights by least squares, and all that fit something, so
# that a ridge means something.
LEAST_SQUARES = ("lstsq", "affine")
FITTED = (*LEAST_SQUARES, "scale")


@dataclass
class CalibrationConfig(Section, name="calibration"):
    """The examples whose activations are decomposed.

    Attributes:
        examples: Calibration sentences or windows, drawn from the training part with `seed`.
        batch_size: Examples per forward pass; does not change the result beyond rounding.
        at_most: Take all there are where there are fewer; always so where `examples` is the data
            set's default.
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

    examples: int = setting(512, low=1)
    batch_size: int = setting(32, low=1, neutral=True)
    at_most: bool = setting(False, neutral=True)
    replacement: bool = False
    statistics: str = setting("gram", choices=("gram", "exact", "sketch"))
    sketch: str | None = setting(None, choices=("gaussian", "countsketch"), later=True)
    sketch_size: int | None = setting(None, low=1, later=True)
    engine: str = setting("model", choices=ENGINES, later=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistics == "sketch":
            self.sketch = self.sketch or "gaussian"  # one run, one name
            return
        for key in ("sketch", "sketch_size"):
            if getattr(self, key) is not None:
                raise ConfigError(
                    f"calibration.{key}={getattr(self, key)}: expected "
                    f"calibration.statistics=sketch; got {self.statistics}"
                )


@dataclass
class PruningConfig(Section, name="pruning"):
    """How units are chosen, how many every layer keeps, and what is folded.

    Attributes:
        method: Which units are kept: name in the registry of `stat_repro.methods`.
        recipe: How STAT finds sizes: `encoder` (depth weights 1 + sqrt(L - l + 1)) or `decoder`
            (exponential depth fit, late-head bonus); `auto` follows the model.
        allocation: How many units every layer keeps: `global` (one ranking over all layers by the
            method's scores), `uniform` (equal shares in every layer) or `stat` (what STAT's recipe
            gives, while another method chooses the units).
        correction: What the kept units take over: `lstsq` folds the least-squares fit of the
            removed units into the consumer, `affine` fits a constant as well and folds it into the
            consumer's bias, `bias` only adds the removed units' mean contribution to that bias,
            `scale` gives every kept unit one factor; `none` only selects.
        kinds: Which units may go: `all`, `attention` or `ffn`; the ratio is of all prunable MACs
            whatever goes.
        scaling: For STAT's pivots of neurons `consumer` scales the activations by the norms of the
            consumer's columns, `none` does not.
        ridge: Ridge of the least squares, relative to the mean squared column norm. Where it is 0
            and there are few calibration tokens, `stat_plus` sets one and logs a warning.
        min_units: Units that every site keeps at least.
        balance_factor: For STAT's sizes: factor of the mean neuron residual in the balance of heads
            and neurons.
        neuron_mac_share: FFN share of the prunable MACs used for the budget; null computes it.
        head_bonus: Decoder recipe: the i-th of H head errors of a layer is scaled by
            head_bonus^(H - i).
        refit: Fit the consumers once more, front to back, to the dense model's residual stream
            (`stat_plus` only).
        sensitivity_tokens: Calibration tokens on which `stat_plus` measures what the model's output
            loses by each site, rounded up to whole examples; all of them if there are fewer. The
            first ones are taken, which in a run with sentences are the longest.
        curvature: `stat_plus` only: `none` counts errors of all output directions alike, and
            measures sizes; `fisher` weights them, in the choice of units and of sizes, by how much
            they change the model's output, which takes one backward pass per batch and no labels.
        authors_compat: Repeat the recorded slips of the authors' BERT script.
        budget: What `ratio` is a share of: `macs`, the prunable MACs; or `latency`, the time that
            all heads and neurons take on this device, from a table that is measured once.
        latency_batch: For `budget=latency`: examples per forward pass.
        latency_length: For `budget=latency`: tokens per example; null for the mean length at which
            MACs are counted, rounded.
    """

    method: str = setting("stat", choices=METHODS)
    recipe: str = setting("auto", choices=("auto", "encoder", "decoder"), of="stat")
    allocation: str = setting("global", choices=ALLOCATIONS)
    correction: str = setting("lstsq", choices=CORRECTIONS)
    kinds: str = setting("all", choices=("all", "attention", "ffn"), later=True)
    scaling: str = setting("consumer", choices=("consumer", "none"), of="stat", later=True)
    ridge: float = setting(0.0, low=0)
    min_units: int = setting(1, low=0)
    balance_factor: float = setting(2.0, low=0, of="stat")
    neuron_mac_share: float | None = setting(None, above=0, below=1, exact=True)
    head_bonus: float = setting(1.125, above=0, of="stat")
    refit: bool = setting(False, of="stat_plus", later=True)
    sensitivity_tokens: int = setting(2048, low=1, of="stat_plus", later=True)
    curvature: str = setting("none", choices=("none", "fisher"), of="stat_plus", later=True)
    authors_compat: bool = False
    budget: str = setting("macs", choices=("macs", "latency"), later=True)
    latency_batch: int = setting(1, low=1, later=True)
    latency_length: int | None = setting(None, low=1, later=True)

    def __post_init__(self) -> None:
        if self.method in PRESETS:
            raise ConfigError(
                f"pruning.method: expected one of {', '.join(METHODS)}; got {self.method!r}, which "
                f"the command line has as pruning={self.method}; choose {PRESETS[self.method]}"
            )
        super().__post_init__()
        if self.authors_compat:
            self._check_compat()
        method = METHODS[self.method]
        if method.whole_layers:
            wanted = {**method.defaults, "neuron_mac_share": None, "kinds": "all", "budget": "macs"}
            reason = f"pruning.method={self.method} removes whole layers, so it takes"
            self._allow_only(wanted, reason, self.method)
        self._check_combination()

    @property
    def measures_sizes(self) -> bool:
        """Whether sizes follow from losses of the model's output measured site by site."""
        plus = self.method == "stat_plus" and self.allocation == "global"
        return plus and self.curvature == "none"

    def needs_statistics(self, engine: str = "model") -> bool:
        """Whether the statistics of all sites are read.

        The engine `layers` takes and drops them layer by layer by itself.
        """
        chosen = METHODS[self.method].reads_statistics or self.allocation == "stat"
        return engine == "model" and (chosen or self.correction != "none")

    def _allow_only(self, wanted: dict[str, Any], reason: str, preset: str) -> None:
        """Refuse other values than the wanted ones."""
        for key, value in wanted.items():
            if getattr(self, key) != value:
                raise ConfigError(
                    f"{reason} only {key}={value}; got {key}={getattr(self, key)} "
                    f"(pruning={preset} sets all)"
                )

    def _check_compat(self) -> None:
        wanted = {"method": "stat", "allocation": "global", "correction": "lstsq", "ridge": 0.0}
        wanted |= {"min_units": 0, "kinds": "all", "scaling": "consumer"}
        reason = "pruning.authors_compat=true repeats the authors' script, which knows"
        self._allow_only(wanted, reason, "stat_authors")
        if self.recipe == "decoder":
            raise ConfigError(
                "pruning.authors_compat=true repeats the BERT script: expected recipe=auto or "
                "encoder; got recipe=decoder"
            )

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
        for one in fields(self):
            owner, value = one.metadata.get("of"), getattr(self, one.name)
            if owner and value != one.default and owner not in (self.method, self.allocation):
                # STAT's options are those of its sizes, which other methods may take.
                other = " or allocation=stat" if owner == "stat" else ""
                raise ConfigError(
                    f"pruning.{one.name}={value} is an option of {owner}: expected "
                    f"method={owner}{other}; got method={self.method}, "
                    f"allocation={self.allocation}"
                )
        given = (self.latency_batch, self.latency_length) != (1, None)
        fixed = self.authors_compat or self.neuron_mac_share is not None
        if (given and self.budget == "macs") or (fixed and self.budget == "latency"):
            raise ConfigError(
                f"pruning.budget={self.budget}: expected latency where latency_batch or "
                "latency_length is given, and macs where authors_compat or neuron_mac_share says "
                "what units cost; choose one of them"
            )
        if self.refit and self.correction not in LEAST_SQUARES:
            raise ConfigError(
                "pruning.refit=true moves corrected consumers: expected correction=affine or "
                f"lstsq; got correction={self.correction} (pruning.refit=false)"
            )
        default = PruningConfig.sensitivity_tokens
        if self.sensitivity_tokens != default and not self.measures_sizes:
            raise ConfigError(
                f"pruning.sensitivity_tokens={self.sensitivity_tokens} measures sizes: expected "
                f"allocation=global and curvature=none; got allocation={self.allocation}, "
                f"curvature={self.curvature}"
            )


def counts_macs(pruning: PruningConfig, reason: str) -> None:
    """Refuse a budget in time."""
    if pruning.budget != "macs":
        raise ConfigError(f"pruning.budget: expected macs, because {reason}; got {pruning.budget}")


def check_target(
    pruning: PruningConfig, *, ratio: float, round_to: int, statistics_kind: str, engine: str
) -> None:
    """Refuse what no plan has, and what these options do not go with.

    Args:
        pruning: The options.
        ratio: Share of the prunable MACs to remove.
        round_to: What the neurons kept per layer are rounded to.
        statistics_kind: `gram`, `exact` or `sketch`, which has no means and no single columns.
        engine: `model` or `layers`.

    Raises:
        ConfigError: Says what is valid.
    """
    number("ratio", ratio)
    if not 0 <= ratio < 1:
        raise ConfigError(
            f"ratio: expected 0 <= ratio < 1 (share of the MACs removed); got {ratio}"
        )
    in_range("round_to", round_to, low=1)
    one_of("engine", engine, ENGINES)
    if pruning.authors_compat and round_to > 1:
        raise ConfigError(
            "pruning.authors_compat=true repeats the authors' script, which rounds no sizes: "
            f"expected round_to=1; got {round_to}"
        )
    if statistics_kind == "sketch":
        for key, valid in (("method", ("stat",)), ("correction", ("lstsq", "none"))):
            if getattr(pruning, key) not in valid:
                raise ConfigError(
                    f"calibration.statistics=sketch serves pruning.{key}={', '.join(valid)}; got "
                    f"{key}={getattr(pruning, key)} (choose statistics=gram)"
                )
    if engine == "layers":
        for name, got, served in (
            ("pruning.method", pruning.method, "stat"),
            ("calibration.statistics", statistics_kind, "gram"),
        ):
            if got != served:
                raise ConfigError(
                    f"engine=layers serves {name}={served}; got {got} (choose engine=model)"
                )
