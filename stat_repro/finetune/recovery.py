"""Recovery: training a pruned model, of which the sizes stay, towards its dense parent or its task.

A recovery that is killed goes on where it was: now and then its state is written to the cache,
under a name made of the weights it began with, the batches and the settings.
"""

import hashlib
import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from stat_repro.config import ConfigError, RecoveryConfig
from stat_repro.data.batching import Batch, LazySequence
from stat_repro.evaluation.predictions import device_of, to_device
from stat_repro.finetune.loop import Optimization
from stat_repro.models.modes import evaluating, seeded
from stat_repro.paths import cache_dir
from stat_repro.progress import Progress
from stat_repro.scratch import complete

log = logging.getLogger("stat_repro")
# The state of a recovery is written when so much time has passed.
SAVE_SECONDS = 60.0
_FACTS = "facts"  # among the tensors of a state: what `recover` returns, as JSON
_OUTPUTS = ("logits", "start_logits", "end_logits")
_NO_TOKEN = -1e4


def check_recovery(config: RecoveryConfig) -> None:
    """Refuse adapters where the package for them is missing.

    Raises:
        ConfigError: Says what to install.
    """
    if config.method != "lora":
        return
    try:
        import_module("peft")
    except ImportError as error:  # also of a peft that is too old for transformers
        raise ConfigError(
            f"recovery.method=lora: expected the package peft; got none that works ({error}); "
            "choose recovery=finetune, or pip install --upgrade peft"
        ) from error


def recover(
    dense: PreTrainedModel,
    pruned: PreTrainedModel,
    batches: LazySequence[Batch],
    digest: str,
    config: RecoveryConfig,
) -> dict[str, Any]:
    """Train a pruned model in place, deterministically for a seed.

    Args:
        dense: Its parent, on the same device; not changed.
        pruned: The pruned model.
        batches: All training batches; with `labels` for a loss that needs them.
        digest: Hash of what is in them.
        config: The recipe, after `check_recovery`.

    Returns:
        `steps`, `examples` and `tokens` seen; `s` and `cpu_s`, wall and processor seconds of the
        training (without the time of what was lost when the process was killed); `state`, the file
        from which it goes on, for `forget`.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    begun = hashlib.sha256(json.dumps([digest, asdict(config)], sort_keys=True).encode())
    for batch in batches if config.method != "distill" else ():  # no labels take part in these
        if "labels" in batch:
            begun.update(batch["labels"].numpy().tobytes())
    for name, tensor in pruned.state_dict().items():
        begun.update(name.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    kept = cache_dir() / "recovery" / f"{begun.hexdigest()[:20]}.state"
    trained = [parameter.requires_grad for parameter in pruned.parameters()]
    with seeded(config.seed, device_of(pruned)), evaluating(dense), evaluating(pruned):
        if config.method == "lora":
            adapted = _with_adapters(pruned, config.rank)
            facts = _train(dense, adapted, batches, config, kept)
            adapted.merge_and_unload()
            for parameter, before in zip(pruned.parameters(), trained, strict=True):
                parameter.requires_grad_(before)
        else:
            facts = _train(dense, pruned, batches, config, kept)
    return {**facts, "state": kept}


def forget(kept: Path | None) -> None:
    """Remove the state of a recovery, if there is one: what followed it is done too."""
    if kept is not None:
        with suppress(OSError):
            kept.unlink()


def _with_adapters(model: PreTrainedModel, rank: int) -> Any:
    """The model with low-rank adapters beside all projections, and these alone trainable."""
    peft = import_module("peft")
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return peft.get_peft_model(model, settings)


def _train(
    dense: nn.Module,
    model: nn.Module,
    batches: LazySequence[Batch],
    config: RecoveryConfig,
    kept: Path,
) -> dict[str, Any]:
    optimization = Optimization(model, config, config.steps)
    facts = _resumed(optimization, kept)
    generator = torch.Generator().manual_seed(config.seed)
    epochs = -(-config.steps // len(batches))
    order = [i for _ in range(epochs) for i in torch.randperm(len(batches), generator=generator)]
    device = device_of(model)
    wall, cpu = time.perf_counter() - facts["s"], time.process_time() - facts["cpu_s"]
    saved = time.perf_counter()
    with Progress(f"recovery ({config.method})", config.steps, "steps") as progress:
        progress.advance(optimization.done)
        for index in order[optimization.done : config.steps]:
            batch = batches[int(index)]
            inputs = to_device(batch, model)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
                if config.method == "distill":
                    loss = _distance(dense, model, inputs, config)
                else:
                    labels = batch.get("labels", batch["input_ids"]).to(device)
                    loss = model(**inputs, labels=labels).loss
            value = optimization.step(loss, f"step {optimization.done + 1} of the recovery")
            facts["steps"] = optimization.done
            facts["examples"] += len(batch["input_ids"])
            facts["tokens"] += int(batch["attention_mask"].sum())
            now = time.perf_counter()
            facts["s"], facts["cpu_s"] = now - wall, time.process_time() - cpu
            progress.advance(1, f"loss {value:.3f}")
            if now - saved > SAVE_SECONDS:
                _keep(kept, optimization.state(), facts)
                saved = now
    return facts


def _keep(file: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state of a training, behind its sha256; one that cannot be written is told."""
    known = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
    content = save({**state, _FACTS: known})
    try:
        with complete(file) as temporary, temporary.open("wb") as out:
            out.write(hashlib.sha256(content).digest())
            out.write(content)
    except OSError as error:
        log.warning("a recovery that is killed begins anew, its state cannot be written: %s", error)


def _resumed(optimization: Optimization, kept: Path) -> dict[str, Any]:
    """What was done already; the optimisation goes on from there."""
    facts = {"steps": 0, "examples": 0, "tokens": 0, "s": 0.0, "cpu_s": 0.0}
    if not kept.is_file():
        return facts
    try:
        with kept.open("rb") as file:
            digest, content = file.read(hashlib.sha256().digest_size), file.read()
        if hashlib.sha256(content).digest() != digest:
            raise OSError("it is not what was written")
    except OSError as error:
        log.warning("%s: the recovery begins anew, its state is damaged: %s", kept, error)
        return facts
    state = load(content)
    facts = json.loads(bytes(state.pop(_FACTS).tolist()))
    optimization.resume(state, facts["steps"])
    return facts


def _distance(
    dense: nn.Module, model: nn.Module, inputs: dict[str, Tensor], config: RecoveryConfig
) -> Tensor:
    """Divergence of the outputs from those of the dense model, and of the hidden states."""
    with torch.no_grad():
        target = dense(**inputs, output_hidden_states=True)
    output = model(**inputs, output_hidden_states=True)
    if not config.hidden_weight and not any(name in output for name in _OUTPUTS):
        raise ConfigError(
            "recovery.hidden_weight: expected more than 0 for a model without a head, which has "
            "hidden states alone to learn from; got 0"
        )
    mask = inputs["attention_mask"].bool()
    loss = torch.zeros((), device=mask.device)
    for name in _OUTPUTS:
        if name in output:
            # Start and end of an answer are scores over the tokens, of which some are padding.
            wanted, got = (
                one[name] if name == "logits" else one[name].masked_fill(~mask, _NO_TOKEN)
                for one in (target, output)
            )
            loss = loss + _divergence(wanted, got, mask, config.temperature)
    pairs = zip(target.hidden_states, output.hidden_states, strict=True)
    states = [(wanted[mask].float(), got[mask].float()) for wanted, got in pairs]
    errors = [(got - wanted).square().sum() / wanted.square().sum() for wanted, got in states]
    return loss + config.hidden_weight * torch.stack(errors).mean()


def _divergence(wanted: Tensor, got: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Mean KL from the dense model in nats times the temperature's square; of numbers the MSE.

    Args:
        wanted: Logits (B, C), (B, S) over the tokens, or (B, S, V) of every token.
        got: Those of the pruned model.
        mask: Which tokens there are, (B, S).
        temperature: Logits are divided by it.
    """
    wanted, got = wanted.float(), got.float()
    if wanted.ndim == 3:
        wanted, got = wanted[mask], got[mask]
    elif wanted.shape[1] == 1:
        return functional.mse_loss(got, wanted)
    log_p, log_q = ((one / temperature).log_softmax(-1) for one in (wanted, got))
    divergence = functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return divergence * temperature**2
