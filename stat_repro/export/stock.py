"""A pruned model of equal layers as a folder that needs nothing of this package."""

from pathlib import Path
from typing import Any

import torch

from stat_repro.entry import one_line
from stat_repro.export.errors import ExportError
from stat_repro.models.adapter import drop_pooler
from stat_repro.models.loading import load_config, load_model
from stat_repro.models.modeling_stat import AUTO_OF

_LISTS = {
    "query_heads_per_layer": "num_attention_heads",
    "kv_heads_per_layer": "num_key_value_heads",
    "ffn_size_per_layer": "intermediate_size",
}
_OURS = ("model_type", "auto_map", "architectures", "per_layer_config", "transformers_version")


def plain_config(folder: Path) -> Any:
    """The configuration of a folder; refuses one of quantised weights."""
    config: Any = load_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise ExportError(
            f"{folder}: expected plain weights; got quantised ones; choose the folder of the model "
            "before that"
        )
    return config


def load_for_export(folder: Path) -> Any:
    """The model of a folder with the head that it was saved with, in evaluation mode.

    Raises:
        ExportError: It is not a pruned model, or a quantised one.
        ModelLoadError: A folder that cannot be loaded.
    """
    config = plain_config(folder)
    architecture = (config.architectures or ["none"])[0]
    if architecture not in AUTO_OF:
        raise ExportError(f"{folder}: expected a pruned model; got {architecture}")
    model: Any = load_model(folder, AUTO_OF[architecture], config.dtype or torch.float32).eval()
    head = model.get_output_embeddings()
    # Other programs believe the config, and tied weights where the file has a head of its own.
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False
    return model


def stock_values(config: Any) -> dict[str, Any]:
    """The values of a pruned model's config that the stock one has as well."""
    values = config.to_dict().items()
    return {k: value for k, value in values if k not in _OURS and not k.endswith("_per_layer")}


def write_stock(folder: Path, out: Path) -> None:
    """Write a pruned model with a stock class of transformers.

    Args:
        folder: Folder of the pruned model.
        out: New folder.

    Raises:
        ExportError: Layers of different sizes, or sizes that the stock class cannot have.
    """
    model = load_for_export(folder)
    config = model.config
    whole, heads = config.num_attention_heads, config.query_heads_per_layer
    if set(heads) != {whole} and not hasattr(config, "head_dim"):
        raise ExportError(
            f"--format stock, query_heads_per_layer: expected {whole} in all layers, because the "
            f"stock class of {config.model_type} divides its width by the number of heads; got "
            f"{heads}; choose pruning.kinds=ffn and allocation=uniform"
        )
    sizes = {}
    for ours, theirs in _LISTS.items():
        counts = getattr(config, ours, None)
        if counts is not None and len(set(counts)) > 1:
            raise ExportError(
                f"--format stock, {ours}: expected the same count in all layers, as stock classes "
                f"have it; got {counts}; choose allocation=uniform when pruning, at a ratio that "
                "leaves all the same"
            )
        if counts is not None:
            sizes[config.attribute_map.get(theirs, theirs)] = counts[0]
    if 0 in sizes.values():
        raise ExportError(f"--format stock: expected heads and neurons in all layers; got {sizes}")
    stock: Any = type(model).__bases__[1]
    try:
        sized = stock.config_class(**stock_values(config) | sizes)
    except Exception as error:  # transformers has a class for every check
        raise ExportError(
            f"--format stock: expected sizes that {stock.config_class.__name__} takes; got "
            f"{sizes}: {one_line(error.__cause__ or error)}; choose pruning.kinds=ffn"
        ) from error
    plain = stock(sized).to(model.dtype)
    drop_pooler(plain, model.state_dict())
    has, wants = ({k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (model, plain))
    if has != wants:
        name = sorted(has.items() ^ wants.items())[0][0]
        raise ExportError(
            f"--format stock, {name}: expected {wants.get(name, 'no such tensor')}, as "
            f"{stock.__name__} has it; got {has.get(name, 'no such tensor')}; choose a correction "
            "without biases"
        )
    plain.load_state_dict(model.state_dict())
    if model.can_generate():
        plain.generation_config = model.generation_config
    plain.save_pretrained(out)
