"""Which directions of a consumer's output the output of the model depends on.

To second order the divergence from the dense model is a quadratic form in the errors of a
consumer's output. If the errors of different tokens are taken as independent, and the direction of
an error as independent of how much the token matters, that form becomes one matrix per consumer:
the output factor of K-FAC (Martens & Grosse 2015, arXiv 1503.05671; for pruning whole rows and
columns van der Ouderaa et al. 2024, LLM Surgeon, arXiv 2312.17244). The Fisher information is that
of the model's predictions, so it needs gradients but no labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from stat_repro.calibration.batches import (
    CalibrationBatch,
    CalibrationError,
    model_inputs,
    token_mask,
    token_rows,
)
from stat_repro.calibration.divergence import (
    are_probabilities,
    compared_inputs,
    predictions,
    problem_of,
)
from stat_repro.calibration.gradients import frozen_parameters
from stat_repro.calibration.passes import hooked
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.devices import float64_home
from stat_repro.models.modes import evaluating
from stat_repro.models.projections import linear
from stat_repro.parallel import own_share, sum_over_ranks, world
from stat_repro.plan import SiteKind
from stat_repro.progress import track


def output_curvature(
    model: nn.Module, adapter: Adapter, batches: Iterable[CalibrationBatch], seed: int
) -> dict[tuple[int, SiteKind], Tensor]:
    """C of every consumer, such that trace(C E) is the loss of the model's output.

    E is the sum over the calibration tokens of e e^T, e the error of the consumer's output. One
    forward and one backward pass per batch: the gradients are those of
    sum over predictions r and classes c of s_rc sqrt(p_rc) log p_rc with random signs s and
    constant sqrt(p), whose second moment over the signs is the Fisher information. Of two classes
    it is sqrt(p q) log(p / q) with one sign for both.

    If several processes work on one run, each takes its share of the batches.

    Args:
        model: The model with its head; not changed.
        adapter: Its adapter.
        batches: The calibration batches; labels in them are ignored.
        seed: Of the signs.

    Returns:
        Per site with units shape (D, D), float64, symmetric, on the device of the consumer: nats
        per prediction (for outputs that are no probabilities, squared differences) and squared
        error.

    Raises:
        CalibrationError: A gradient that is not finite; names the site.
    """
    sites = [site for site in adapter.sites if site.units]
    sums = [_zeros(linear(model, site.consumer).weight) for site in sites]
    counts = torch.zeros(3, dtype=torch.float64)  # tokens, predictions, predictions x factor
    place = world()
    with evaluating(model), frozen_parameters(model):
        for turn, batch in enumerate(track(own_share(batches), "gradients of the output")):
            # The same for a batch on whichever rank. (torch's generator uses 32 bits of a seed.)
            number = turn * place.size + place.rank
            signs = torch.Generator().manual_seed(1_000_003 * seed + number)
            gradients, predicted, factor = _gradients(model, sites, batch, signs)
            tokens = token_mask(model_inputs(batch))
            counts += torch.tensor([int(tokens.sum()), predicted, predicted * factor])
            for total, gradient in zip(sums, gradients, strict=True):
                rows = gradient.reshape(-1, gradient.shape[-1])
                rows = rows.index_select(0, token_rows(tokens).to(rows.device)).to(total)
                total.addmm_(rows.T, rows)
    sum_over_ranks([*sums, counts])
    tokens_seen, predicted_in_all, weighted = counts.tolist()
    for site, total in zip(sites, sums, strict=True):
        if not bool(torch.isfinite(total).all()):
            raise CalibrationError(f"{site.name}: NaN or infinite gradients of the model's output")
        total.mul_(weighted / predicted_in_all**2 / tokens_seen)
    return {site.key: total for site, total in zip(sites, sums, strict=True)}


def _gradients(
    model: nn.Module, sites: Sequence[Site], batch: CalibrationBatch, signs: torch.Generator
) -> tuple[Sequence[Tensor], int, float]:
    """Gradients at the consumers' outputs, predictions in the batch, and the loss by their square.

    The last is 1/2 for probabilities: the divergence is half of the quadratic form.
    """
    inputs, compared = compared_inputs(model, batch, next(model.parameters()).device)
    with torch.enable_grad(), _consumer_outputs(model, sites) as outputs:
        output = model(**inputs)
        problem = problem_of(model)
        heads = predictions(output, compared, problem)
        probabilities = are_probabilities(output, problem)
        gradients = torch.autograd.grad(_signed(heads, signs, probabilities), outputs)
    return gradients, sum(map(len, heads)), 0.5 if probabilities else 1.0


def _signed(heads: Sequence[Tensor], signs: torch.Generator, probabilities: bool) -> Tensor:
    """A sum over all predictions whose gradients have the Fisher information as second moment.

    Args:
        heads: `predictions` of one batch, (rows, C) each.
        signs: Generator on the CPU.
        probabilities: Whether the rows are log-probabilities; values, each counted with its sign,
            otherwise.
    """
    total = heads[0].new_zeros(())
    for values in heads:
        if probabilities and values.shape[1] == 2:  # rank one: any sign gives the same
            weights = values.detach().sum(dim=1, keepdim=True).div(2).exp()
            values = values[:, :1] - values[:, 1:]
        else:
            weights = values.detach().div(2).exp() if probabilities else torch.ones_like(values)
        drawn = torch.randint(0, 2, values.shape, generator=signs).to(values) * 2 - 1
        total = total + (drawn * weights * values).sum()
    return total


def _zeros(weight: Tensor) -> Tensor:
    """(D, D) for a consumer's weight (D, F)."""
    home = float64_home(weight.device)
    return torch.zeros(len(weight), len(weight), dtype=torch.float64, device=home)


@contextmanager
def _consumer_outputs(model: nn.Module, sites: Sequence[Site]) -> Iterator[list[Tensor]]:
    """The consumers' outputs in the forward pass inside, as part of the graph."""
    outputs = [torch.empty(0)] * len(sites)

    def watch(place: int, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Parameters are frozen, so the graph begins at the first of these outputs.
        output = output if output.requires_grad else output.detach().requires_grad_()
        outputs[place] = output
        return output

    consumers = [linear(model, site.consumer).module for site in sites]
    with hooked(c.register_forward_hook(partial(watch, i)) for i, c in enumerate(consumers)):
        yield outputs
