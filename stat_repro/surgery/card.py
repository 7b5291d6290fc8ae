"""The README of a saved model: what was removed, from what and how, and what that did to it."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

from stat_repro.config import METHODS
from stat_repro.models.modeling_stat import AUTO_OF, HEADS
from stat_repro.paths import last_component, name_of, without_paths
from stat_repro.plan import PruningPlan

_LICENCE = ("license", "license_name", "license_link")
_MODELS = ("dense", "pruned")


def model_card(
    model: PreTrainedModel,
    plan: PruningPlan,
    plan_sha256: str,
    base_model: str,
    summary: Mapping[str, Any],
) -> str:
    """The card, as Markdown with the YAML header that the Hugging Face hub reads.

    Args:
        model: The pruned model.
        plan: Its plan.
        plan_sha256: sha256 of the plan's file.
        base_model: Name or folder of the model that was pruned; its card is asked for the licence.
        summary: What is known of the pruning, see `save_pruned`.
    """
    summary, auto_class = without_paths(summary), AUTO_OF[type(model).__name__]
    licence = _licence(Path(base_model), Path(model.config.name_or_path))
    local = Path(base_model).is_dir()  # "work/bert" would name a model of the hub's user "work"
    parent = name_of(base_model) if local else last_component(base_model)
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": HEADS[auto_class],
        "license": "unknown",
        "tags": ["pruning", "structured-pruning", plan.method],
        **licence,
    }
    with suppress(HFValidationError):  # the hub takes names of its own models only
        validate_repo_id(parent)
        header["base_model"] = parent
    units = "key/value groups" if hasattr(model.config, "kv_heads_per_layer") else "heads"
    lost = {
        f"whole attention {units}": any(len(one.kept_heads) < one.heads for one in plan.layers),
        "FFN neurons": any(len(one.kept_neurons) < one.neurons for one in plan.layers),
    }
    card = ModelCard.from_template(
        ModelCardData(**header),
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        parent=parent,
        units=units,
        removed=" and ".join(name for name, some in lost.items() if some) or "no units",
        method=plan.method,
        ratio=_cell(summary["ratio"]) if summary.get("ratio") is not None else None,
        auto_class=auto_class.__name__,
        recovery=summary.get("recovery", {}),
        measured=_before_and_after(summary),
        protocol=_flat(summary.get("metrics", {}).get("protocol", {})),
        calibration=_flat(summary.get("calibration", {})),
        layers=plan.layers,
        plan_sha256=plan_sha256,
        licence=licence,
        papers=METHODS[plan.method].papers if plan.method in METHODS else (),
    )
    return f"{card}\n"


def _licence(*folders: Path) -> dict[str, str]:
    """What the first card in these folders says of the licence."""
    for folder in folders:
        with suppress(Exception):  # no card, or one that is damaged
            known = metadata_load(folder / "README.md") or {}
            if known.get("license"):
                return {key: str(known[key]) for key in _LICENCE if key in known}
    return {}


def _before_and_after(summary: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Dense and pruned value by quantity; what is of both models stands under pruned."""
    rows: dict[str, dict[str, str]] = {}
    for key, value in _flat(
        {k: v for k, v in summary.items() if k not in ("calibration", "recovery")}
    ).items():
        parts = key.split(".")
        if "protocol" not in parts:
            column = next((part for part in parts if part in _MODELS), "pruned")
            name = ".".join(part for part in parts if part not in _MODELS)
            rows.setdefault(name, dict.fromkeys(_MODELS, ""))[column] = value
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """What to print of nested entries, by dotted name."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _cell(value)
    return flat


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "\\n")
