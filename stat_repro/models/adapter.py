"""Sites of a model: where units can be cut, and what one unit costs.

A *site* is the attention or the FFN of one layer. Its *consumer* is the Linear that reads the units
(columns are dropped and corrected), its *producers* are the Linears that make them (rows are
dropped). All sizes are read from the modules, so already pruned models work as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from stat_repro.models.modeling_stat import LAYOUTS, Layout
from stat_repro.plan import PlanError, PruningPlan, SiteKind


class UnsupportedModelError(TypeError):
    """A model of an unknown architecture, or with unexpected modules."""


@dataclass(frozen=True)
class Producer:
    """A Linear that makes the units of a site.

    Attributes:
        module: Dotted name of the Linear inside the model.
        rows_per_unit: Output rows that belong to one unit; unit u has the rows
            u * rows_per_unit ... (u + 1) * rows_per_unit - 1.
    """

    module: str
    rows_per_unit: int


@dataclass(frozen=True)
class Site:
    """A place where units are cut.

    Attributes:
        layer: Index of the transformer layer.
        kind: `attention` (heads, or key/value groups) or `ffn` (neurons).
        units: Number of units.
        width: Input columns of the consumer per unit; unit u has the columns
            u * width ... (u + 1) * width - 1.
        producers: Linears whose rows are cut.
        consumer: Dotted name of the Linear whose columns are cut.
        macs_per_unit: Multiply-accumulates per token of one unit in producers and consumer.
        macs_per_unit_and_key: Further multiply-accumulates per token and attended position
            (scores and weighted sum of attention; 0 for neurons).
        params_per_unit: Parameters of one unit in producers and consumer.
    """

    layer: int
    kind: SiteKind
    units: int
    width: int
    producers: tuple[Producer, ...]
    consumer: str
    macs_per_unit: int
    macs_per_unit_and_key: int
    params_per_unit: int

    @property
    def key(self) -> tuple[int, SiteKind]:
        """Layer and kind, by which mappings know the site."""
        return self.layer, self.kind

    @property
    def name(self) -> str:
        """Name of the site in messages."""
        return f"layer {self.layer} {self.kind} (input of {self.consumer})"

    @property
    def columns(self) -> int:
        """Input columns of the consumer."""
        return self.units * self.width

    def unit_macs(self, sequence_length: float) -> float:
        """MACs of one unit per token at this (mean) sequence length.

        As Kwon et al. (2022) and the code of STAT count: every token attends to `sequence_length`
        positions, also in causal models.
        """
        return self.macs_per_unit + self.macs_per_unit_and_key * sequence_length


@dataclass(frozen=True)
class Adapter:
    """The sites of one model.

    Attributes:
        model_type: `config.model_type` of the model.
        decoder: Whether the model is a causal decoder.
        backbone: Dotted name of the model without its task head ("" if it has no head).
        num_layers: Transformer layers.
        sites: All sites by layer, attention before FFN.
        layer_names: Dotted names of the transformer layers.
        pre_norm: Whether a layer adds to the stream that it reads, with its norms inside the
            branches. Such a layer hands the stream on unchanged if its projections are gone.
    """

    model_type: str
    decoder: bool
    backbone: str
    num_layers: int
    sites: tuple[Site, ...]
    layer_names: tuple[str, ...]
    pre_norm: bool

    def of_kind(self, kind: SiteKind) -> tuple[Site, ...]:
        """Sites of one kind, first layer first."""
        return tuple(site for site in self.sites if site.kind == kind)

    def site(self, layer: int, kind: SiteKind) -> Site:
        """The site of a layer."""
        return self.of_kind(kind)[layer]

    def check_plan(self, plan: PruningPlan) -> None:
        """Refuse a plan that was made for a model of another shape.

        Raises:
            PlanError: The number of layers or units differs.
        """
        if len(plan.layers) != self.num_layers:
            raise PlanError(
                f"plan: expected {self.num_layers} layers, as the model has; got {len(plan.layers)}"
            )
        for site in self.sites:
            planned = plan.layers[site.layer].units(site.kind)
            if planned != site.units:
                raise PlanError(
                    f"{site.name}: expected a plan for {site.units} units, as the model has; got "
                    f"one for {planned}"
                )


def linear(model: nn.Module, name: str) -> nn.Linear:
    """The Linear of this name.

    Raises:
        UnsupportedModelError: It is missing or not a plain Linear (quantised, wrapped, fused).
    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise UnsupportedModelError(
            f"{name}: expected a torch.nn.Linear; the model has no module of this name"
        ) from None
    if not isinstance(module, nn.Linear):
        raise UnsupportedModelError(
            f"{name}: expected a torch.nn.Linear; got {type(module).__name__} "
            "(quantised or wrapped models cannot be pruned; load the plain weights)"
        )
    return module


def unit_columns(kept: tuple[int, ...], width: int) -> torch.Tensor:
    """Indices of the columns (or rows) that belong to the kept units, ascending.

    Args:
        kept: Unit indices.
        width: Columns per unit.

    Returns:
        int64 tensor of shape (len(kept) * width,).
    """
    units = torch.tensor(kept, dtype=torch.int64)
    return (units[:, None] * width + torch.arange(width)).reshape(-1)


def _site(
    model: nn.Module,
    layer: int,
    kind: SiteKind,
    units: int,
    width: int,
    producers: tuple[Producer, ...],
    consumer: str,
) -> Site:
    """Build a site and its costs from the modules, and check that the shapes fit."""
    macs = params = 0
    for producer in producers:
        module = linear(model, producer.module)
        if module.out_features != units * producer.rows_per_unit:
            raise UnsupportedModelError(
                f"{producer.module}: expected {units} units of {producer.rows_per_unit} rows; got "
                f"{module.out_features} rows"
            )
        macs += producer.rows_per_unit * module.in_features
        params += producer.rows_per_unit * (module.in_features + (module.bias is not None))
    reader = linear(model, consumer)
    if reader.in_features != units * width:
        raise UnsupportedModelError(
            f"{consumer}: expected {units} units of {width} columns; got {reader.in_features}"
        )
    return Site(
        layer=layer,
        kind=kind,
        units=units,
        width=width,
        producers=producers,
        consumer=consumer,
        macs_per_unit=macs + width * reader.out_features,
        macs_per_unit_and_key=2 * width if kind == "attention" else 0,
        params_per_unit=params + width * reader.out_features,
    )


def _attention_site(model: nn.Module, layout: Layout, name: str, layer: int) -> Site:
    """Heads, or key/value groups where several query heads share a key/value head."""
    config = model.config
    head_dim = getattr(model.get_submodule(f"{name}.{layout.attention}"), layout.head_dim)
    groups = linear(model, f"{name}.{layout.key_value[0]}").out_features // head_dim
    queries = linear(model, f"{name}.{layout.query}").out_features // head_dim
    # A layer without heads does not show how many share a group; the config still does.
    heads: int = config.num_attention_heads  # type: ignore[union-attr,assignment]
    per_group_before = heads // getattr(config, "num_key_value_heads", heads)
    per_group = queries // groups if groups else per_group_before
    return _site(
        model,
        layer,
        "attention",
        units=groups,
        width=per_group * head_dim,
        producers=(
            Producer(f"{name}.{layout.query}", per_group * head_dim),
            *(Producer(f"{name}.{part}", head_dim) for part in layout.key_value),
        ),
        consumer=f"{name}.{layout.attention_output}",
    )


def _ffn_site(model: nn.Module, layout: Layout, name: str, layer: int) -> Site:
    """Neurons: the columns that the last Linear of the FFN reads."""
    return _site(
        model,
        layer,
        "ffn",
        units=linear(model, f"{name}.{layout.ffn_output}").in_features,
        width=1,
        producers=tuple(Producer(f"{name}.{part}", 1) for part in layout.ffn_inputs),
        consumer=f"{name}.{layout.ffn_output}",
    )


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of a model, chosen by `config.model_type`.

    Raises:
        UnsupportedModelError: No layout for this type; the message lists the supported ones.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in LAYOUTS:
        raise UnsupportedModelError(
            f"model_type of {type(model).__name__}: expected one of "
            f"{', '.join(sorted(LAYOUTS))}; got {model_type!r}"
        )
    layout = LAYOUTS[model_type]
    base = model.base_model
    backbone = next(name for name, module in model.named_modules() if module is base)
    stem = f"{backbone}." if backbone else ""
    layers = model.get_submodule(f"{stem}{layout.layers}")
    num_layers = len(list(layers.children()))
    names = tuple(f"{stem}{layout.layers}.{i}" for i in range(num_layers))
    sites: list[Site] = []
    for i, name in enumerate(names):
        sites += [_attention_site(model, layout, name, i), _ffn_site(model, layout, name, i)]
    return Adapter(
        model_type=model_type,
        decoder=layout.decoder,
        backbone=backbone,
        num_layers=num_layers,
        sites=tuple(sites),
        layer_names=names,
        # Of the OPT family, OPT-350m alone normalises after the sums.
        pre_norm=layout.decoder and getattr(model.config, "do_layer_norm_before", True),
    )
