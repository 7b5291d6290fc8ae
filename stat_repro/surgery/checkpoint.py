"""Saving a pruned model as a folder that loads with and without this package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.models.adapter import Adapter, adapter_for
from stat_repro.models.modeling_stat import AUTO_CLASSES
from stat_repro.paths import last_component, without_paths
from stat_repro.plan import PlanError, PruningPlan
from stat_repro.scratch import scratch
from stat_repro.surgery.saved_tokenizer import save_tokenizer

PLAN_FILE = "plan.json"
RUN_CONFIG_FILE = "run_config.json"

_PIPELINES = {
    "AutoModel": "feature-extraction",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}


class CheckpointError(ValueError):
    """A folder that cannot be written or read, or a model that is not pruned."""


def save_pruned(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    plan: PruningPlan,
    tokenizer: PreTrainedTokenizerBase | None = None,
    run_config: dict[str, Any] | None = None,
    record_summary: dict[str, Any] | None = None,
    base_model: str,
) -> Path:
    """Write a pruned model with everything that is needed to use and to understand it.

    safetensors, config with the sizes of every layer, `modeling_stat.py`, tokenizer, `plan.json`,
    `run_config.json` and a model card. The folder appears complete or not at all. Absolute paths
    in `base_model` and `run_config` are cut to their last component, so that a folder that is
    passed on does not show where it was made.

    Args:
        model: A model that `prune_model` made.
        folder: The new folder; must not exist, or be empty.
        plan: The plan that `model` was made with.
        tokenizer: Saved beside the model, if given.
        run_config: The configuration of the run (JSON types).
        record_summary: Measured numbers for the model card (JSON types, may be nested).
        base_model: Name of the model that was pruned.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder is in use, or the model is not pruned.
        TokenizerError: Loaded from the folder, the tokenizer gives other tokens.
        PlanError: The plan does not fit the model.
    """
    _auto_class(model)
    _check_counts(adapter_for(model), plan)
    with complete_folder(Path(folder)) as partial:
        # This also copies modeling_stat.py, which `auto_map` in the config names.
        model.save_pretrained(partial)
        if tokenizer is not None:
            save_tokenizer(tokenizer, partial)
        describe(
            partial,
            model,
            plan,
            run_config=run_config,
            record_summary=record_summary,
            base_model=base_model,
        )
    return Path(folder).absolute()


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to; it gets its name at the end of the `with`, complete or not at all.

    Args:
        folder: The name; must not exist, or be an empty folder.

    Raises:
        CheckpointError: The name is in use.
    """
    target = folder.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target}: expected a new or empty folder; got one that is in use")
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target.parent, f".{target.name}", folder=True) as partial:
        yield partial
        os.replace(partial, target)


def describe(
    folder: Path,
    model: PreTrainedModel,
    plan: PruningPlan,
    *,
    run_config: dict[str, Any] | None,
    record_summary: dict[str, Any] | None,
    base_model: str,
) -> None:
    """Write plan, run configuration and model card beside the weights; see `save_pruned`."""
    base_model = last_component(base_model)
    (folder / PLAN_FILE).write_text(plan.to_json() + "\n", encoding="utf-8")
    if run_config is not None:
        text = json.dumps(without_paths(run_config), indent=2, sort_keys=True)
        (folder / RUN_CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    card = model_card(
        model, _auto_class(model), plan, base_model, run_config or {}, record_summary or {}
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def load_plan(folder: str | Path) -> PruningPlan:
    """The plan of a saved model.

    Raises:
        CheckpointError: There is none, or it cannot be read.
        PlanError: It contradicts itself or has another version.
    """
    path = Path(folder) / PLAN_FILE
    try:
        return PruningPlan.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: expected the plan of a pruned model; no such file"
        ) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: expected JSON; {error}") from error


def _auto_class(model: PreTrainedModel) -> str:
    """Name of the Auto class that loads a pruned model."""
    for heads in AUTO_CLASSES.values():
        for auto, pruned in heads.items():
            # By name: a model loaded with trust_remote_code has a copy of the class.
            if type(model).__name__ == pruned.__name__:
                return auto.__name__
    raise CheckpointError(
        f"expected a pruned model (from stat_repro.compress or prune_model); got "
        f"{type(model).__name__}, which save_pretrained saves"
    )


def _check_counts(adapter: Adapter, plan: PruningPlan) -> None:
    """Refuse a plan that gives other sizes than those of the model."""
    for kind, counts in (("attention", plan.head_counts), ("ffn", plan.neuron_counts)):
        units = tuple(s.units for s in adapter.sites if s.kind == kind)
        if units != counts:
            raise PlanError(
                f"plan: expected {list(units)} {kind} units per layer, as the model has; got "
                f"{list(counts)}"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested entries as (dotted name, value)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def model_card(
    model: PreTrainedModel,
    auto_class: str,
    plan: PruningPlan,
    base_model: str,
    run_config: Mapping[str, Any],
    record_summary: Mapping[str, Any],
) -> str:
    """The README of a saved model, as Markdown with a YAML header.

    Args:
        model: The pruned model.
        auto_class: Name of the Auto class that loads it.
        plan: Its plan.
        base_model: Name of the model that was pruned.
        run_config: Configuration of the run; only its `ratio` is shown.
        record_summary: Measured numbers, shown as a table.
    """
    ratio = record_summary.get("ratio", run_config.get("ratio"))
    shown = (
        "" if ratio is None else f" Ratio (share of the prunable MACs to remove): {_cell(ratio)}."
    )
    rows = [
        f"| {i} | {len(layer.kept_heads)} / {layer.heads} "
        f"| {len(layer.kept_neurons)} / {layer.neurons} |"
        for i, layer in enumerate(plan.layers)
    ]
    numbers = [f"| {key} | {_cell(value)} |" for key, value in _flat(record_summary)]
    measured = ["## Measured", "", "| quantity | value |", "|---|---|", *numbers, ""]
    units = "key/value groups" if hasattr(model.config, "kv_heads_per_layer") else "heads"
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {_PIPELINES[auto_class]}",
        f"base_model: {json.dumps(base_model)}",
        f"tags: [pruning, structured-pruning, {plan.method}]",
        "---",
        "",
        f"# {base_model}, pruned",
        "",
        f"`{base_model}` with whole attention {units} and FFN neurons removed by stat_repro, "
        f"method `{plan.method}`.{shown}",
        "",
        *_how_to_load(auto_class),
        *(measured if numbers else []),
        "## Sizes",
        "",
        f"| layer | {units} kept | neurons kept |",
        "|---|---|---|",
        *rows,
        "",
        f"Kept indices: `{PLAN_FILE}`; sizes: `config.json`.",
    ]
    return "\n".join(lines) + "\n"


def _how_to_load(auto_class: str) -> list[str]:
    """Lines of the card on loading, with and without the package."""
    return [
        "## Load",
        "",
        "```python",
        f"from transformers import {auto_class}",
        "",
        "import stat_repro  # registers the pruned classes",
        f'model = {auto_class}.from_pretrained("path/to/this/folder")',
        "```",
        "",
        "Without the package, with the modelling file in this folder:",
        "",
        "```python",
        f'model = {auto_class}.from_pretrained("path/to/this/folder", trust_remote_code=True)',
        "```",
        "",
    ]
