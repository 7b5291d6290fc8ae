"""Storage between two layers: activations, in memory or in files, and Gram matrices in files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from stat_repro.calibration.batches import CalibrationError
from stat_repro.linalg.gram import mirror, upper_panels
from stat_repro.models.tensor_files import TensorFileError, open_tensors


class MemoryStore:
    """Lists of tensors by name, in memory.

    Args:
        room: Bytes of an accelerator that they may take; what does not fit goes to the CPU.
    """

    def __init__(self, room: int = 0) -> None:
        self._kept: dict[str, list[torch.Tensor]] = {}
        self._room = room

    def put(self, name: str, tensors: Sequence[torch.Tensor]) -> None:
        """Keep these in place of earlier ones; those that stay where they are, are not copied."""
        self._room += sum(t.nbytes for t in self._kept.pop(name, []) if t.device.type != "cpu")
        kept = self._kept[name] = []
        for tensor in tensors:
            stays = tensor.device.type != "cpu" and tensor.nbytes <= self._room
            self._room -= tensor.nbytes * stays
            kept.append(tensor if stays else tensor.cpu())

    def get(self, name: str) -> list[torch.Tensor]:
        """The tensors of this name."""
        return self._kept[name]


class FileStore:
    """Lists of tensors in one safetensors file per name, none of them in memory.

    Args:
        folder: An existing folder; the caller removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, tensors: Sequence[torch.Tensor]) -> None:
        """Write these in place of earlier ones."""
        # Copies: safetensors refuses tensors that share memory.
        named = {str(i): tensor.cpu().clone().contiguous() for i, tensor in enumerate(tensors)}
        save_file(named, self._path(name))

    def get(self, name: str) -> list[torch.Tensor]:
        """Read them, into memory that is the caller's."""
        with open_tensors(self._path(name)) as file:
            return [file.get_tensor(str(i)) for i in range(len(file.keys()))]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


TensorStore = MemoryStore | FileStore


def put_gram(store: TensorStore, name: str, gram: torch.Tensor) -> None:
    """Put the panels of G from the diagonal on into a store, one by one; then G may be dropped."""
    for i, panel in enumerate(upper_panels(gram)):
        store.put(f"{name}-{i}", [panel])


def get_gram(store: TensorStore, name: str, columns: int, device: torch.device) -> torch.Tensor:
    """G of shape (F, F) as `put_gram` got it, bit for bit.

    Raises:
        CalibrationError: A file is shorter than it was written.
    """
    gram = torch.empty((columns, columns), dtype=torch.float64, device=device)
    for i, panel in enumerate(upper_panels(gram)):
        try:
            (values,) = store.get(f"{name}-{i}")
        except TensorFileError as error:
            raise CalibrationError(
                f"{name}: expected a whole matrix; it was cut off ({error})"
            ) from error
        panel.copy_(values)
    mirror(gram)
    return gram


def gram_file_bytes(columns: int) -> int:
    """Bytes of the panels that `put_gram` writes for F columns: somewhat over half of 8 F^2."""
    return sum(
        8 * panel.numel() for panel in upper_panels(torch.empty((columns,) * 2, device="meta"))
    )
