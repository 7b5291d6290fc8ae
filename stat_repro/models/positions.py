"""Which tokens a model can read: how many, and which ids."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from stat_repro.models.modeling_stat import LAYOUTS


def positions_of(config: PreTrainedConfig) -> int | None:
    """Tokens that a model was made for; None if its config names no limit.

    Where positions are counted from the padding token's number on, as in RoBERTa, the first rows of
    the table belong to no token: of 514 rows 512 are left.
    """
    rows: int | None = getattr(config, "max_position_embeddings", None)
    layout = LAYOUTS.get(config.model_type)
    if rows is None or layout is None or not layout.positions_behind_padding:
        return rows
    return rows - (config.pad_token_id or 0) - 1


def unknown_tokens(model: PreTrainedModel, ids: torch.Tensor) -> str | None:
    """What to say of token ids that the model has no embedding for; None if it has all of them.

    A GPU ends with an assertion there, and computes nothing more in that process.
    """
    rows = len(model.get_input_embeddings().weight)
    low, high = torch.stack(torch.aminmax(ids)).tolist()  # one wait for a GPU
    if low >= 0 and high < rows:
        return None
    return (
        f"input_ids: expected token ids from 0 to {rows - 1}, the rows of the model's embeddings; "
        f"got {high if low >= 0 else f'{low} to {high}'} (tokens that were added to the tokenizer "
        "need model.resize_token_embeddings(len(tokenizer)))"
    )
