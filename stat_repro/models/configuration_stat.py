"""Configs of pruned models: where an architecture has its projections, and sizes per layer.

The dense head and neuron counts stay in the config (head sizes and rotary frequencies derive from
them); the `*_per_layer` lists say what each layer really has. Like `modeling_stat.py`, this file is
copied into saved model folders.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import transformers as hf
from huggingface_hub.dataclasses import strict
from transformers.utils.versions import require_version

# A saved folder brings this file to whatever is installed there.
require_version("transformers>=5.17", "Pruned models need it: pip install --upgrade transformers")


@dataclass(frozen=True)
class Layout:
    """Module names of one architecture, relative to the base model (`layers`) or to a layer.

    Names were read off transformers 5.23. The last projection of the FFN reads the neurons. A fused
    projection is named once for each part; its parts are stacked in that order, query, key and
    value, or gate and up.

    Attributes:
        layers: The list of layers.
        query: Query projection.
        key_value: Key and value projections.
        attention_output: Consumer of the heads.
        ffn_inputs: Producers of the neurons (two for a gated FFN).
        ffn_output: Consumer of the neurons.
        decoder: Whether the model is a causal decoder.
        head_dim: Attribute of the attention module that holds the size of a head.
        head_norms: Norms over the queries of all heads and over the keys of all heads; their
            weights go with the heads.
        pre_norm: Whether a layer adds to the stream that it reads, with its norms inside the
            branches.
        norms: Norms behind the two sums of a layer, where they stand there.
        norm_behind: Whether a norm stands between a branch's last projection and the stream.
        positions_behind_padding: Whether the first token has the row of the positions that comes
            after the padding token's number.
        numbered_heads: Whether all layers share a table of position biases with a row for each head
            of the dense model. A layer then reads those of the heads that it kept.
        layer_tuples: Whether a layer returns a tuple, the stream first.
        ffn_size: The config's field for the number of neurons, where it has a name of its own.
        output_biases: Whether the unpruned attention output and FFN output have a bias: the field
            of the config that says it, or what always holds.
    """

    layers: str
    query: str
    key_value: tuple[str, str]
    attention_output: str
    ffn_inputs: tuple[str, ...]
    ffn_output: str
    decoder: bool = False
    head_dim: str = "head_dim"
    head_norms: tuple[str, ...] = ()
    pre_norm: bool = False
    norms: tuple[str, ...] = ()
    norm_behind: bool = False
    positions_behind_padding: bool = False
    numbered_heads: bool = False
    layer_tuples: bool = False
    ffn_size: str | None = None
    output_biases: tuple[str | bool, str | bool] = (True, True)

    @property
    def attention(self) -> str:
        """The module that holds the projections and the head size."""
        return self.query.rpartition(".")[0]

    def attention_parts(self, queries: int, keys: int) -> dict[str, tuple[int, ...]]:
        """Modules with rows of the heads, and how many rows each of their parts has.

        Args:
            queries: Rows of the query projection.
            keys: Rows of the key projection, and of the value projection.
        """
        named = [(self.query, queries), *((name, keys) for name in self.key_value)]
        named += zip(self.head_norms, (queries, keys), strict=False)
        return {name: tuple(rows for other, rows in named if other == name) for name, _ in named}

    def ffn_parts(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Modules with rows of the neurons, and how many rows each of their parts has."""
        return {name: (rows,) * self.ffn_inputs.count(name) for name in self.ffn_inputs}

    def groups(self, queries: int, rows: int) -> int:
        """Key/value heads.

        Args:
            queries: Query heads.
            rows: Heads that the module with the key projection has rows for.
        """
        key = self.key_value[0]
        return (rows - queries * (key == self.query)) // self.key_value.count(key)


def _check_counts(name: str, counts: list[int], layers: int, maximum: int) -> None:
    """Refuse a per-layer list of the wrong length or with a count outside 0..maximum."""
    if len(counts) != layers:
        raise ValueError(
            f"{name}: expected one entry for each of the {layers} layers; got {len(counts)}"
        )
    for layer, count in enumerate(counts):
        if not 0 <= count <= maximum:
            raise ValueError(f"{name}, layer {layer}: expected 0 to {maximum}; got {count}")


class _LayerConfigs(list):
    """Configs of the layers by number; by a kind of layer that of the whole model.

    Attributes:
        whole: That of the whole model. What transformers asks for by kind is the same in all layers
            of a kind (rotary positions, windows).
    """

    whole: Any

    def __getitem__(self, layer: Any) -> Any:
        return self.whole if isinstance(layer, str) else super().__getitem__(layer)


@strict
class SizesPerLayerConfig(hf.PreTrainedConfig):
    """What the configs of all pruned models have in common. None: as in the unpruned model.

    Attributes:
        layout: Where the architecture has its projections.
        classes: Where transformers finds config and models in a saved folder (`auto_map`).
        query_heads_per_layer: Attention (query) heads of each layer.
        ffn_size_per_layer: FFN neurons of each layer.
        attention_output_bias_per_layer: Whether the attention output projection has a bias.
        ffn_output_bias_per_layer: Whether the last Linear of the FFN has a bias.
    """

    layout: ClassVar[Layout]
    classes: ClassVar[dict[str, str]]

    query_heads_per_layer: list[int] | None = None
    ffn_size_per_layer: list[int] | None = None
    attention_output_bias_per_layer: list[bool] | None = None
    ffn_output_bias_per_layer: list[bool] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        config: Any = self
        if config.intermediate_size is None:  # what GPT-2 means by that
            config.intermediate_size = 4 * config.hidden_size
        for name, value in self._unpruned().items():
            if getattr(self, name) is None:
                setattr(self, name, [value] * self.num_hidden_layers)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = dict(self.classes)

    def _unpruned(self) -> dict[str, int]:
        """What every unpruned layer has, by the name of the list."""
        attention_bias, ffn_bias = (
            getattr(self, bias) if isinstance(bias, str) else bias
            for bias in self.layout.output_biases
        )
        return {
            "query_heads_per_layer": self.num_attention_heads,
            "ffn_size_per_layer": self.intermediate_size,
            "attention_output_bias_per_layer": attention_bias,
            "ffn_output_bias_per_layer": ffn_bias,
        }

    @property
    def per_layer_config(self) -> _LayerConfigs:
        """Configs with the counts of each layer, which caches and exporters of transformers ask.

        A layer without heads has a slot with one number per token in the cache (`_WithoutHeads`).
        """
        layers = _LayerConfigs()
        layers.whole = self
        for sizes in self._sizes_of_layers():
            layer = copy.copy(self)
            usual = self.hidden_size // self.num_attention_heads
            layer.head_dim = getattr(self, "head_dim", None) or usual
            if not sizes["num_attention_heads"]:
                layer.head_dim = 1
                sizes |= {name: 1 for name in sizes if name.endswith("_heads")}
            for name, value in sizes.items():
                setattr(layer, name, value)
            layers.append(layer)
        return layers

    @per_layer_config.setter
    def per_layer_config(self, _: Any) -> None:
        """Config files have it for other readers; here the lists say it."""

    def _sizes_of_layers(self) -> list[dict[str, int]]:
        """What transformers' `per_layer_config` says of every layer."""
        names = {
            "num_attention_heads": "query_heads_per_layer",
            "num_key_value_heads": "kv_heads_per_layer",
            "intermediate_size": "ffn_size_per_layer",
        }
        lists = {name: getattr(self, ours) for name, ours in names.items() if hasattr(self, ours)}
        return [{k: v[i] for k, v in lists.items()} for i in range(self.num_hidden_layers)]

    def to_dict(self) -> dict[str, Any]:
        """As of any config, with `per_layer_config` beside the lists.

        Its readers ask for `num_hidden_layers`, which GPT-2 and DistilBERT call by another name.
        """
        sizes = {str(layer): sizes for layer, sizes in enumerate(self._sizes_of_layers())}
        number = {"num_hidden_layers": self.num_hidden_layers}
        return {**super().to_dict(), **number, "per_layer_config": sizes}

    def validate_sizes_per_layer(self) -> None:
        """Check the per-layer lists (called on construction and on saving)."""
        for name, value in self._unpruned().items():
            limit = 1 if name.endswith("_bias_per_layer") else value
            _check_counts(name, getattr(self, name), self.num_hidden_layers, limit)


@strict
class NumberedHeadsConfig(SizesPerLayerConfig):
    """What is added where layers share a table of position biases (MPNet).

    Attributes:
        kept_heads_per_layer: Which heads of the dense model each layer has: its rows in the table.
    """

    kept_heads_per_layer: list[list[int]] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.kept_heads_per_layer is None:
            self.kept_heads_per_layer = [list(range(n)) for n in self.query_heads_per_layer or []]

    def validate_kept_heads(self) -> None:
        """Check the numbers of the heads (called on construction and on saving)."""
        counts, kept = self.query_heads_per_layer or [], self.kept_heads_per_layer or []
        expected = [sorted({*heads} & {*range(self.num_attention_heads)}) for heads in kept]
        if kept != expected or [len(heads) for heads in kept] != counts:
            raise ValueError(
                f"kept_heads_per_layer: expected {counts} ascending numbers below "
                f"{self.num_attention_heads}; got {kept}"
            )


@strict
class GroupsPerLayerConfig(SizesPerLayerConfig):
    """What is added where query heads share key/value heads.

    Attributes:
        kv_heads_per_layer: Key/value heads of each layer; None: unpruned. The query heads of a
            layer must be a multiple of them.
    """

    kv_heads_per_layer: list[int] | None = None

    def _unpruned(self) -> dict[str, int]:
        return super()._unpruned() | {"kv_heads_per_layer": self.num_key_value_heads}

    def validate_sizes_per_layer(self) -> None:
        """Check the per-layer lists (called on construction and on saving)."""
        super().validate_sizes_per_layer()
        pairs = zip(self.query_heads_per_layer or [], self.kv_heads_per_layer or [], strict=True)
        for layer, (queries, groups) in enumerate(pairs):
            if (queries == 0) != (groups == 0) or (groups > 0 and queries % groups != 0):
                raise ValueError(
                    f"layer {layer}: expected query heads in a multiple of the key/value heads, or "
                    f"none of both; got query_heads_per_layer {queries} and kv_heads_per_layer "
                    f"{groups}"
                )
