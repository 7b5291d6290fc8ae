"""What an export refuses."""

from typing import Any

_FAMILIES = ("llama", "mistral", "qwen2")
# Rotary positions that are factors of the usual frequencies.
_ROTARY = ("default", "linear", "llama3")


class ExportError(ValueError):
    """A model that the other program cannot hold, or options that do not go together."""


def check_gated(config: Any, form: str, program: str) -> None:
    """Refuse what a program that knows Llama with sizes per layer does not have.

    Args:
        config: The model's config.
        form: Value of `--format`.
        program: What reads it.

    Raises:
        ExportError: Names what the model has.
    """
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    architecture = (config.architectures or ["ForCausalLM"])[0]
    facts = {
        "model_type": (config.model_type.removeprefix("stat_"), _FAMILIES),
        "architectures": (architecture.partition("For")[2] or architecture, ("CausalLM",)),
        "hidden_act": (getattr(config, "hidden_act", None), ("silu",)),
        "sliding_window": (getattr(config, "sliding_window", None), (None,)),
        "rope_type": (rotary, _ROTARY),
    }
    for name, (got, possible) in facts.items():
        if got not in possible:
            raise ExportError(
                f"--format {form}, {name}: expected {' or '.join(map(str, possible))}, which "
                f"{program} holds with sizes per layer; got {got}; choose --format onnx"
            )
