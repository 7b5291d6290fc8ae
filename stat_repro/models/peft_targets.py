"""Default target modules of PEFT for pruned models."""

from importlib import import_module

from stat_repro.models.modeling_stat import LAYOUTS


def register_peft_targets() -> None:
    """Let PEFT take the same target modules in a pruned model as in its dense parent.

    PEFT has a table for each of its methods, by `model_type`, and none of them can know the types
    of pruned models. To be called once, before `get_peft_model` with a configuration that has no
    `target_modules`; one that has them needs nothing.

    Raises:
        ImportError: PEFT is not installed.
    """
    for name, table in vars(import_module("peft.utils.constants")).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MODULES_MAPPING"):
            table |= {f"stat_{kind}": table[kind] for kind in LAYOUTS if kind in table}
