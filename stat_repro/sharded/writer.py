"""Writing a pruned checkpoint shard by shard while its layers are cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.layers_stat import as_matrix
from stat_repro.models.tensor_files import INDEX_FILE, TensorEntry
from stat_repro.sharded.skeleton import Skeleton
from stat_repro.surgery.edit import SiteEdit, SurgeryError

# Tensors outside the layers share a shard up to this size; the largest are copied alone.
_SHARD_BYTES = 512 * 1024 * 1024


class ShardWriter:
    """The weights of a pruned model: one shard per layer, and before them what is outside.

    Every tensor keeps the type that it has in the dense checkpoint and is read from there, so that
    what is not corrected is copied exactly, whatever the calibration computed in.

    Args:
        folder: Where the shards go; it exists.
        skeleton: The dense model.
        adapter: Its adapter.
    """

    def __init__(self, folder: Path, skeleton: Skeleton, adapter: Adapter) -> None:
        self._folder, self._adapter, self._model = folder, adapter, skeleton.model
        stored = skeleton.stored()
        self._stored = stored
        layers = tuple(f"{name}." for name in adapter.layer_names)
        self._outside = _groups({n: e for n, e in stored.items() if not n.startswith(layers)})
        self._count = len(self._outside) + adapter.num_layers
        self._places: dict[str, str] = {}
        self._bytes = self._parameters = 0

    def layer(self, layer: int, edits: Sequence[SiteEdit]) -> None:
        """Write a layer.

        Args:
            layer: Its index.
            edits: Of its sites; one without an edit has no units and stays as it is.

        Raises:
            SurgeryError: An edited weight that is not finite.
        """
        stem = f"{self._adapter.layer_names[layer]}."
        entries = {name: entry for name, entry in self._stored.items() if name.startswith(stem)}
        changed: dict[str, torch.Tensor] = {}
        for edit in edits:
            changed |= _edited(self._adapter.site(layer, edit.kind), edit, entries, self._model)
        kept = {name: entry.read() for name, entry in entries.items() if name not in changed}
        self._write(len(self._outside) + layer, kept | changed)

    def finish(self, **notes: str) -> None:
        """Write what is outside the layers, and the index; both get these notes as metadata."""
        for number, group in enumerate(self._outside):
            self._write(number, {name: entry.read() for name, entry in group.items()}, **notes)
        sizes = {"total_parameters": self._parameters, "total_size": self._bytes}
        index = {
            "metadata": {**notes, **sizes},
            "weight_map": dict(sorted(self._places.items())),
        }
        text = json.dumps(index, indent=2, sort_keys=True)
        (self._folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")

    def _write(self, number: int, tensors: dict[str, torch.Tensor], **notes: str) -> None:
        tensors = {key: tensor for key, tensor in tensors.items() if tensor.numel()}
        name = f"model-{number + 1:05d}-of-{self._count:05d}.safetensors"
        save_file(tensors, self._folder / name, metadata={"format": "pt", **notes})
        for key, tensor in tensors.items():
            self._places[key] = name
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


def _edited(
    site: Site, edit: SiteEdit, entries: dict[str, TensorEntry], model: nn.Module
) -> dict[str, torch.Tensor]:
    """The new tensors of a site's producers and consumer, by name; none where nothing changes."""
    if len(edit.kept) == site.units and edit.consumer_bias is None:
        return {}
    new: dict[str, torch.Tensor] = {}
    for producer in site.producers:
        rows = producer.kept_rows(site.units, edit.kept)
        for key in ("weight", "bias"):
            entry = entries.get(f"{producer.module}.{key}")
            if entry is not None:
                module = model.get_submodule(producer.module)
                cut = as_matrix(module, entry.read())[rows]
                new[f"{producer.module}.{key}"] = as_matrix(module, cut).contiguous()
    like = entries.get(f"{site.consumer}.weight") or entries[f"{site.consumer}.bias"]
    for key, tensor in (("weight", edit.consumer_weight), ("bias", edit.consumer_bias)):
        if tensor is None:
            continue
        tensor = as_matrix(model.get_submodule(site.consumer), tensor)
        tensor = tensor.to(device="cpu", dtype=like.dtype).contiguous()
        if not bool(torch.isfinite(tensor).all()):
            raise SurgeryError(f"{site.name}: the new consumer {key} is not finite in {like.dtype}")
        new[f"{site.consumer}.{key}"] = tensor
    return new
