"""What a config says of the computation."""

from typing import Any

from transformers import PreTrainedConfig

# Names, what the weights show, and what a loss or saving the model writes into its config.
_OTHERS = {
    *("_name_or_path", "architectures", "transformers_version", "id2label", "label2id", "dtype"),
    *("problem_type", "use_cache", "return_dict"),
}


def settings_of(config: PreTrainedConfig) -> dict[str, Any]:
    """The values of a config that the computation inside the model follows, beside its weights."""
    return {key: value for key, value in config.to_dict().items() if key not in _OTHERS}
