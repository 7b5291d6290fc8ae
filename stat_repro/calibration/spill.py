"""Storage between two layers: activations, in memory or in files, and Gram matrices in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import save_file

from stat_repro.calibration.statistics import GramStatistics
from stat_repro.linalg.gram import mirror, upper_panels
from stat_repro.models.tensor_files import open_tensors


class TensorStore(Protocol):
    """Lists of tensors by name; they come back on the CPU."""

    def put(self, name: str, tensors: Sequence[torch.Tensor]) -> None:
        """Keep these tensors, in place of earlier ones of this name."""
        ...

    def get(self, name: str) -> list[torch.Tensor]:
        """The tensors of this name."""
        ...


class MemoryStore:
    """Tensors on the CPU."""

    def __init__(self) -> None:
        self._kept: dict[str, list[torch.Tensor]] = {}

    def put(self, name: str, tensors: Sequence[torch.Tensor]) -> None:
        """Keep them; tensors on the CPU are not copied."""
        self._kept[name] = [tensor.cpu() for tensor in tensors]

    def get(self, name: str) -> list[torch.Tensor]:
        """The tensors of this name."""
        return self._kept[name]


class FileStore:
    """Tensors in one safetensors file per name, none of them in memory.

    Args:
        folder: An existing folder; the caller removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, tensors: Sequence[torch.Tensor]) -> None:
        """Write them."""
        # Copies: safetensors refuses tensors that share memory.
        named = {str(i): tensor.cpu().clone().contiguous() for i, tensor in enumerate(tensors)}
        save_file(named, self._path(name))

    def get(self, name: str) -> list[torch.Tensor]:
        """Read them, into memory that is the caller's."""
        with open_tensors(self._path(name)) as file:
            return [file.get_tensor(str(i)) for i in range(len(file.keys()))]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


@dataclass(frozen=True)
class SpilledGram:
    """Gram statistics whose matrix is in a file: its panels from the diagonal on.

    Attributes:
        path: The file.
        columns: F.
        tokens: As in `GramStatistics`.
        dtype: As in `GramStatistics`.
        sums: As in `GramStatistics`.
    """

    path: Path
    columns: int
    tokens: int
    dtype: torch.dtype
    sums: torch.Tensor | None

    @classmethod
    def write(cls, statistics: GramStatistics, path: Path) -> SpilledGram:
        """Write G to a file; `GramStatistics` may be dropped then."""
        with path.open("wb") as file:
            for panel in upper_panels(statistics.gram):
                panel.cpu().contiguous().numpy().tofile(file)
        columns = statistics.gram.shape[0]
        return cls(path, columns, statistics.tokens, statistics.dtype, statistics.sums)

    def load(self, device: torch.device) -> GramStatistics:
        """The statistics, bit for bit."""
        gram = torch.empty((self.columns, self.columns), dtype=torch.float64)
        with self.path.open("rb") as file:
            for panel in upper_panels(gram):
                values = np.fromfile(file, dtype=np.float64, count=panel.numel())
                panel.copy_(torch.from_numpy(values).view(panel.shape))
        mirror(gram)
        return GramStatistics(gram.to(device), self.tokens, self.dtype, self.sums)


def gram_file_bytes(columns: int) -> int:
    """Bytes that `SpilledGram` writes for a matrix of F columns: somewhat over half of 8 F^2."""
    return sum(
        8 * panel.numel() for panel in upper_panels(torch.empty((columns,) * 2, device="meta"))
    )
