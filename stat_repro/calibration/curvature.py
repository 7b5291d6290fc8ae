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
from itertools import accumulate

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
    compared_inputs,
    compared_positions,
    predictions,
    problem_of,
)
from stat_repro.calibration.gradients import frozen_parameters
from stat_repro.calibration.passes import hooked
from stat_repro.models.adapter import Adapter, Site
from stat_repro.models.devices import float64_home
from stat_repro.models.modes import evaluating
from stat_repro.models.projections import linear
from stat_repro.parallel import own_share, sum_over_ranks
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
        seed: Seed of the signs; those of an example depend on its place among all examples, not on
            its batch.

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
    batches = list(batches)
    # The number of the first example of every batch, the same however many processes there are.
    firsts = accumulate((len(batch["input_ids"]) for batch in batches), initial=1_000_003 * seed)
    numbered = own_share([*zip(firsts, batches, strict=False)])
    with evaluating(model), frozen_parameters(model):
        for first, batch in track(numbered, "gradients of the output"):
            gradients, predicted, factor = _gradients(model, sites, batch, first)
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
    model: nn.Module, sites: Sequence[Site], batch: CalibrationBatch, first: int
) -> tuple[Sequence[Tensor], int, float]:
    """Gradients at the consumers' outputs, predictions in the batch, and the loss by their square.

    The last is 1/2 for probabilities: the divergence is half of the quadratic form.
    """
    inputs, compared = compared_inputs(model, batch, next(model.parameters()).device)
    positions = [len(compared_positions(tokens)) for tokens in compared]
    with torch.enable_grad(), _consumer_outputs(model, sites) as outputs:
        output = model(**inputs)
        heads, probabilities = predictions(output, compared, problem_of(model))
        examples, total = len(batch["input_ids"]), heads[0].new_zeros(())
        for place, rows in enumerate(heads):
            of_tokens = len(rows) == sum(positions)
            counts = positions if of_tokens else [len(rows) // examples] * examples
            # A start and an end of an answer do not share their signs.
            total = total + _signed(rows, counts, 2 * first + place, probabilities)
        gradients = torch.autograd.grad(total, outputs)
    return gradients, sum(map(len, heads)), 0.5 if probabilities else 1.0


def _signed(rows: Tensor, counts: Sequence[int], seed: int, probabilities: bool) -> Tensor:
    """A sum over predictions whose gradients have the Fisher information as second moment.

    Args:
        rows: `predictions` of one head, (rows, C).
        counts: How many of them every example has.
        seed: Seed of the signs of the first example; the next one has this plus 2.
        probabilities: Whether the rows are log-probabilities; values, each counted with its sign,
            otherwise.
    """
    if probabilities and rows.shape[1] == 2:  # rank one: any sign gives the same
        weights = rows.detach().sum(dim=1, keepdim=True).div(2).exp()
        rows = rows[:, :1] - rows[:, 1:]
    else:
        weights = rows.detach().div(2).exp() if probabilities else torch.ones_like(rows)
    drawn = []
    for i, n in enumerate(counts):
        generator = torch.Generator().manual_seed(seed + 2 * i)  # uses 32 bits of it
        # Small integers, since C may be a vocabulary.
        drawn.append(torch.randint(2, (n, rows.shape[1]), generator=generator, dtype=torch.int8))
    return ((torch.cat(drawn).to(rows) * 2 - 1) * weights * rows).sum()


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
