"""How many tokens a model can read."""

from transformers import PreTrainedConfig

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
