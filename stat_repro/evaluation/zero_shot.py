"""Zero-shot tasks for causal language models, by the Language Model Evaluation Harness (lm-eval).

The harness is an optional extra and takes seconds to import, so it is imported where it is used.
Its tasks, prompts and scoring are used as they are. Here the dense and the pruned model are
evaluated in memory on the same tasks, and the record says what was measured.

Source: Gao et al., The Language Model Evaluation Harness, doi:10.5281/zenodo.12608602.
"""

import copy
import importlib.metadata
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stat_repro.entry import listed, one_line
from stat_repro.evaluation.zero_shot_tasks import LoadedTasks, ZeroShotError, quiet
from stat_repro.models.modes import evaluating, seeded

# The longest questions (BoolQ) have about 1,000 tokens; the harness holds the logits of a batch
# twice, so that four of them take 1.6 GB with a vocabulary of 49,152.
CPU_BATCH = 4
SEED = 1234  # of the solved examples, and of what tasks sample


@dataclass(frozen=True)
class ZeroShotScores:
    """Scores of one model.

    Attributes:
        metrics: `<task>_<metric>` as fractions, and `zero_shot_mean` where all tasks have an
            accuracy; all nan for a model with logits that are not finite.
        protocol: What was measured; the same for every model.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]


def evaluate_zero_shot(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    loaded: LoadedTasks,
    *,
    examples: int | None = None,
    batch_size: int = 64,
) -> ZeroShotScores:
    """Evaluate one model on tasks of the harness.

    Args:
        model: Causal language model, dense or pruned; it is not changed.
        tokenizer: Its tokenizer; not changed either.
        loaded: The tasks.
        examples: Only the first so many examples of every task; all if None.
        batch_size: Sequences per forward pass; on the CPU at most `CPU_BATCH`.

    Returns:
        The scores. An accuracy over n examples has the standard error sqrt(p (1 - p) / (n - 1)).

    Raises:
        ZeroShotError: As `check_tokenizer`, or the harness refuses what tokenizer and model make of
            a task.
    """
    leading = check_tokenizer(tokenizer, loaded)
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    for task in loaded.tasks.values():  # else every evaluation goes on where the last one was
        task.set_fewshot_seed(seed=SEED)
    on_cpu = next(model.parameters()).device.type == "cpu"
    with (
        evaluating(model),
        torch.inference_mode(),
        seeded(SEED, model.device),
        quiet(),
        # The harness calls it, also where a head of its own was loaded against the configuration.
        patch.object(model, "tie_weights"),
        _broken_outputs(model) as broken,
    ):
        harness_model = HFLM(
            pretrained=model,
            # The harness sets a pad token.
            tokenizer=copy.deepcopy(tokenizer),
            backend="causal",
            batch_size=min(batch_size, CPU_BATCH) if on_cpu else batch_size,
            # Its default sums log-probabilities in the model's data type.
            softmax_dtype="float32",
        )
        try:
            results = evaluate(
                lm=harness_model,
                task_dict={"tasks": loaded.tasks, "groups": {}, "group_map": {}},
                limit=examples,
                bootstrap_iters=0,
                log_samples=False,
            )
        except (AssertionError, ValueError) as error:  # most of its own have no words
            raise ZeroShotError(_refused(error, loaded, harness_model.max_length)) from error
    metrics = _metrics(results["results"])
    if broken:
        # The harness would take the first choice of every question, and call that an accuracy.
        metrics = dict.fromkeys(metrics, math.nan)
    return ZeroShotScores(metrics, _protocol(results, loaded, examples, leading))


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, loaded: LoadedTasks) -> int:
    """Special tokens that the tokenizer puts in front of a text.

    Raises:
        ZeroShotError: It has neither BOS nor EOS, which the harness needs, no EOS for a task whose
            answers are generated, or it adds special tokens behind the text.
    """
    name = tokenizer.name_or_path
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ZeroShotError(
            f"evaluation.zero_shot.tasks: expected a tokenizer with a BOS or EOS token; {name!r} "
            "has neither"
        )
    ids = list(tokenizer("a")["input_ids"])
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    leading = len(ids) - len(plain)
    if ids[leading:] != plain:
        # The harness counts the tokens of question and answer from the front.
        raise ZeroShotError(
            "evaluation.zero_shot.tasks: expected a tokenizer that adds special tokens only in "
            f"front of a text; {name!r} makes {tokenizer.convert_ids_to_tokens(ids)} of 'a'"
        )
    tasks = [n for n, task in loaded.tasks.items() if task.OUTPUT_TYPE == "generate_until"]
    if tasks and tokenizer.eos_token_id is None:
        raise ZeroShotError(
            f"evaluation.zero_shot.tasks: expected a tokenizer with an EOS token for "
            f"{listed(tasks)}, whose answers are generated; {name!r} has none; "
            "choose other tasks, or set tokenizer.eos_token in the model's folder"
        )
    return leading


def _refused(error: Exception, loaded: LoadedTasks, positions: int) -> str:
    return (
        "evaluation.zero_shot.tasks: expected answers, given or generated, of at least one token "
        f"of their own that fit into the {positions} tokens that the model reads, and metrics for "
        f"such answers; got a task among {listed(loaded.tasks)} that lm-eval refuses: "
        f"{one_line(error)}"
    )


@contextmanager
def _broken_outputs(model: PreTrainedModel) -> Iterator[list[bool]]:
    """A list that gets an entry for every forward pass with a logit that is nan or infinite."""
    passes: list[bool] = []

    def check(module: nn.Module, inputs: Any, outputs: Any) -> None:
        # The extremes show it without another tensor of the size of the logits.
        if not bool(torch.isfinite(torch.stack(outputs.logits.aminmax())).all()):
            passes.append(True)

    with model.register_forward_hook(check):
        yield passes


def _metrics(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Flat names, such as `piqa_acc_norm`; the filter is named where it is not the only one."""
    metrics: dict[str, float] = {}
    for task, values in results.items():
        for key, value in values.items():
            name, comma, chosen = key.partition(",")
            if comma and not name.endswith("_stderr"):
                suffix = "" if chosen == "none" else f"_{chosen}"
                metrics[f"{task}_{name}{suffix}"] = float(value)
    best = [metrics.get(f"{task}_acc_norm", metrics.get(f"{task}_acc")) for task in results]
    accuracies = [value for value in best if value is not None]
    if len(accuracies) == len(results):
        metrics["zero_shot_mean"] = sum(accuracies) / len(accuracies)
    return metrics


def _protocol(
    results: dict[str, Any], loaded: LoadedTasks, examples: int | None, leading: int
) -> dict[str, Any]:
    protocol = {
        "harness": f"lm-eval {importlib.metadata.version('lm-eval')}",
        "tasks": {
            name: {
                "version": results["versions"][name],
                "examples": results["n-samples"][name]["effective"],
                "of": results["n-samples"][name]["original"],
            }
            for name in loaded.tasks
        },
        "local_tasks": list(loaded.local),
        "shots": loaded.shots,
        "first_examples": examples,
        "zero_shot_mean": "mean over the tasks of acc_norm where a task has it, else acc",
        "log_probabilities": "float32",
        "prompt": "without chat template; cut on the left at the model's positions",
        # Until its pull request 3347 (October 2025) the harness put nothing in front.
        "special_tokens": f"as the tokenizer adds them in front of every text: {leading or 'none'}",
    }
    if loaded.shots:
        protocol["shots_seed"] = SEED
    return protocol
