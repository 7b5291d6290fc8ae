"""Writing a pruned checkpoint shard by shard while its layers are cut."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from stat_repro.models.tensor_files import INDEX_FILE, TensorEntry
from stat_repro.sharded.skeleton import CheckpointWeights, Skeleton
from stat_repro.surgery.edit import SiteEdit, edited_modules

# Tensors outside the layers share a shard up to this size; the largest are copied alone.
_SHARD_BYTES = 512 * 1024 * 1024


class ShardWriter:
    """The weights of a pruned model: one shard per layer, and before them what is outside.

    Every tensor keeps the type that it has in the dense checkpoint and is read from there, so that
    what is not corrected is copied exactly, whatever the calibration computed in.

    Args:
        folder: Where the shards go; it exists.
        skeleton: The dense model.

    Attributes:
        places: The file of every tensor that was written.
    """

    def __init__(self, folder: Path, skeleton: Skeleton) -> None:
        self._folder, self._adapter, self._model = folder, skeleton.adapter, skeleton.model
        self._stored = skeleton.stored()
        self._weights = CheckpointWeights(skeleton, torch.device("cpu"))
        layers = tuple(f"{name}." for name in self._adapter.layer_names)
        outside = {n: e for n, e in self._stored.items() if not n.startswith(layers)}
        self._outside = _groups(outside)
        self._count = len(self._outside) + self._adapter.num_layers
        self.places: dict[str, str] = {}
        self._bytes = self._parameters = 0

    def layer(self, layer: int, edits: Sequence[SiteEdit]) -> None:
        """Write a layer.

        Args:
            layer: Its index.
            edits: Edits of its sites; one without an edit has no units and stays as it is.

        Raises:
            SurgeryError: An edited weight that is not finite.
        """
        stem = f"{self._adapter.layer_names[layer]}."
        new: dict[str, nn.Module] = {}
        with self._weights.layer(layer):
            for edit in edits:
                if len(edit.kept) < edit.site.units or edit.consumer_bias is not None:
                    new |= edited_modules(self._model, edit)
            replaced = tuple(f"{name}." for name in new)
            tensors = {
                name: self._model.get_parameter(name)
                for name in self._stored
                if name.startswith(stem) and not name.startswith(replaced)
            }
        for name, module in new.items():
            tensors |= {f"{name}.{key}": value for key, value in module.named_parameters()}
        self._write(len(self._outside) + layer, tensors)

    def finish(self, **notes: str) -> None:
        """Write what is outside the layers, and the index; both get these notes as metadata."""
        for number, group in enumerate(self._outside):
            self._write(number, {name: entry.read() for name, entry in group.items()}, **notes)
        sizes = {"total_parameters": self._parameters, "total_size": self._bytes}
        index = {
            "metadata": {**notes, **sizes},
            "weight_map": dict(sorted(self.places.items())),
        }
        text = json.dumps(index, indent=2, sort_keys=True)
        (self._folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")

    def _write(self, number: int, tensors: Mapping[str, torch.Tensor], **notes: str) -> None:
        tensors = {key: tensor for key, tensor in tensors.items() if tensor.numel()}
        name = f"model-{number + 1:05d}-of-{self._count:05d}.safetensors"
        save_file(tensors, self._folder / name, metadata={"format": "pt", **notes})
        for key, tensor in tensors.items():
            self.places[key] = name
            self._bytes += tensor.nbytes
            self._parameters += tensor.numel()


def _groups(entries: dict[str, TensorEntry]) -> list[dict[str, TensorEntry]]:
    """The entries in order, cut into groups of limited size."""
    groups: list[dict[str, TensorEntry]] = []
    size = 0
    for name, entry in entries.items():
        if not groups or size + entry.nbytes > _SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = entry
        size += entry.nbytes
    return groups
