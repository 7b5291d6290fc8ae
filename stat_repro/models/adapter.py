"""Sites of a model: where units can be cut, and what one unit costs.

A *site* is the attention or the FFN of one layer. Its *consumer* is the projection that reads the
units (columns are dropped and corrected), its *producers* are the modules that make them (rows are
dropped). All sizes are read from the modules, so already pruned models work as well.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from stat_repro.models.configuration_stat import Layout
from stat_repro.models.modeling_stat import LAYOUTS
from stat_repro.models.projections import Producer, UnsupportedModelError, linear, producer_of
from stat_repro.plan import LayerPlan, PlanError, PruningPlan, SiteKind


@dataclass(frozen=True)
class Site:
    """A place where units are cut.

    Attributes:
        layer: Index of the transformer layer.
        kind: `attention` (heads, or key/value groups) or `ffn` (neurons).
        units: Number of units.
        width: Input columns of the consumer per unit; unit u has the columns
            u * width ... (u + 1) * width - 1.
        producers: Modules whose rows are cut.
        consumer: Dotted name of the projection whose columns are cut.
        queries_per_unit: Query heads of one unit; 0 for neurons.
        macs_per_unit: Multiply-accumulates per token of one unit in producers and consumer.
        params_per_unit: Parameters of one unit in producers and consumer.
    """

    layer: int
    kind: SiteKind
    units: int
    width: int
    producers: tuple[Producer, ...]
    consumer: str
    queries_per_unit: int = 0
    macs_per_unit: int = 0
    params_per_unit: int = 0

    @property
    def macs_per_unit_and_key(self) -> int:
        """Multiply-accumulates of one unit per token and attended position, beside the others.

        Scores and weighted sum of attention; 0 for neurons.
        """
        return 2 * self.width if self.kind == "attention" else 0

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
        layout: Layout of the architecture.
        backbone: Dotted name of the model without its task head ("" if it has no head).
        sites: All sites by layer, attention before FFN.
        layer_names: Dotted names of the transformer layers.
        pre_norm: Whether a layer adds to the stream that it reads, with its norms inside the
            branches. Such a layer hands the stream on unchanged if its projections are gone.
        norms: Dotted names of the norms behind the two sums of every layer; none with `pre_norm`.
    """

    layout: Layout
    backbone: str
    sites: tuple[Site, ...]
    layer_names: tuple[str, ...]
    pre_norm: bool
    norms: tuple[tuple[str, ...], ...]

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        return len(self.layer_names)

    def of_kind(self, kind: SiteKind) -> tuple[Site, ...]:
        """Sites of one kind, first layer first."""
        return tuple(site for site in self.sites if site.kind == kind)

    def site(self, layer: int, kind: SiteKind) -> Site:
        """The site of a layer."""
        return self.of_kind(kind)[layer]

    def plan_keeping(
        self,
        kept: Mapping[tuple[int, SiteKind], tuple[int, ...]],
        method: str,
        details: dict[str, Any] | None = None,
    ) -> PruningPlan:
        """The plan that keeps these units; a site that is not among them has nothing to keep."""
        layers = [
            LayerPlan(kept.get(heads.key, ()), kept.get(ffn.key, ()), heads.units, ffn.units)
            for heads, ffn in zip(self.of_kind("attention"), self.of_kind("ffn"), strict=True)
        ]
        return PruningPlan(tuple(layers), method, details or {})

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


def _with_costs(model: nn.Module, site: Site) -> Site:
    """The site with the costs that its modules show; refuses modules whose shapes do not fit."""
    units, width, consumer = site.units, site.width, site.consumer
    macs = params = 0
    for producer in site.producers:
        module, per_unit = producer_of(model, producer), producer.rows_per_unit
        rows, *columns = module.weight.shape
        if rows != units * per_unit:
            raise UnsupportedModelError(
                f"{producer.module}: expected {units} units of {per_unit} rows; got {rows} rows"
            )
        macs += per_unit * sum(columns)  # a norm has none
        params += per_unit * (math.prod(columns) + (module.bias is not None))
    reader = linear(model, consumer)
    if reader.in_features != units * width:
        raise UnsupportedModelError(
            f"{consumer}: expected {units} units of {width} columns; got {reader.in_features}"
        )
    read = width * reader.out_features
    return replace(site, macs_per_unit=macs + read, params_per_unit=params + read)


def _sites(model: nn.Module, layout: Layout, layer: int, name: str) -> tuple[Site, Site]:
    """Attention and FFN of a layer.

    Units are heads, or key/value groups where several query heads share a key/value head; and
    neurons, the columns that the last projection of the FFN reads.
    """

    def producers(parts: dict[str, tuple[int, ...]]) -> tuple[Producer, ...]:
        norms = layout.head_norms
        return tuple(Producer(f"{name}.{p}", rows, p in norms) for p, rows in parts.items())

    config = model.config
    head_dim = getattr(model.get_submodule(f"{name}.{layout.attention}"), layout.head_dim)
    reads_heads = f"{name}.{layout.attention_output}"
    reads_neurons = f"{name}.{layout.ffn_output}"
    queries = linear(model, reads_heads).in_features // head_dim
    rows = linear(model, f"{name}.{layout.key_value[0]}").out_features // head_dim
    groups = layout.groups(queries, rows)
    # A layer without heads does not show how many share a group; the config still does.
    heads: int = config.num_attention_heads  # type: ignore[union-attr,assignment]
    per_group_before = heads // getattr(config, "num_key_value_heads", heads)
    per_group = queries // groups if groups else per_group_before
    width, neurons = per_group * head_dim, linear(model, reads_neurons).in_features
    of_heads = producers(layout.attention_parts(width, head_dim))
    attention = Site(layer, "attention", groups, width, of_heads, reads_heads, per_group)
    ffn = Site(layer, "ffn", neurons, 1, producers(layout.ffn_parts(1)), reads_neurons)
    return _with_costs(model, attention), _with_costs(model, ffn)


# What a model without a layout is, by fields that its config has.
_OTHER_KINDS = {
    "a mixture of experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "a model of images or sound": ("vision_config", "audio_config", "image_size", "num_mel_bins"),
}


def layout_of(config: Any, name: str) -> Layout:
    """The layout of a config's `model_type`.

    Args:
        config: The config of a model of transformers; None if it has none.
        name: What has it, for messages.

    Raises:
        UnsupportedModelError: None, with the reason if it is a kind of model that is never pruned
            here; or layers that attend to another model.
    """
    model_type = getattr(config, "model_type", None)
    if getattr(config, "add_cross_attention", False):
        raise UnsupportedModelError(
            f"config.add_cross_attention of {name}: expected false; got true, and what another "
            "model is attended to for is not calibrated here"
        )
    if model_type in LAYOUTS:
        return LAYOUTS[model_type]
    kinds = [kind for kind, keys in _OTHER_KINDS.items() if any(hasattr(config, k) for k in keys)]
    if getattr(config, "is_encoder_decoder", False):
        kinds.append("an encoder and a decoder")
    reason = f" ({kinds[0]}, which are not pruned here)" if kinds else ""
    raise UnsupportedModelError(
        f"model_type of {name}: expected one of "
        f"{', '.join(sorted(kind for kind in LAYOUTS if not kind.startswith('stat_')))}, or the "
        f"pruned form of one; got {model_type!r}{reason}"
    )


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of a model, chosen by `config.model_type`.

    Raises:
        UnsupportedModelError: No layout for this type; the message lists the supported ones.
    """
    layout = layout_of(getattr(model, "config", None), type(model).__name__)
    base = model.base_model
    backbone = next(name for name, module in model.named_modules() if module is base)
    stem = f"{backbone}." if backbone else ""
    layers: Any = model.get_submodule(f"{stem}{layout.layers}")
    names = tuple(f"{stem}{layout.layers}.{i}" for i in range(len(layers)))
    # Of the OPT family, OPT-350m alone normalises after the sums.
    pre_norm = layout.pre_norm and getattr(model.config, "do_layer_norm_before", True)
    return Adapter(
        layout=layout,
        backbone=backbone,
        sites=tuple(s for i, name in enumerate(names) for s in _sites(model, layout, i, name)),
        layer_names=names,
        pre_norm=pre_norm,
        norms=tuple(() if pre_norm else tuple(f"{n}.{p}" for p in layout.norms) for n in names),
    )


def drop_pooler(model: PreTrainedModel, names: Iterable[str]) -> bool:
    """Make an encoder's base model one without a pooler, as many checkpoints are.

    Hidden states do not need it. Nothing is changed where the checkpoint has it.

    Args:
        model: A model with or without a head.
        names: Tensors that the checkpoint has, by the names of a model with or without a head.

    Returns:
        Whether it had one, and has none now.
    """
    whole = model.base_model is model and getattr(model, "pooler", None) is not None
    if not whole or any("pooler." in name for name in names):
        return False
    model.pooler = None
    return True
