"""From a plan and the corrected consumers to a smaller model.

Here rows of producers are selected, consumers replaced, and the result put into a model of the
matching `Stat*` class. Which units go and what the corrected weights are is decided elsewhere.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stat_repro.models import layers_stat
from stat_repro.models.adapter import Site, adapter_for
from stat_repro.models.modeling_stat import LAYOUTS
from stat_repro.models.projections import Projection, linear, producer_of
from stat_repro.plan import PlanError, PruningPlan
from stat_repro.surgery.pruned_form import empty_pruned_model, pruned_class, tell_hooks

# The matrix units of GPUs work on tiles; other widths take up to twice as long (bfloat16, H100).
GPU_WIDTH = 64
# Ends of attributes: the length that rotary frequencies cover, of all layers or of one kind; which
# modules keep no activations for the backward pass; a loss of the user.
CARRIED = ("max_seq_len_cached", "gradient_checkpointing", "_checkpointing_func", "_loss_function")


class SurgeryError(ValueError):
    """An edit that is missing, does not fit its site, or is not finite."""


@dataclass(frozen=True, eq=False)
class SiteEdit:
    """What remains of one site, and the corrected consumer.

    Attributes:
        site: The site, as the model that is edited has it.
        kept: Kept units, ascending.
        consumer_weight: New weight of the consumer, (D, len(kept) * width), in any dtype.
        consumer_bias: New bias of the consumer, shape (D,); None keeps the present one.
        relative_error: ||Y - Y'||_F / ||Y||_F, Y and Y' the consumer's outputs, with the statistics
            that the edit was fitted to; None where Y is zero, or without statistics.
    """

    site: Site
    kept: tuple[int, ...]
    consumer_weight: Tensor
    consumer_bias: Tensor | None = None
    relative_error: float | None = None


def _resized(source: Projection, weight: Tensor, bias: Tensor | None) -> Any:
    """A new module with these tensors, on the device and in the dtype and mode of another.

    Args:
        source: What is replaced; not changed.
        weight: Shape (out, in), or (width,) of a norm; copied.
        bias: Shape (out,) or None; copied.

    Returns:
        The module, trainable if `source` is; an EmptyLinear if a size is zero.
    """
    new = layers_stat.empty_like(source.module, tuple(weight.shape), bias is not None)
    with torch.no_grad():
        new.weight.copy_(layers_stat.as_matrix(new, weight))
        if bias is not None and new.bias is not None:
            new.bias.copy_(bias)
    new.requires_grad_(source.weight.requires_grad)
    new.train(source.module.training)
    return new


def _check_edit(edit: SiteEdit, consumer: Projection) -> None:
    """Refuse an edit that does not fit its site."""
    site, kept = edit.site, edit.kept
    width, rows = site.width, consumer.out_features
    if list(kept) != sorted(set(kept)) or not set(kept) <= set(range(site.units)):
        raise SurgeryError(
            f"{site.name}: expected ascending kept units in 0..{site.units - 1}; got {list(kept)}"
        )
    shapes = {"weight": (rows, len(kept) * width), "bias": (rows,)}
    for what, tensor in (("weight", edit.consumer_weight), ("bias", edit.consumer_bias)):
        if tensor is None:
            continue
        if tuple(tensor.shape) != shapes[what]:
            raise SurgeryError(
                f"{site.name}: expected a consumer {what} of shape {shapes[what]} for {len(kept)} "
                f"kept units of {width} columns; got {tuple(tensor.shape)}"
            )


@torch.no_grad()
def edited_modules(model: nn.Module, edit: SiteEdit) -> dict[str, nn.Module]:
    """The new producers and the new consumer of the site of an edit, by module name.

    Raises:
        SurgeryError: An edit that does not fit, or is not finite in the consumer's type.
    """
    site = edit.site
    consumer = linear(model, site.consumer)
    _check_edit(edit, consumer)
    new: dict[str, nn.Module] = {}
    for producer in site.producers:
        module = producer_of(model, producer)
        rows = producer.kept_rows(site.units, edit.kept).to(module.weight.device)
        bias = None if module.bias is None else module.bias[rows]
        new[producer.module] = _resized(module, module.weight[rows], bias)
    if site.kind == "attention":  # which heads these are, for tables with a row for each
        query, numbered = site.producers[0].module, new[site.producers[0].module]
        numbers = layers_stat.head_numbers(model.get_submodule(query), site.units)
        numbered.__dict__["head_numbers"] = tuple(numbers[unit] for unit in edit.kept)
    bias = consumer.bias if edit.consumer_bias is None else edit.consumer_bias
    new[site.consumer] = _resized(consumer, edit.consumer_weight, bias)
    for what, tensor in new[site.consumer].named_parameters():
        if not bool(torch.isfinite(tensor).all()):
            raise SurgeryError(
                f"{site.name}: the new consumer {what} is not finite in {tensor.dtype}"
            )
    return new


def _all_edited(model: nn.Module, edits: Sequence[SiteEdit]) -> dict[str, nn.Module]:
    """`edited_modules` of all edits; refuses two of one site."""
    new: dict[str, nn.Module] = {}
    for edit in edits:
        if edit.site.consumer in new:
            layer, kind = edit.site.key
            raise SurgeryError(f"layer {layer} {kind}: expected one edit; got two")
        new |= edited_modules(model, edit)
    return new


@contextmanager
def temporarily_pruned(model: nn.Module, edits: Sequence[SiteEdit]) -> Iterator[None]:
    """Inside the `with`, the edited sites of the model itself are pruned.

    Sites without an edit stay whole. Hooks on the replaced Linears must be set inside. Afterwards,
    also after an error, the model has its previous modules again; they are never written to.

    Args:
        model: Any supported model.
        edits: At most one per site.

    Raises:
        SurgeryError: An edit does not fit its site; the model is not changed.
    """
    new = _all_edited(model, edits)
    previous = {name: model.get_submodule(name) for name in new}
    try:
        _replace(model, new)
        yield
    finally:
        _replace(model, previous)


def evenly_sized(edits: Sequence[SiteEdit], device: torch.device) -> list[SiteEdit]:
    """Edits of FFNs for forward passes, which are slow on a GPU if a width is odd.

    Widths become multiples of `GPU_WIDTH` by dropped neurons that stay and are read by nothing: the
    output is the same. Where the passes run on the CPU, the edits are handed back as they are.
    """
    return [_widened(edit) if device.type == "cuda" else edit for edit in edits]


def _widened(edit: SiteEdit) -> SiteEdit:
    dropped = sorted(set(range(edit.site.units)) - set(edit.kept))
    kept = torch.tensor(sorted([*edit.kept, *dropped[: -len(edit.kept) % GPU_WIDTH]]))
    read = torch.isin(kept, torch.tensor(edit.kept, dtype=kept.dtype))
    weight = edit.consumer_weight.new_zeros((len(edit.consumer_weight), len(kept)))
    weight[:, read.to(weight.device)] = edit.consumer_weight
    return replace(edit, kept=tuple(kept.tolist()), consumer_weight=weight)


def _replace(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    """Put the modules into their places and adapt the attention modules to their heads."""
    for name, module in modules.items():
        layers_stat.put(model, name, module)
    config: Any = model.config
    layout = LAYOUTS[config.model_type]
    for name in modules:
        if name.endswith(f".{layout.query}"):
            layer = model.get_submodule(name.removesuffix(f".{layout.query}"))
            layers_stat.count_heads(layer, layout)


def _tensors(model: PreTrainedModel, new: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The state dict of the pruned model, tied as the source is; nothing is shared with it."""
    replaced = tuple(f"{name}." for name in new)
    clones: dict[int, Tensor] = {}  # by id, so that tied weights stay one parameter
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not name.startswith(replaced):
            if id(tensor) not in clones:
                clones[id(tensor)] = tensor.detach().clone()
                if isinstance(tensor, nn.Parameter):
                    clones[id(tensor)] = nn.Parameter(clones[id(tensor)], tensor.requires_grad)
            state[name] = clones[id(tensor)]
    for name, module in new.items():
        state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return state


def _carry_over(source: PreTrainedModel, pruned: PreTrainedModel) -> None:
    """Copy to the pruned model what a state dict does not hold.

    Unsaved buffers (rotary frequencies and the length that they cover, position ids), which
    parameters are trained, train or eval mode, checkpointing, the loss, generation defaults.
    """
    dense = dict(source.named_modules())
    for name, module in pruned.named_modules():
        module.training = dense[name].training
        for key in module._non_persistent_buffers_set:
            setattr(module, key, getattr(dense[name], key).detach().clone())
        module.__dict__ |= {k: v for k, v in vars(dense[name]).items() if k.endswith(CARRIED)}
        if getattr(dense[name], "_require_grads_hooks", None):  # of embeddings, for checkpointing
            module.enable_input_require_grads()
    trained = {name: p.requires_grad for name, p in source.named_parameters()}
    for name, parameter in pruned.named_parameters():
        # A bias that the source does not have follows its weight.
        fallback = trained.get(name.removesuffix("bias") + "weight", True)
        parameter.requires_grad_(trained.get(name, fallback))
    if source.can_generate():
        pruned.generation_config = copy.deepcopy(source.generation_config)


def prune_model(
    model: PreTrainedModel,
    plan: PruningPlan,
    edits: Sequence[SiteEdit],
    norms: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> PreTrainedModel:
    """A new, smaller model of the matching `Stat*` class.

    Args:
        model: A stock model of a supported class, or an already pruned one; not changed.
        plan: The units that stay, as indices into `model`.
        edits: One for every site that loses units. A site that loses none may have one too (a
            corrected consumer); otherwise it keeps its weights.
        norms: New parameters of norms of the stream, by the norm's and the parameter's name.

    Returns:
        The pruned model: device, dtype, mode, `requires_grad` and attention implementation as in
        `model`; no tensor is shared with it. Hooks stay with `model`, with a warning.

    Raises:
        UnsupportedModelError: No pruned form of this model class.
        PlanError: The plan was made for a model of another shape.
        SurgeryError: An edit is missing or does not fit the plan or its site.
    """
    pruned_class(model)
    adapter = adapter_for(model)
    adapter.check_plan(plan)
    for edit in edits:
        site = edit.site
        if site not in adapter.sites:
            raise SurgeryError(f"layer {site.layer} {site.kind}: an edit, but no such site")
        kept = plan.layers[site.layer].kept(site.kind)
        if edit.kept != kept:
            raise PlanError(
                f"{site.name}: expected an edit that keeps {list(kept)}, as the plan does; got "
                f"one that keeps {list(edit.kept)}"
            )
    new = _all_edited(model, edits)
    for site in adapter.sites:
        dropped = site.units - len(plan.layers[site.layer].kept(site.kind))
        if dropped and site.consumer not in new:
            raise SurgeryError(
                f"{site.name}: the plan drops {dropped} of {site.units} units; expected an edit "
                "with the new consumer weight; got none"
            )
    tell_hooks(model)
    with torch.no_grad():
        names = [site.consumer for site in adapter.sites]
        biased = [n for n in names if new.get(n, linear(model, n)).bias is not None]
        pruned = empty_pruned_model(model, adapter, plan, biased)
        state = _tensors(model, new)
        for name, parameters in (norms or {}).items():
            state |= {f"{name}.{key}": tensor.clone() for key, tensor in parameters.items()}
        pruned.load_state_dict(state, strict=True, assign=True)
        _carry_over(model, pruned)
    return pruned
