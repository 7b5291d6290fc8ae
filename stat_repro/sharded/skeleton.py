"""A model of which the weights stay in its checkpoint until a part of it runs."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from stat_repro.models.adapter import Adapter, adapter_for, drop_pooler, layout_of
from stat_repro.models.loading import load_config, warn_unused
from stat_repro.models.modes import LayerWeights
from stat_repro.models.projections import UnsupportedModelError
from stat_repro.models.tensor_files import ShardedCheckpoint, TensorEntry, TensorFileError
from stat_repro.surgery.pruned_form import heads_like, separate, supported_classes


@dataclass(frozen=True)
class Skeleton:
    """A model on the meta device and where its tensors lie.

    Attributes:
        model: In evaluation mode; its unsaved buffers are real.
        adapter: Its adapter.
        entries: Where each tensor of its state dict lies; tied ones share an entry.
        dtype: Floating point type of the checkpoint.
    """

    model: PreTrainedModel
    adapter: Adapter
    entries: Mapping[str, TensorEntry]
    dtype: torch.dtype

    def stored(self) -> dict[str, TensorEntry]:
        """Tensors to save, each once: of tied ones the source."""
        tied = self.model.all_tied_weights_keys
        return {
            name: entry
            for name, entry in self.entries.items()
            if name not in tied or entry is not self.entries[tied[name]]
        }


def open_checkpoint(folder: Path, device: torch.device) -> Skeleton:
    """The model that a folder holds, without its weights.

    Args:
        folder: Hugging Face folder with safetensors weights, in one file or in several.
        device: Where the model will run.

    Raises:
        ModelLoadError: No usable configuration.
        UnsupportedModelError: `architectures` of the config names no class that can be pruned, or
            quantised weights.
        TensorFileError: Tensors that are missing or of another shape.
    """
    config, classes = load_config(folder), supported_classes()
    names = getattr(config, "architectures", None) or ["none"]
    if names[0] not in classes:
        layout_of(config, str(folder))
        raise UnsupportedModelError(
            f"{folder}: architecture {names[0]}; supported: "
            f"{', '.join(heads_like(config.model_type))}"
        )
    # Loading a pruned model with trust_remote_code makes transformers prefer that folder's copy of
    # the configuration classes.
    config = classes[names[0]].config_class.from_pretrained(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(f"{folder}: expected plain weights; they are quantised")
    # Numbers that a model computes from its config (the scale of Gemma's embeddings) are rounded to
    # its own type: here to none, as the type that its layers run in may be wider than the stored.
    with torch.device("meta"):
        model = classes[names[0]]._from_config(config, dtype=torch.float64)
    checkpoint = ShardedCheckpoint(folder)
    drop_pooler(model, checkpoint.entries)
    entries = _matched(model, checkpoint)
    _untie(model, entries)
    _fill_unsaved_buffers(model, device)
    return Skeleton(model.eval(), adapter_for(model), entries, checkpoint.float_dtype)


def _matched(model: PreTrainedModel, checkpoint: ShardedCheckpoint) -> dict[str, TensorEntry]:
    """Entries by the model's names; checkpoints may lack the prefix or one of two tied names."""
    prefix, tied = f"{model.base_model_prefix}.", model.all_tied_weights_keys
    partners: dict[str, list[str]] = {}
    for name, source in tied.items():
        partners.setdefault(source, []).append(name)
        partners.setdefault(name, []).append(source)
    entries: dict[str, TensorEntry] = {}
    missing: list[str] = []
    used: set[str] = set()
    for name, tensor in model.state_dict().items():
        candidates = [name, *partners.get(name, [])]
        candidates += [candidate.removeprefix(prefix) for candidate in candidates]
        there = next((c for c in candidates if c in checkpoint.entries), None)
        if there is None:
            missing.append(name)
            continue
        entry = checkpoint.entries[there]
        if entry.shape != tuple(tensor.shape):
            raise TensorFileError(
                f"{entry.path}, {there}: expected shape {tuple(tensor.shape)}; got {entry.shape}"
            )
        entries[name] = entry
        used.add(there)
    if missing:
        raise TensorFileError(
            f"{checkpoint.folder}: {len(missing)} tensors of {type(model).__name__} are missing "
            f"(first: {missing[0]}); loading the model and saving it with save_pretrained gives "
            "them their present names"
        )
    # Folders of earlier versions hold tensors without elements for what is gone.
    unused = [n for n, e in checkpoint.entries.items() if n not in used and 0 not in e.shape]
    warn_unused(checkpoint.folder, type(model).__name__, unused)
    return entries


def _untie(model: PreTrainedModel, entries: dict[str, TensorEntry]) -> None:
    """Of tied tensors that the checkpoint has twice: one if they are equal, else two parameters."""
    for name, source in model.all_tied_weights_keys.items():
        entry, other = entries[name], entries[source]
        if entry is other:
            continue
        if entry.dtype == other.dtype and torch.equal(entry.read(), other.read()):
            entries[name] = other
        else:
            separate(model, name)


def _fill_unsaved_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Positions and rotary frequencies, which transformers computes when it loads a model."""
    for module in model.modules():
        unsaved = [k for k in module._non_persistent_buffers_set if module._buffers[k] is not None]
        if not unsaved:
            continue
        for key in unsaved:
            module._buffers[key] = torch.empty_like(getattr(module, key), device="cpu")
        model._init_weights(module)
        for key in unsaved:
            module._buffers[key] = getattr(module, key).to(device)


class CheckpointWeights(LayerWeights):
    """Weights read from the checkpoint when their part of the model runs, and dropped behind it.

    Args:
        skeleton: The model.
        device: Where the weights go.
        dtype: Floating point type that the model computes in; None leaves them as they are stored.
    """

    def __init__(
        self, skeleton: Skeleton, device: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        self._skeleton, self._device, self._dtype = skeleton, device, dtype

    def outside(self) -> AbstractContextManager[None]:
        """Embeddings and whatever else the backbone has besides its layers."""
        adapter = self._skeleton.adapter
        stem = f"{adapter.backbone}." if adapter.backbone else ""
        layers = tuple(f"{name}." for name in adapter.layer_names)
        return self._resident(
            [n for n in self._skeleton.entries if n.startswith(stem) and not n.startswith(layers)]
        )

    def layer(self, layer: int) -> AbstractContextManager[None]:
        """One transformer layer."""
        stem = f"{self._skeleton.adapter.layer_names[layer]}."
        return self._resident([n for n in self._skeleton.entries if n.startswith(stem)])

    @contextmanager
    def _resident(self, names: list[str]) -> Iterator[None]:
        previous: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            for name in names:
                parent, _, key = name.rpartition(".")
                module = self._skeleton.model.get_submodule(parent)
                parameter = module.get_parameter(key)
                tensor = self._skeleton.entries[name].read()
                dtype = self._dtype if tensor.is_floating_point() else None
                previous.append((module, key, parameter))
                tensor = tensor.to(self._device, dtype)
                module._parameters[key] = nn.Parameter(tensor, requires_grad=False)
            yield
        finally:
            for module, key, parameter in previous:
                module._parameters[key] = parameter
