"""A pruned model as an ONNX file with dynamic batch size and length."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stat_repro.export.errors import ExportError
from stat_repro.export.stock import load_for_export


class _FirstOutput(nn.Module):
    """The logits alone, from two inputs: no cache and no optional outputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        options = {"use_cache": False} if self.model.can_generate() else {}
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **options)
        return outputs[0]


def write_onnx(folder: Path, out: Path) -> None:
    """Write a pruned model for onnxruntime: `input_ids` and `attention_mask` to the first output.

    Args:
        folder: Of the pruned model.
        out: The file.

    Raises:
        ExportError: onnx or onnxscript is not installed.
    """
    try:
        import_module("onnxscript")
    except ImportError:
        raise ExportError(
            "--format onnx: expected onnx and onnxscript, which torch exports with; they are not "
            "installed; choose pip install onnx onnxscript"
        ) from None
    model = _FirstOutput(load_for_export(folder))
    ids = torch.ones(2, 7, dtype=torch.int64)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    axes = {0: batch, 1: length}
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model, (ids, ids.clone()), out, dynamo=True, verbose=False, external_data=False,
        input_names=["input_ids", "attention_mask"], output_names=["logits"],
        dynamic_shapes=(axes, axes),
    )  # fmt: skip
