"""Saving a pruned model as a folder that loads with and without this package."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.models.adapter import Adapter, adapter_for
from stat_repro.models.modeling_stat import AUTO_OF
from stat_repro.models.tensor_files import add_metadata
from stat_repro.paths import RECORD_FILE, without_paths
from stat_repro.plan import PlanError, PruningPlan
from stat_repro.scratch import complete
from stat_repro.surgery.card import model_card
from stat_repro.surgery.saved_tokenizer import save_tokenizer

PLAN_FILE = "plan.json"
RUN_CONFIG_FILE = "run_config.json"


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
    record: str | None = None,
    base_model: str,
) -> Path:
    """Write a pruned model with everything that is needed to use and to understand it.

    safetensors with the sha256 of the plan, config with the sizes of every layer, tokenizer,
    `modeling_stat.py`, `plan.json`, `run_config.json`, `record.json` and a model card. The folder
    appears complete or not at all; saved again it is the same, byte for byte. Absolute paths
    are cut to their last component, so that a folder that is passed on does not show where it was
    made.

    Args:
        model: A model that `prune_model` made.
        folder: The new folder; must not exist, or be empty.
        plan: The plan that `model` was made with.
        tokenizer: Saved beside the model, if given.
        run_config: The configuration of the run (JSON types).
        record_summary: What the model card says of the pruning (JSON types): `ratio`,
            `calibration` with whatever is known, `metrics` as a record has them, and any other
            numbers, which may be nested. `result.report.summary` has what `compress` knows.
        record: The run's record, as JSON text.
        base_model: Name or folder of the model that was pruned.

    Returns:
        The folder.

    Raises:
        CheckpointError: As `check_unused`, or the model is not pruned.
        TokenizerError: Loaded from the folder, the tokenizer gives other tokens.
        PlanError: The plan does not fit the model.
    """
    folder, name = Path(folder).expanduser(), type(model).__name__
    if name not in AUTO_OF:
        raise CheckpointError(
            f"expected a pruned model (from stat_repro.compress or prune_model); got {name}, which "
            "save_pretrained saves"
        )
    _check_counts(adapter_for(model), plan)
    with complete_folder(folder) as partial:
        # This also copies modeling_stat.py, which `auto_map` in the config names.
        model.save_pretrained(partial)
        if tokenizer is not None:
            save_tokenizer(tokenizer, partial)
        for weights in sorted(partial.glob("*.safetensors")):
            add_metadata(weights, plan_note(plan))
        if record is not None:
            (partial / RECORD_FILE).write_text(record, encoding="utf-8")
        describe(partial, model, plan, run_config, record_summary, base_model)
    return folder.absolute()


def check_unused(folder: Path) -> None:
    """Refuse a name that something has, or an empty folder that the complete one cannot replace.

    Raises:
        CheckpointError: The folder exists, and is not empty or has to stay.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise CheckpointError(
            f"{folder}: expected a new or empty folder; got one that is in use; choose another"
        )
    place = folder.resolve()
    if place == Path.cwd() or place.is_mount() or not os.access(place.parent, os.W_OK):
        raise CheckpointError(
            f"{folder}: expected a new folder, or an empty one that the complete one can replace; "
            "got the working folder, a mount point, or one in a folder that cannot be written; "
            "choose a new one inside it"
        )


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to; it gets its name at the end of the `with`, complete or not at all.

    Args:
        folder: The name; must not exist, or be an empty folder.

    Raises:
        CheckpointError: As `check_unused`.
    """
    target = folder.resolve()  # a link leads there, as ever
    check_unused(target)
    with complete(target, folder=True) as partial:
        yield partial
        check_unused(target)  # another process may have been faster


def describe(
    folder: Path,
    model: PreTrainedModel,
    plan: PruningPlan,
    run_config: dict[str, Any] | None,
    record_summary: dict[str, Any] | None,
    base_model: str,
) -> None:
    """Write plan, run configuration and model card beside the weights; see `save_pruned`."""
    (folder / PLAN_FILE).write_text(_plan_text(plan), encoding="utf-8")
    if run_config is not None:
        text = json.dumps(without_paths(run_config), indent=2, sort_keys=True)
        (folder / RUN_CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    given = {key: value for key, value in (run_config or {}).items() if key == "ratio"}
    summary = {**given, **(record_summary or {})}
    (digest,) = plan_note(plan).values()
    card = model_card(model, plan, digest, base_model, summary)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _plan_text(plan: PruningPlan) -> str:
    return plan.to_json() + "\n"


def plan_note(plan: PruningPlan) -> dict[str, str]:
    """Metadata of the weights: the sha256 of `plan.json`."""
    return {"plan_sha256": hashlib.sha256(_plan_text(plan).encode()).hexdigest()}


def load_plan(folder: str | Path) -> PruningPlan:
    """The plan of a saved model.

    Raises:
        CheckpointError: There is none, or it cannot be read.
        PlanError: It contradicts itself or has another version.
    """
    path = Path(folder) / PLAN_FILE
    try:
        return PruningPlan.from_json(path.read_text(encoding="utf-8"))
    except PlanError:
        raise
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: expected the plan of a pruned model; no such file"
        ) from None
    except ValueError as error:  # no text, or no JSON
        raise CheckpointError(f"{path}: expected JSON; {error}") from error


def _check_counts(adapter: Adapter, plan: PruningPlan) -> None:
    """Refuse a plan that gives other sizes than those of the model."""
    for kind, counts in (("attention", plan.head_counts), ("ffn", plan.neuron_counts)):
        units = tuple(s.units for s in adapter.sites if s.kind == kind)
        if units != counts:
            raise PlanError(
                f"plan: expected {list(units)} {kind} units per layer, as the model has; got "
                f"{list(counts)}"
            )
