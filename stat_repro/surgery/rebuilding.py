"""Whether a model is what its config describes: the pruned model is built from the config.

Modules that were replaced, settings that were changed after loading and buffers of the user would
be lost on the way, and the pruned model would have other outputs even if nothing were cut.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from stat_repro.models.adapter import Adapter, adapter_for
from stat_repro.models.projections import UnsupportedModelError, linear
from stat_repro.surgery.edit import CARRIED
from stat_repro.surgery.pruned_form import empty_pruned_model, pruned_class

# Wrappers, by the start of the class name, and what to give instead.
_WRAPPERS = {
    "OptimizedModule": "the model that torch.compile was given (model._orig_mod)",
    "DataParallel": "model.module",
    "DistributedDataParallel": "model.module",
    "FullyShardedDataParallel": "the model before it was sharded",
    "Peft": "model.merge_and_unload()",
}
# What says nothing about the output: the embeddings show how many rows they have.
_NOT_COMPARED = {"training", "name_or_path", "vocab_size"}
# Rotary frequencies may have been rounded to the model's type, bfloat16 at the coarsest.
_FREQUENCY_RTOL = 0.01


def checked_adapter(model: PreTrainedModel) -> Adapter:
    """The adapter of a model that can be rebuilt from its config.

    Args:
        model: Any model; its weights are not read.

    Raises:
        UnsupportedModelError: A wrapper, weights that are not in memory, an unknown architecture or
            task head, or a module that is not what the config describes; names it.
    """
    kind = type(model).__name__
    wrappers = [instead for start, instead in _WRAPPERS.items() if kind.startswith(start)]
    if wrappers or (hasattr(model, "config") and not isinstance(model, PreTrainedModel)):
        instead = (*wrappers, "the model inside it")[0]
        raise UnsupportedModelError(
            f"model: expected a model of transformers; got {kind}; choose {instead}"
        )
    adapter = adapter_for(model)
    pruned_class(model)  # refuses an unknown task head
    device = next(model.parameters()).device
    for name, parameter in model.named_parameters():
        if hasattr(parameter.data, "__tensor_flatten__"):  # holds other tensors
            raise UnsupportedModelError(
                f"{name}: expected a plain tensor; got {type(parameter.data).__name__}; choose the "
                "model before it was quantised or sharded"
            )
        if parameter.is_meta or parameter.device != device:
            beside = "(offloaded to disk?)" if parameter.is_meta else f"beside {device}"
            raise UnsupportedModelError(
                f"{name}: expected all weights in the memory of one device; got {parameter.device} "
                f"{beside}; choose compress_checkpoint or python -m stat_repro.sharded, which take "
                "a checkpoint larger than memory"
            )
    whole = adapter.plan_keeping({s.key: tuple(range(s.units)) for s in adapter.sites}, "none")
    consumers = [site.consumer for site in adapter.sites]
    biased = [name for name in consumers if linear(model, name).bias is not None]
    try:
        expected = empty_pruned_model(model, adapter, whole, biased)
    except Exception as error:  # each check of transformers and torch has a class of its own
        raise UnsupportedModelError(
            f"config: expected one that describes the model's {adapter.num_layers} layers, because "
            f"the pruned model is built from the config; got {' '.join(str(error).split())}; "
            "choose a model as from_pretrained loads it"
        ) from error
    counted = adapter.layout.positions_behind_padding
    for what, wanted, got in _differences(expected, model):
        # The padding token changes after loading; only where positions begin behind it, so would
        # the output.
        if what.endswith(".padding_idx") and not counted:
            continue
        raise UnsupportedModelError(
            f"{what}: expected {wanted}, as the config describes it, because the pruned model is "
            f"built from the config; got {got}; choose a model as from_pretrained loads it"
        )
    return adapter


def _differences(expected: Any, model: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """What, expected and got, of everything in which a model differs from its rebuilt form."""
    ours, theirs = (dict(root.named_modules()) for root in (expected, model))
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        wanted, got = (_parts(modules.get(name)) for modules in (ours, theirs))
        for part in [*wanted, *(part for part in got if part not in wanted)]:
            both = part in wanted and part in got
            expected_here, got_here = wanted.get(part, "none"), got.get(part, "none")
            # A value that only one of them keeps says nothing of the other.
            if expected_here != got_here and (both or not part.startswith(".")):
                yield f"{name or 'model'}{part}", expected_here, got_here
        if name in theirs and not _same_frequencies(theirs[name]):
            yield f"{name}.inv_freq", "other frequencies", "those of an earlier config"
    first: dict[nn.Parameter, str] = {}
    tied = {*expected.all_tied_weights_keys, *expected.all_tied_weights_keys.values()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(parameter, name) != name and name not in tied:
            other = f"that of {first[parameter]} (config.tie_word_embeddings=True ties embeddings)"
            yield name, "a tensor of its own", other


def _parts(module: nn.Module | None) -> dict[str, Any]:
    """Class, parameters, buffers and settings of a module, by what to call them behind its name.

    Settings are values that it keeps: its own, or copies of the config's.
    """
    if module is None:
        return {}
    kind = type(module)
    if kind.__bases__[0].__name__ == "_SizesPerLayer":  # StatX stands for X
        kind = kind.__bases__[1]
    # With trust_remote_code the files of the pruned classes are copies, or one in older folders.
    home = kind.__module__
    if home.endswith((".layers_stat", ".modeling_stat")):
        home = "layers_stat"
    parts: dict[str, Any] = {"": f"{kind.__qualname__} of {home}"}
    parts["'s forward pass"] = _forward_of(module)
    for key, value in module._parameters.items():
        if value is not None:
            parts[f", parameter {key}"] = f"shape {tuple(value.shape)}"
    for key in module._buffers:
        saved = "not saved" if key in module._non_persistent_buffers_set else "saved"
        parts[f", buffer {key}"] = saved
    for key, value in vars(module).items():
        if key.startswith("_") or key in _NOT_COMPARED or key.endswith(CARRIED):
            continue
        if value is None or isinstance(value, bool | int | float | str | tuple):
            parts[f".{key}"] = value
        elif hasattr(value, "__qualname__"):  # a function
            parts[f".{key}"] = value.__qualname__
    return parts


def _forward_of(module: Any) -> str:
    """What the forward pass of a module is, without hooks that accelerate puts around it."""
    usual = type(module).forward
    forward = getattr(module.forward, "__func__", None)
    # After mixed precision accelerate gives it back without its decorators.
    if hasattr(module, "_hf_hook") or forward in (usual, inspect.unwrap(usual)):
        return "that of its class"
    if hasattr(module, "_original_forward"):
        return (
            "that of accelerate's mixed precision, which "
            "accelerator.unwrap_model(model, keep_fp32_wrapper=False) takes off"
        )
    return "a replacement"


def _same_frequencies(module: Any) -> bool:
    """Whether rotary frequencies are those of the config; True for other modules."""
    buffers = dict(module.named_buffers(recurse=False))
    # Where there are two, the other one follows the length of what was read last.
    kept = [name for name in buffers if name.endswith("original_inv_freq")]
    kept = kept or [name for name in buffers if name.endswith("inv_freq")]
    if not kept or not hasattr(module, "config"):
        return True
    fresh = dict(type(module)(module.config).named_buffers(recurse=False))
    return all(
        buffers[name].shape == fresh[name].shape
        and torch.allclose(
            buffers[name].cpu().float(), fresh[name].cpu().float(), rtol=_FREQUENCY_RTOL, atol=0
        )
        for name in kept
    )
