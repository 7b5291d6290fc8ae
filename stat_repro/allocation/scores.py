"""Errors of removing units, and the weights that make layers comparable (STAT's two recipes)."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class UnitErrors:
    """What each layer loses, by the number of units it keeps.

    Attributes:
        heads: Per layer, shape (H,): entry i is the error in the consumer's output with the first
            i heads of the pivot order kept.
        neurons: Per layer, shape (f,): |R_ii| of the pivoted activations scaled by the norms of
            the consumer's columns.
        neuron_tails: Per layer, shape (f + 1,): ||R[k:, k:]||_F, the residual with k neurons kept.
    """

    heads: tuple[Vector, ...]
    neurons: tuple[Vector, ...]
    neuron_tails: tuple[Vector, ...]


def encoder_scores(errors: UnitErrors) -> UnitErrors:
    """Errors times 1 + sqrt(L - l + 1), l = 0..L-1: early layers count more (BERT recipe).

    Source: the authors' released BERT script; the residuals `neuron_tails` stay unweighted there.
    """
    layers = len(errors.heads)
    weights = 1.0 + np.sqrt(layers - np.arange(layers) + 1.0)
    return _scaled(errors, weights, weights)


def decoder_scores(errors: UnitErrors, head_bonus: float) -> UnitErrors:
    """Errors divided by an exponential fit over depth, late heads favoured (decoder recipe).

    The largest error of every layer is fitted by exp(a l + b), heads and neurons apart, and each
    layer is divided by the fit. The error with i of H heads kept is multiplied by
    head_bonus^(H - i). Source: the authors' released OPT script.
    """
    head_fit, neuron_fit = _exponential_fit(errors.heads), _exponential_fit(errors.neurons)
    scaled = _scaled(errors, 1.0 / head_fit, 1.0 / neuron_fit)
    heads = tuple(h * head_bonus ** (len(h) - np.arange(len(h))) for h in scaled.heads)
    return replace(scaled, heads=heads)


def _scaled(errors: UnitErrors, head_weights: Vector, neuron_weights: Vector) -> UnitErrors:
    return UnitErrors(
        heads=tuple(h * w for h, w in zip(errors.heads, head_weights, strict=True)),
        neurons=tuple(e * w for e, w in zip(errors.neurons, neuron_weights, strict=True)),
        neuron_tails=errors.neuron_tails,
    )


def _exponential_fit(errors: tuple[Vector, ...]) -> Vector:
    """exp(a l + b) fitted to the first error of each layer in log space, shape (L,).

    Layers without units or without any error have no logarithm and do not take part.
    """
    depth = np.arange(len(errors), dtype=np.float64)
    first = np.array([e[0] if len(e) else 0.0 for e in errors])
    live = first > 0
    if not live.any():
        return np.ones(len(errors))
    if live.sum() == 1:
        return np.full(len(errors), first[live][0])
    slope, intercept = np.polyfit(depth[live], np.log(first[live]), 1)
    return np.exp(slope * depth + intercept)
