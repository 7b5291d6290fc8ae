"""Class and configuration of the pruned form of a model."""

import logging
from collections.abc import Collection
from typing import Any

import torch
from transformers import PreTrainedModel

from stat_repro.models import modeling_stat
from stat_repro.models.adapter import Adapter, Site, layout_of
from stat_repro.models.layers_stat import head_numbers
from stat_repro.models.projections import UnsupportedModelError
from stat_repro.plan import PruningPlan

log = logging.getLogger("stat_repro")

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# `StatX`, whose second base is X, for every stock class X that has a pruned form.
_PRUNED_CLASSES: dict[type[PreTrainedModel], type[PreTrainedModel]] = {
    pruned.__bases__[1]: pruned
    for heads in modeling_stat.AUTO_CLASSES.values()
    for pruned in heads.values()
}


def pruned_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """The `Stat*` class of a stock model, or the class itself if it is one."""
    for stock, pruned in _PRUNED_CLASSES.items():
        # By name: a model loaded with trust_remote_code has a copy of the class.
        if type(model) is stock or type(model).__name__ == pruned.__name__:
            return pruned
    layout_of(model.config, type(model).__name__)
    raise UnsupportedModelError(
        f"no pruned form of {type(model).__name__}; supported: "
        f"{', '.join(heads_like(model.config.model_type))}. For a model with a head of your own "
        f"choose the backbone, model.{model.base_model_prefix}, and put the pruned one in its place"
    )


def heads_like(model_type: str) -> list[str]:
    """Names of the classes of an architecture that can be pruned, stock and pruned."""
    of_type = (f"stat_{model_type}", model_type)
    return sorted(
        name
        for name, model in supported_classes().items()
        if model.config_class.model_type in of_type
    )


def _pruned_config(
    model: PreTrainedModel, adapter: Adapter, plan: PruningPlan, biased: Collection[str]
) -> Any:
    """The config of the dense model, with the sizes of each layer."""

    def biases(sites: tuple[Site, ...]) -> list[bool]:
        return [site.consumer in biased for site in sites]

    attention, ffn = adapter.of_kind("attention"), adapter.of_kind("ffn")
    ratios = [site.queries_per_unit for site in attention]
    lists: dict[str, Any] = {
        "query_heads_per_layer": [n * r for n, r in zip(plan.head_counts, ratios, strict=True)],
        "ffn_size_per_layer": list(plan.neuron_counts),
        "attention_output_bias_per_layer": biases(attention),
        "ffn_output_bias_per_layer": biases(ffn),
    }
    config_class = pruned_class(model).config_class
    if hasattr(config_class, "kv_heads_per_layer"):
        lists["kv_heads_per_layer"] = list(plan.head_counts)
    if config_class.layout.numbered_heads:
        queries = [model.get_submodule(site.producers[0].module) for site in attention]
        numbers = [head_numbers(q, s.units) for q, s in zip(queries, attention, strict=True)]
        lists["kept_heads_per_layer"] = [
            [numbers[i][head] for head in layer.kept_heads] for i, layer in enumerate(plan.layers)
        ]
    values = model.config.to_dict()
    # These name the stock class; the pruned one sets its values itself.
    for key in ("model_type", "auto_map", "transformers_version", "architectures"):
        values.pop(key, None)
    # A checkpoint may have a head of its own, whatever its config says; other programs believe it.
    all_names = dict(model.named_parameters(remove_duplicate=False))
    if model.get_output_embeddings() and len(all_names) == len(dict(model.named_parameters())):
        values["tie_word_embeddings"] = False
    config = config_class(**(values | lists))
    config._attn_implementation = model.config._attn_implementation
    config.name_or_path = model.config.name_or_path
    return config


def empty_pruned_model(
    model: PreTrainedModel, adapter: Adapter, plan: PruningPlan, biased: Collection[str]
) -> PreTrainedModel:
    """The pruned model without weights, on the meta device.

    Args:
        model: The dense model; only the sizes of its weights are read.
        adapter: Its adapter.
        plan: The units that stay.
        biased: Names of the consumers that have a bias in the pruned model.
    """
    config = _pruned_config(model, adapter, plan, biased)
    # An encoder's base model may have been made without the pooler that it usually has.
    options = {"add_pooling_layer": False} if getattr(model, "pooler", True) is None else {}
    with torch.device("meta"):
        pruned = pruned_class(model)(config, **options)
    for name, source in pruned.all_tied_weights_keys.items():
        if model.get_parameter(name) is not model.get_parameter(source):
            separate(pruned, name)
    return pruned


def separate(model: PreTrainedModel, name: str) -> None:
    """Give a module a parameter of its own, without a value, in place of one that is tied."""
    parent, _, key = name.rpartition(".")
    module = model.get_submodule(parent)
    parameter = torch.empty_like(module.get_parameter(key), device="meta")
    module.register_parameter(key, torch.nn.Parameter(parameter))


def tell_hooks(model: PreTrainedModel) -> None:
    """Warn of a user's hooks, which the model made from the config will not have."""
    names = [
        name or "model"
        for name, module in model.named_modules()
        for hook in (hook for kind in _HOOKS for hook in getattr(module, kind).values())
        # transformers records hidden states with hooks of its own, where they are asked for.
        if not str(getattr(hook, "__module__", "")).startswith("transformers.")
    ]
    if names:
        log.warning(
            "hooks: %d stay with the model that was given, the first one on %s; the pruned model "
            "has none. Its outputs lack what they change: choose to register them on it again",
            *(len(names), names[0]),
        )


def supported_classes() -> dict[str, type[PreTrainedModel]]:
    """Stock and pruned classes by name."""
    return {cls.__name__: cls for pair in _PRUNED_CLASSES.items() for cls in pair}
