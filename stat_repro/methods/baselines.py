"""Baselines that rank units by one score each: `methods.ranked` does the rest for all of them.

A score function takes what the method is given and returns one score per unit for every site; the
units of the highest scores are kept.
"""

import torch

from stat_repro.methods.base import MethodInput
from stat_repro.methods.common import Scores, scores_by_site
from stat_repro.methods.correction import consumer_weight, float64
from stat_repro.models.adapter import Site
from stat_repro.models.projections import linear

# Of `leverage`. MiniLM, movie_reviews, KL on the validation part at 0.5 / 0.7, one seed, with the
# sizes and the correction of STAT: 0.0270 / 0.0808, 0.0263 / 0.0807, 0.0274 / 0.0764,
# 0.0294 / 0.0809 for 1e-4 to 1e-1; STAT's units 0.0276 / 0.0784. So it hardly matters.
LEVERAGE_RIDGE = 1e-2


def random_scores(request: MethodInput) -> Scores:
    """Random units: the floor that every criterion has to clear.

    Every unit gets an independent uniform score from one generator with `request.seed`, in the
    order of the sites, so that the units kept at a smaller ratio contain those kept at a larger
    one, but for a few neurons that a head pays for when it goes. No global generator is touched.
    Under `allocation=global` all heads of the model are ranked together, and all neurons, so that
    layers differ in size by chance; heads and neurons lose the same share.
    """
    generator = torch.Generator().manual_seed(request.seed)

    def score(site: Site) -> torch.Tensor:
        return torch.rand(site.units, generator=generator, dtype=torch.float64)

    return scores_by_site(request.adapter, score)


def magnitude_scores(request: MethodInput) -> Scores:
    """Structured magnitude: the L2 norm of all weights that are removed with a unit.

    The oldest criterion there is, in the structured form of Li et al., Pruning Filters for
    Efficient ConvNets, ICLR 2017 (arXiv 1608.08710), who take the L1 norm of the (producing)
    weights of a filter. With a unit go

    - a neuron: its rows in all input projections of the FFN (gate and up where there are two) and
      its column in the output projection;
    - a head or key/value group: its rows in the query, key and value projections and its columns in
      the attention's output projection.

    Biases do not count. No data is read. Under `allocation=global` the raw norms of all layers are
    ranked together, heads and neurons apart; both lose the same share.
    """

    def score(site: Site) -> torch.Tensor:
        columns = float64(consumer_weight(request.model, site)).square().sum(dim=0)
        squares = columns.view(site.units, site.width).sum(dim=1)
        for producer in site.producers:
            if not producer.norm:
                rows = float64(linear(request.model, producer.module).weight).square().sum(dim=1)
                squares += rows[producer.rows(site.units).to(rows.device)].sum(dim=1)
        return squares.sqrt()

    return scores_by_site(request.adapter, score)


def wanda_scores(request: MethodInput) -> Scores:
    """Wanda-sp, the structured form of Wanda: the sum of ||W[:, j]||_1 ||A[:, j]||_2 over a unit.

    Wanda: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024
    (arXiv 2306.11695), scores single weights by |W_ij| ||X_j||_2, X_j the j-th input over all
    tokens. Wanda-sp is the structured baseline of An et al. (FLAP, AAAI 2024, arXiv 2312.11983):
    the scores of the consumer's column are added up, over all columns of a head for heads, and
    every layer loses the same share of heads and of neurons (`allocation=uniform`).

    Differs from FLAP's code: a key/value group is one unit where queries are grouped; statistics
    are those of the dense model for all layers. `allocation=global` ranks the raw scores of all
    layers together, which the paper does not do.
    """

    def score(site: Site) -> torch.Tensor:
        weight = float64(consumer_weight(request.model, site))
        lengths = request.statistics_of(site).square_sums.sqrt().to(weight.device)
        columns = weight.abs().sum(dim=0) * lengths
        return columns.view(site.units, site.width).sum(dim=1)

    return scores_by_site(request.adapter, score)


def fluctuation_scores(request: MethodInput) -> Scores:
    """FLAP: Fluctuation-based Adaptive Structured Pruning (An et al., AAAI 2024, arXiv 2312.11983).

    A column of the consumer is scored by its weighted input fluctuation, the sample variance of its
    input (with n - 1; one token fluctuates by nothing) times its squared norm: what is lost when
    the column is replaced by its mean contribution, which goes into the consumer's bias
    (`correction=bias`). Scores are standardised inside every layer and kind (all 0 where they are
    equal), averaged over the columns of a head, and all units of the model are ranked together,
    each paid by its cost (`allocation=global`; "AL-AM" in their code).

    Differs from the authors' code: their attention score is the square of the formula, which is not
    repeated; a unit is paid by its MACs instead of its parameters, and the budget is met within one
    neuron; a key/value group is one unit where queries are grouped, and existing biases are added
    to; every site keeps `min_units`. As theirs: statistics of the dense model for all layers.
    """

    def score(site: Site) -> torch.Tensor:
        weight = float64(consumer_weight(request.model, site))
        statistics = request.statistics_of(site)
        variance = statistics.centred().square_sums / max(statistics.tokens - 1, 1)
        columns = variance.to(weight.device) * weight.square().sum(dim=0)
        columns = columns - columns.mean()
        if len(columns) > 1 and float(columns.std()) > 0:
            columns = columns / columns.std()
        return columns.view(site.units, site.width).mean(dim=1)

    return scores_by_site(request.adapter, score)


def leverage_scores(request: MethodInput, ridge: float = LEVERAGE_RIDGE) -> Scores:
    """Ridge leverage scores: the selection of MoDeGPT's MLPs, a cheap one beside pivots.

    MoDeGPT: Lin et al., Modular Decomposition for Large Language Model Compression, ICLR 2025
    (arXiv 2408.09632), keeps the neurons of an MLP that have the largest ridge leverage scores of
    the activations' Gram matrix and fits the output projection to them (Nystroem, which is `lstsq`
    here). Each score looks at one column beside all others, so two equal neurons are both kept or
    both dropped where pivots keep one.

    Differs from the paper: activations are scaled by the norms of the consumer's columns, as STAT's
    pivots are, and the ridge is relative to their mean square; heads, whose matrices MoDeGPT
    factorises, are kept whole by the sum of the scores of their columns; every layer loses the same
    share (`allocation=uniform`), where the paper chooses a size for every layer.
    `allocation=global` ranks the scores of all layers together, which the paper does not do.
    """

    def score(site: Site) -> torch.Tensor:
        norms = float64(consumer_weight(request.model, site)).norm(dim=0)
        columns = request.statistics_of(site).leverage(norms, ridge)
        return columns.view(site.units, site.width).sum(dim=1)

    return scores_by_site(request.adapter, score)
