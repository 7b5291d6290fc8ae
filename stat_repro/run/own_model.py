"""`stat-repro prune` and `eval`: a model and data of one's own, with the usual run behind them."""

import argparse
import hashlib
import logging
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException

from stat_repro.config import RECOVERIES, ConfigError, RunConfig
from stat_repro.cost.compare import counted_costs
from stat_repro.cost.count import size_bytes
from stat_repro.data.errors import DataError
from stat_repro.data.squad import load_questions
from stat_repro.data.table_files import ENDINGS
from stat_repro.data.task_data import load_task_data
from stat_repro.data.text_data import TextData, load_text_data
from stat_repro.finetune.recipe import has_task_head
from stat_repro.measure import memory_told, resolve_device
from stat_repro.models.loading import (
    LANGUAGE_MODELS,
    LoadedModel,
    checkpoint_folder,
    load_checkpoint,
    read_config,
)
from stat_repro.models.modeling_stat import AUTO_OF
from stat_repro.models.outputs import output_names
from stat_repro.models.tensor_files import ShardedCheckpoint
from stat_repro.paths import RECORD_FILE, name_of
from stat_repro.reporting.styles import in_line
from stat_repro.reporting.tables import before_and_after, to_text
from stat_repro.results.store import read_record
from stat_repro.run.compose import compose_run, options_of
from stat_repro.run.dry_run import forecast
from stat_repro.run.points import prune_into
from stat_repro.run.sweep_cache import Data, load_data, within_positions, workload_of
from stat_repro.surgery.checkpoint import check_unused

log = logging.getLogger("stat_repro")

# Keys of the configuration by the options that set them.
_KEYS = {
    **{key: key for key in ("ratio", "round_to", "seed", "device", "dtype")},
    "examples": "calibration.examples",
    "text_column": "dataset.text_column",
    "label_column": "dataset.label_column",
    "test": "dataset.test",
}
# How a file is read, by the head of the model; others are classified or scored.
_READERS = {**dict.fromkeys(LANGUAGE_MODELS, "text_file"), "ForQuestionAnswering": "squad_dev"}
_HELD_OUT = 0.2  # of a file without another one to evaluate on
# Keys that --set may change although the command has set them.
_SET_TOO = ("model.name", "dataset.name", "dataset.task")
# What decides the others, where it is no option that has been given.
_DECIDED = {
    "model.path": "MODEL",
    "dataset.path": "--data",
    "dataset.train": "--data",
    "dataset.held_out": "--data alone: eval holds out what prune did",
    "save_to": "--out",
    "study": "--out, and run.py for records in a study",
    "results": "--out, and run.py for records in a study",
}


def prune(options: argparse.Namespace) -> None:
    """Prune a model, or say what that would do, and print what came out."""
    folder = options.out.expanduser()
    check_unused(folder)
    config = run_config(options)
    unread = [item for item in options.set if item.startswith("recovery.")]
    if unread and config.recovery.method == "none":
        raise ConfigError(
            f"--set {unread[0]}: expected --heal {', '.join(RECOVERIES[1:])} with it; got none, "
            "so that nothing is trained"
        )
    task, dense = config.dataset.task, checkpoint_folder(config.model)
    kind = ShardedCheckpoint(dense).float_dtype
    if options.dtype is None and config.save_dtype is None and kind.itemsize < 4:
        config = replace(config, save_dtype=str(kind).removeprefix("torch."))
    if not has_task_head(dense, task):
        print(f"{options.model} has no head for {task}: one is trained on the data first")
    if options.dry_run:
        print(forecast(config))
        return
    experiment = prune_into(config, folder)
    record = experiment.record
    auto = AUTO_OF[type(experiment.compression.model).__name__].__name__
    costs, protocol = record.costs, record.metrics["protocol"]
    evaluated = protocol.get("examples") or f"{protocol.get('windows')} windows"
    trained = ""
    if healed := costs.get("recovery"):
        trained = (
            f"then trained ({config.recovery.method}) for {healed['steps']} steps on "
            f"{healed['tokens']:,} tokens\n"
        )
    saved = f"weights saved in {config.save_dtype}\n" if config.save_dtype else ""
    print(
        f"\n{to_text(before_and_after(costs, record.metrics))}\n"
        f"calibrated on {costs['calibration_examples']} examples of {record.dataset} with "
        f"{costs['calibration_tokens']:,} tokens (seed {record.seed}), evaluated on {evaluated}"
        f"{' that were held out' if 'held_out' in protocol else ''}\n{trained}{saved}"
        f"what was done and measured: {folder / 'README.md'}\n\nLoad it:\n\n"
        f"    import stat_repro\n    from transformers import {auto}, AutoTokenizer\n\n"
        f'    model = {auto}.from_pretrained("{folder}")\n'
        f'    tokenizer = AutoTokenizer.from_pretrained("{folder}")'
    )


@memory_told()
def evaluate(options: argparse.Namespace) -> None:
    """Evaluate a saved model, alone or against its dense one, and print the numbers."""
    config = within_positions(run_config(options))
    folder, device = checkpoint_folder(config.model), resolve_device(config.device)
    made = _made(folder)
    pair = made.get("text_pair_column")
    if pair is not None and config.dataset.text_pair_column is None:  # as it was pruned for
        config = replace(config, dataset=replace(config.dataset, text_pair_column=pair))
    loaded = load_checkpoint(folder, config.dataset.task, config.dtype, device)
    if config.dataset.held_out is not None:
        share = made.get("held_out") if (calibrated := _calibrated_on(made, config)) else None
        if calibrated and share is None:
            log.warning("--data: all of %s is evaluated, and it calibrated the model", options.data)
        config = replace(config, dataset=replace(config.dataset, held_out=share))
        data = load_data(config) if share else _whole_file(config, loaded)
    else:
        data = load_data(config)
    workload = workload_of(data, loaded, config)
    model, dense, other, outputs = loaded.model, loaded.model, folder, None
    if options.dense is not None:  # its outputs are matched with the classes by its own names
        against = replace(config, model=run_config(options, options.dense).model)
        other = checkpoint_folder(against.model)
        reference = load_checkpoint(other, config.dataset.task, config.dtype, device)
        if output_names(reference.model.config) != output_names(model.config):
            # `model.labels` gives names to the outputs of MODEL.
            against = replace(against, model=replace(against.model, labels=None))
        words = loaded.tokenizer.get_vocab()
        if isinstance(data, TextData) and words != reference.tokenizer.get_vocab():
            raise ConfigError(
                f"--dense: expected a model with the tokens of {options.model}, because both read "
                f"the same; got {options.dense}, whose tokenizer has others"
            )
        dense, of_dense = reference.model, workload_of(data, reference, against)
        outputs = of_dense.dense_outputs(dense, config.evaluation)
    metrics = workload.evaluate(dense, model, outputs, config.evaluation).metrics
    costs = counted_costs(dense, model, workload.sequence_length)
    costs["size_bytes"] = {
        which: size_bytes(one, ShardedCheckpoint(place).float_dtype)
        for which, one, place in (("dense", dense, other), ("pruned", model, folder))
    }
    table = before_and_after(costs, metrics)
    if options.dense is None:  # it was compared with itself
        table = before_and_after(costs, {**metrics, "fidelity": {}})[["", "pruned"]]
        table.columns = ["", folder.name]
    protocol = metrics["protocol"]
    rows = (f"{key}: {in_line(str(value))}" for key, value in protocol.items())
    print(to_text(table), *rows, sep="\n")


def run_config(options: argparse.Namespace, model: str | None = None) -> RunConfig:
    """The configuration of a run for the options of a command.

    Args:
        options: See `stat_repro.run.commands`; what is None is as the configuration has it.
        model: Instead of `options.model`.

    Raises:
        DataError: No such data, or a file that the model cannot be evaluated on.
        ModelLoadError: No such model.
    """
    name = options.model if model is None else model
    given = {key: getattr(options, option, None) for option, key in _KEYS.items()}
    values = {key: value for key, value in given.items() if value is not None}
    groups = {"pruning": getattr(options, "method", "stat"), "model": name}
    groups["recovery"] = getattr(options, "heal", None) or "none"
    if Path(name).expanduser().exists() or name not in options_of("model"):
        groups["model"] = "hf"
        values |= {"model.path": name, "model.name": _label(name)}
    file = Path(options.data).expanduser()
    if file.is_file():
        of_model = {key: value for key, value in values.items() if key.startswith("model.")}
        read = read_config(checkpoint_folder(compose_run(groups, of_model).model))
        groups["dataset"], of_data = _reading(file, read, values.get("dataset.test"))
        values |= of_data
    elif options.data in options_of("dataset"):
        groups["dataset"] = options.data
    else:
        raise DataError(
            f"--data: expected a file, or a data set among {', '.join(options_of('dataset'))}; "
            f"got {options.data} (working folder {Path.cwd()})"
        )
    held_out = ("dataset.held_out",) if hasattr(options, "test") else ()
    refused = {*values, "save_to", "study", "results"} - {*_SET_TOO, *held_out}
    for item in options.set:
        key, value = _parsed(item)
        if key in refused:
            raise ConfigError(
                f"--set {item}: expected a key that nothing else of the command decides; got "
                f"{key}; choose {_DECIDED.get(key, 'its option')}"
            )
        values[key] = value
    return compose_run(groups, {**values, "evaluation.keep_examples": False})


def _reading(file: Path, model: dict[str, Any], test: str | None) -> tuple[str, dict[str, Any]]:
    """The option of `dataset` for a file, alone or with another one to evaluate, and its keys."""
    architecture = str((model.get("architectures") or ["a model without a head"])[0])
    reader = next((r for head, r in _READERS.items() if architecture.endswith(head)), "table_file")
    path = str(file.resolve())
    values: dict[str, Any] = {"dataset.name": _label(file.stem, "data"), "dataset.train": path}
    values["dataset.held_out"] = _HELD_OUT if test is None else None
    if reader == "squad_dev":
        one = {"dataset.path": path, "dataset.train": None}
        two = {"dataset.path": None, "dataset.validation": test, "dataset.test": None}
        values |= one if test is None else two
    if reader == "table_file" and file.suffix.lower() not in ENDINGS:
        raise DataError(
            f"--data: expected a table with a column of labels ({', '.join(ENDINGS)}) for "
            f"{architecture}; got {file}; text without labels is for causal language models"
        )
    if reader == "table_file" and len(model.get("id2label") or "01") == 1:
        values["dataset.task"] = "regression"
    return reader, values


def _parsed(item: str) -> tuple[str, Any]:
    """Key and value of `--set`, read as the arguments of run.py are."""
    try:
        one = OverridesParser.create().parse_override(item)
        if one.type == OverrideType.CHANGE and not one.is_sweep_override():
            return one.key_or_group, one.value()
        reason = "a key to add or to remove, or several values"
    except HydraException as error:
        reason = str(error).partition("\n")[0]
    raise ConfigError(
        f"--set {item}: expected a key of the configuration and a value of its kind, such as "
        f"dataset.max_length=64 or 'dataset.text_pair_column=\"My column\"'; got: {reason}"
    )


def _label(name: str, otherwise: str = "model") -> str:
    """A name for records and tables; what is not ASCII is spelled as in names of hosts."""
    label = unicodedata.normalize("NFC", name_of(name))  # one spelling on all systems
    label = label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
    return re.sub(r"[^A-Za-z0-9_.-]+|^[.-]+", "-", label).strip("-.") or otherwise


def _calibrated_on(made: dict[str, Any], config: RunConfig) -> bool:
    """Whether the record of a saved model says that this file, or a part of it, calibrated it."""
    file = Path(config.dataset.train or config.dataset.path or "").expanduser()
    if not file.is_file():
        return False
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    return any(str(made.get(key)).endswith(f"@{digest}") for key in ("train", "path"))


def _made(folder: Path) -> dict[str, Any]:
    """The data set that a saved model was made with; empty where its folder has no record.

    Raises:
        RecordError: A damaged record.
    """
    file = folder / RECORD_FILE
    return read_record(file, placed=False).config["dataset"] if file.is_file() else {}


def _whole_file(config: RunConfig, loaded: LoadedModel) -> Data:
    """One file, all of which is evaluated; a table may lack classes that the model has."""
    given, part = config.dataset, config.evaluation.split
    if given.task == "language_modeling":
        data = load_text_data(replace(given, held_out=_HELD_OUT))
        text = "".join((*data.calibration.documents, *data.evaluation.documents))
        both = replace(data.evaluation, documents=(text,))
        return replace(data, calibration=both, evaluation=both)
    if given.task == "question_answering":
        questions = load_questions(replace(given, train=given.train or given.path, path=None))
        return replace(questions, splits=dict.fromkeys(("train", part), questions.split("train")))
    rows = load_task_data(given, config.model.labels or output_names(loaded.model.config))
    return replace(rows, splits=dict.fromkeys(("train", part), rows.split("train")))
