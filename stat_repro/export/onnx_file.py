"""A pruned model as an ONNX file with dynamic batch size and length."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stat_repro.export.errors import ExportError
from stat_repro.export.stock import load_for_export
from stat_repro.scratch import complete

# What is written, as far as a model gives it; a model without a head gives the last.
_OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")


class _Tensors(nn.Module):
    """A model from tensors to tensors: no cache and no optional outputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if model.can_generate() else {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(input_ids, attention_mask=attention_mask, **given, **self.options)
        return {name: outputs[name] for name in _OUTPUTS if name in outputs}


def write_onnx(folder: Path, out: Path) -> None:
    """Write a pruned model for onnxruntime.

    Inputs are `input_ids` and `attention_mask`, and `token_type_ids` of models with several token
    types. Outputs are `logits`, of models that answer questions `start_logits` and `end_logits`,
    without a head `last_hidden_state`. bfloat16 becomes float32.

    Args:
        folder: Folder of the pruned model.
        out: The file.

    Raises:
        ExportError: onnx or onnxscript is not installed, a head for multiple choice, or a model
            that torch cannot export (rotary frequencies that depend on the length).
    """
    if find_spec("onnxscript") is None:
        raise ExportError(
            "--format onnx: expected onnx and onnxscript, which torch exports with; they are not "
            "installed; choose pip install onnx onnxscript"
        )
    pruned = load_for_export(folder)
    kind = type(pruned).__name__
    if kind.endswith("ForMultipleChoice"):
        raise ExportError(f"--format onnx: expected one text per example; got {kind}")
    if pruned.dtype == torch.bfloat16:  # which onnxruntime does not compute on a CPU
        pruned.float()
    model = _Tensors(pruned).eval()
    names = ["input_ids", "attention_mask"]
    if getattr(pruned.config, "type_vocab_size", 1) > 1:
        names.append("token_type_ids")
    ids = torch.ones(2, 7, dtype=torch.int64)
    inputs = tuple(ids.clone() if name != "token_type_ids" else ids * 0 for name in names)
    with torch.no_grad():
        outputs = list(model(*inputs))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    axes = {0: batch, 1: length}
    with complete(out) as partial:
        try:
            torch.onnx.export(
                model, inputs, partial, dynamo=True, verbose=False, external_data=False,
                input_names=names, output_names=outputs, dynamic_shapes=(axes,) * len(names),
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise ExportError(
                f"--format onnx: expected a model that torch.export takes; got {kind}: {reason}"
            ) from error
