"""The README of a saved model: what was removed, from what and how, and what that did to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

from stat_repro.config import METHODS
from stat_repro.paths import last_component, without_paths
from stat_repro.plan import PruningPlan

_PIPELINES = {
    "AutoModel": "feature-extraction",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}
_LICENCE = ("license", "license_name", "license_link")
_MODELS = ("dense", "pruned")


def model_card(
    model: PreTrainedModel,
    auto_class: str,
    plan: PruningPlan,
    plan_sha256: str,
    base_model: str,
    summary: Mapping[str, Any],
) -> str:
    """The card, as Markdown with the YAML header that the Hugging Face hub reads.

    Args:
        model: The pruned model.
        auto_class: Name of the Auto class that loads it.
        plan: Its plan.
        plan_sha256: sha256 of the plan's file.
        base_model: Name or folder of the model that was pruned; its card is asked for the licence.
        summary: What is known of the pruning, see `save_pruned`.
    """
    summary = without_paths(summary)
    licence = _licence(Path(base_model), Path(model.config.name_or_path))
    parent = last_component(base_model)
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": _PIPELINES[auto_class],
        "license": "unknown",
        "tags": ["pruning", "structured-pruning", plan.method],
        **licence,
    }
    with suppress(HFValidationError):  # the hub takes names of its own models only
        validate_repo_id(parent)
        header["base_model"] = parent
    units = "key/value groups" if hasattr(model.config, "kv_heads_per_layer") else "heads"
    ratio = summary.get("ratio")
    shown = "" if ratio is None else f" Share of the prunable MACs to remove: {_cell(ratio)}."
    rows = [
        (i, f"{len(x.kept_heads)} / {x.heads}", f"{len(x.kept_neurons)} / {x.neurons}")
        for i, x in enumerate(plan.layers)
    ]
    protocol = summary.get("metrics", {}).get("protocol", {})
    lines = [
        *("---", ModelCardData(**header).to_yaml(), "---", "", f"# {parent}, pruned", ""),
        f"`{parent}` with whole attention {units} and FFN neurons removed by stat_repro, method "
        f"`{plan.method}`.{shown}",
        *_how_to_load(auto_class),
        *_section("Measured", _table(("quantity", *_MODELS), _before_and_after(summary))),
        *_section("How it was measured", _listed(protocol)),
        *_section("Calibration", _listed(summary.get("calibration", {})) or ["Not recorded."]),
        *_section("Kept of every layer", _table(("layer", units, "neurons"), rows)),
        "",
        f"Indices: `plan.json` (sha256 {plan_sha256}, also in the metadata of the weights as "
        "`plan_sha256`). Sizes: `config.json`.",
        *_section("Licence", [_licence_in_words(parent, licence)]),
        *_section("Cite", _citations(plan.method)),
    ]
    return "\n".join(lines) + "\n"


def _licence(*folders: Path) -> dict[str, str]:
    """What the first card in these folders says of the licence."""
    for folder in folders:
        with suppress(Exception):  # no card, or one that is damaged
            known = metadata_load(folder / "README.md") or {}
            if known.get("license"):
                return {key: str(known[key]) for key in _LICENCE if key in known}
    return {}


def _licence_in_words(parent: str, licence: Mapping[str, str]) -> str:
    if not licence:
        return f"That of `{parent}`, which was not found here: unknown."
    return f"That of `{parent}`, as its card says: {', '.join(licence.values())}."


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def _before_and_after(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of quantity, dense and pruned value; what is of both models stands under pruned."""
    rows: dict[str, dict[str, str]] = {}
    for key, value in _flat({k: v for k, v in summary.items() if k != "calibration"}):
        parts = key.split(".")
        if "protocol" not in parts:
            column = next((part for part in parts if part in _MODELS), "pruned")
            name = ".".join(part for part in parts if part not in _MODELS)
            rows.setdefault(name, {})[column] = _cell(value)
    return [(name, cells.get("dense", ""), cells.get("pruned", "")) for name, cells in rows.items()]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows] if rows else []
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def _listed(values: Mapping[str, Any]) -> list[str]:
    return [f"- {key}: {_cell(value)}" for key, value in _flat(values)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested entries as (dotted name, value)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "\\n")


def _citations(method: str) -> list[str]:
    papers = METHODS[method].papers if method in METHODS else ()
    links = [f"[arXiv {p.arxiv}](https://arxiv.org/abs/{p.arxiv})" for p in papers]
    return [
        *(f"- {p.authors}, {p.year}, {x}" for p, x in zip(papers, links, strict=True)),
        "- stat_repro, which removed the units (CITATION.cff of the project says how)",
    ]


def _how_to_load(auto_class: str) -> list[str]:
    """Lines of the card on loading, with and without the package."""
    return [
        *("", "## Load", "", "```python", f"from transformers import {auto_class}", ""),
        "import stat_repro  # registers the pruned classes",
        f'model = {auto_class}.from_pretrained("path/to/this/folder")',
        *("```", "", "Without the package, with the modelling file in this folder:", ""),
        "```python",
        f'model = {auto_class}.from_pretrained("path/to/this/folder", trust_remote_code=True)',
        *(
            "```",
            "",
            "Other programs: `stat-repro export path/to/this/folder --help` lists the forms.",
        ),
    ]
