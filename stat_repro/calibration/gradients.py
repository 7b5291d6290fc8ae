"""Gradients of the loss with respect to mask variables, example by example.

Every unit's contribution to its consumer is multiplied by a variable that is 1 (Kwon et al. 2022,
section 3.1). One backward pass per batch gives the gradients of all its examples, because no
example influences the loss of another one.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stat_repro.calibration.batches import CalibrationBatch, CalibrationError, token_mask
from stat_repro.calibration.divergence import CLASSIFIER, problem_of
from stat_repro.calibration.passes import hooked
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.loading import LANGUAGE_MODELS
from stat_repro.models.modes import evaluating
from stat_repro.models.projections import UnsupportedModelError, linear
from stat_repro.parallel import in_turns, own_share
from stat_repro.plan import SiteKind
from stat_repro.progress import track

_LARGEST = torch.finfo(torch.float64).max


def check_loss(model: Any, batches: Iterable[CalibrationBatch]) -> None:
    """Refuse models whose loss this module cannot compute, and labels that it would misread.

    Args:
        model: The model with its task head.
        batches: All calibration batches, on the CPU (`read_batches`).

    Raises:
        UnsupportedModelError: No sequence classifier (or regressor) and no causal language model.
        CalibrationError: Labels of a classifier that are missing, of another shape or type, or out
            of range (-100 means no label).
    """
    name = type(model).__name__
    if not name.endswith((CLASSIFIER, *LANGUAGE_MODELS)):
        raise UnsupportedModelError(
            f"gradients of the loss: expected a model {CLASSIFIER} (classes, or one number) or "
            f"{' or '.join(LANGUAGE_MODELS)}; got {name}"
        )
    problem = problem_of(model)
    if problem is None:
        return
    outputs = model.config.num_labels
    wanted, low, high = {
        "single_label_classification": (f"class numbers from 0 to {outputs - 1}", 0, outputs - 1),
        "multi_label_classification": ("values from 0 to 1", 0, 1),
        "regression": ("finite numbers", -_LARGEST, _LARGEST),
    }[problem]
    classes = problem == "single_label_classification"
    columns, words = ((), "(B,)") if classes or outputs == 1 else ((outputs,), f"(B, {outputs})")
    for batch in batches:
        labels, got = batch.get("labels"), "none"
        if labels is not None:
            got = f"{labels.dtype} of shape {tuple(labels.shape)}"
            if labels.numel():
                got += f", {float(labels.min()):g} to {float(labels.max()):g}"
            typed = labels.dtype == torch.int64 or not classes
            shaped = tuple(labels.shape) == (len(batch["input_ids"]), *columns)
            if typed and shaped and bool(((labels >= low) & (labels <= high)).all()):
                continue
        raise CalibrationError(
            "a calibration batch of a classifier needs the key labels for gradients of the loss: "
            f"expected {wanted} of shape {words} ({outputs} outputs, {problem}); got {got}; "
            "choose other labels or another config.problem_type"
        )


def mask_gradients(
    model: nn.Module, adapter: Adapter, batches: Iterable[CalibrationBatch]
) -> dict[tuple[int, SiteKind], Tensor]:
    """dL/dm of every unit's mask variable m at 1, for every example's loss L.

    If several processes work on one run, each takes its share of the batches.

    Args:
        model: A model that `check_loss` takes; not changed, and without gradients afterwards.
        adapter: Its adapter.
        batches: `input_ids` (B, S), `attention_mask` where there is padding, and for classifiers
            `labels`: class numbers (B,), one number (B,), or (B, C) for several labels or targets.

    Returns:
        Per site shape (examples, units), float64 on the CPU.

    Raises:
        CalibrationError: Gradients that are not finite or all zero.
    """
    device = next(model.parameters()).device
    sites = [site for site in adapter.sites if site.units]
    per_batch: list[Tensor] = []
    with evaluating(model), frozen_parameters(model):
        for batch in track(own_share(batches), "mask gradients"):
            inputs = {key: value.to(device) for key, value in batch.items()}
            with torch.enable_grad(), _masked(model, sites, inputs["input_ids"]) as masks:
                loss = _summed_loss(model, inputs)
                gradients = torch.autograd.grad(loss, masks)
            # All sites in one copy, because each copy waits for the accelerator.
            per_batch.append(torch.cat(gradients, dim=1).cpu().double())
    parts = torch.cat(in_turns(per_batch)).split([site.units for site in sites], dim=1)
    result = {site.key: part for site, part in zip(sites, parts, strict=True)}
    for site in sites:
        if not bool(torch.isfinite(result[site.key]).all()):
            raise CalibrationError(f"{site.name}: NaN or infinite gradients of the loss")
    if not any(bool(part.any()) for part in parts):
        raise CalibrationError(
            "gradients of the loss: expected some that are not zero; got zeros for all units and "
            "examples, which rank nothing"
        )
    return result


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Parameters of the model that need no gradients inside the `with`.

    Raises:
        UnsupportedModelError: Weights through which no gradients go.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise UnsupportedModelError(
            "model: expected weights through which gradients go; got a model that was made inside "
            "torch.inference_mode; choose to load it outside"
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _masked(model: nn.Module, sites: Sequence[Site], ids: Tensor) -> Iterator[list[Tensor]]:
    """Mask variables in front of every consumer inside the `with`: ones, (B, units) per site."""

    def hook(site: Site, mask: Tensor, module: nn.Module, args: tuple[Tensor, ...]) -> Any:
        columns = mask.repeat_interleave(site.width, dim=1)[:, None]
        rows = args[0].view(len(ids), -1, site.columns)  # OPT's FFN has no batch
        return ((rows * columns).view(args[0].shape), *args[1:])

    consumers = [linear(model, site.consumer) for site in sites]
    masks = [
        consumer.weight.new_ones((len(ids), site.units)).requires_grad_()
        for site, consumer in zip(sites, consumers, strict=True)
    ]
    with hooked(
        consumer.module.register_forward_pre_hook(partial(hook, site, mask))
        for site, mask, consumer in zip(sites, masks, consumers, strict=True)
    ):
        yield masks


def _summed_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Sum over the examples of a batch of their losses.

    One class: cross-entropy. Several labels: mean binary cross-entropy. Numbers: mean squared
    error. Running text: mean cross-entropy of an example's tokens after the first, padding
    excluded.
    """
    labels = inputs.pop("labels", torch.empty(0))
    if type(model).__name__.endswith(LANGUAGE_MODELS):
        logits = _precise(model(**inputs).logits[:, :-1])
        wanted = token_mask(inputs)[:, 1:] & token_mask(inputs)[:, :-1]
        ids = inputs["input_ids"][:, None, 1:].long()
        # Not `cross_entropy`, which of three dimensions has no deterministic form on a GPU.
        losses = -logits.transpose(1, 2).log_softmax(dim=1).gather(1, ids).squeeze(1)
        return ((losses * wanted).sum(dim=1) / wanted.sum(dim=1).clamp_min(1)).sum()
    logits = _precise(model(**inputs).logits)
    problem = problem_of(model)
    if problem == "single_label_classification":
        return functional.cross_entropy(logits, labels, reduction="sum")
    labels = labels.view(logits.shape).to(logits.dtype)
    if problem == "regression":
        losses = functional.mse_loss(logits, labels, reduction="none")
    else:
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return losses.mean(dim=1).sum()


def _precise(logits: Tensor) -> Tensor:
    """At least float32: half precision is too coarse for a loss."""
    return logits if logits.dtype == torch.float64 else logits.float()
