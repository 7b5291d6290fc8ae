"""Storage between two layers: activations, in memory or in files, and Gram matrices in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from stat_repro.calibration.batches import CalibrationError
from stat_repro.calibration.statistics import GramStatistics
from stat_repro.linalg.gram import mirror, upper_panels
from stat_repro.models.tensor_files import open_tensors


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


@dataclass(frozen=True)
class SpilledGram:
    """Gram statistics whose matrix waits elsewhere: its panels from the diagonal on.

    Attributes:
        panels: In the memory of the host; None if they are in a file.
        path: The file.
        columns: F.
        others: The statistics without the matrix.
    """

    panels: list[torch.Tensor] | None
    path: Path | None
    columns: int
    others: GramStatistics

    @classmethod
    def write(cls, statistics: GramStatistics, path: Path | None) -> SpilledGram:
        """Put G into a file or, without one, into the host's memory; then it may be dropped."""
        panels = None if path else [panel.cpu() for panel in upper_panels(statistics.gram)]
        if path:
            with path.open("wb") as file:
                for panel in upper_panels(statistics.gram):
                    panel.cpu().contiguous().numpy().tofile(file)
        nothing = torch.empty(0)
        others = GramStatistics(nothing, statistics.tokens, statistics.dtype, statistics.sums)
        return cls(panels, path, len(statistics.gram), others)

    def load(self, device: torch.device) -> GramStatistics:
        """The statistics, bit for bit.

        Raises:
            CalibrationError: The file is shorter than it was written.
        """
        gram = torch.empty((self.columns, self.columns), dtype=torch.float64, device=device)
        for panel, values in zip(upper_panels(gram), self._waiting(), strict=True):
            if values.numel() < panel.numel():
                raise CalibrationError(f"{self.path}: expected a whole matrix; it was cut off")
            panel.copy_(values.view(panel.shape))
        mirror(gram)
        return replace(self.others, gram=gram)

    def _waiting(self) -> Iterator[torch.Tensor]:
        if self.path is None:
            yield from self.panels or ()
            return
        with self.path.open("rb") as file:
            for panel in upper_panels(torch.empty((self.columns,) * 2, device="meta")):
                yield torch.from_numpy(np.fromfile(file, dtype=np.float64, count=panel.numel()))


def gram_file_bytes(columns: int) -> int:
    """Bytes that `SpilledGram` writes for a matrix of F columns: somewhat over half of 8 F^2."""
    return sum(
        8 * panel.numel() for panel in upper_panels(torch.empty((columns,) * 2, device="meta"))
    )
