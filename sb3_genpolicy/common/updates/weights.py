"""
Weights of rows in a loss, and what the log says of them.
"""

import math
from collections.abc import Callable

import torch as th

from sb3_genpolicy.common.updates.batch import mean_of_rows


def exponential_weights(advantage: th.Tensor, beta: float | th.Tensor, largest: float) -> th.Tensor:
    """
    :param advantage: Q - V, any shape
    :param beta: inverse temperature
    :param largest: where weights are clamped, > 0
    :return: ``min(exp(beta advantage), largest)``, of the same shape
    """
    # Clamped before the exponential, which cannot overflow then
    return (beta * advantage).clamp(max=math.log(largest)).exp()


def effective_sample_size(weights: th.Tensor, mean: Callable[[th.Tensor], th.Tensor] = mean_of_rows) -> th.Tensor:
    """
    Kish's effective sample size as a share of the batch: 1 where all weights are equal, 1 / batch_size where one counts alone.

    :param weights: (batch_size,)
    :param mean: over the whole batch, see :class:`~sb3_genpolicy.common.updates.batch.Batch`
    :return: a scalar
    """
    average, squared = mean(th.stack([weights, weights.square()]))
    return average.square() / squared.clamp(min=th.finfo(squared.dtype).tiny)


def kl_from_uniform(weights: th.Tensor, mean: Callable[[th.Tensor], th.Tensor] = mean_of_rows) -> th.Tensor:
    """
    KL divergence of the rows as the weights count them from the rows as they are, ``mean(w log w)`` with weights of mean 1. It
    is what weights take from the data: of equal weights 0, of one that counts alone the logarithm of the batch size. Normal
    advantages of standard deviation d give ``(beta d)^2 / 2``.

    :param weights: (batch_size,), positive
    :param mean: over the whole batch
    :return: in nats, a scalar; where all weights vanish, more than any others have
    """
    average, weighted = mean(th.stack([weights, th.special.xlogy(weights, weights)]))
    average = average.clamp(min=th.finfo(average.dtype).tiny)
    return weighted / average - average.log()


def describe_weights(weights: th.Tensor, mean: Callable[[th.Tensor], th.Tensor] = mean_of_rows) -> dict[str, th.Tensor]:
    """
    :param weights: (batch_size,)
    :param mean: over the whole batch
    :return: scalars for the log
    """
    return dict(weight=weights.mean(), effective_sample_size=effective_sample_size(weights, mean))


def as_probabilities(weights: th.Tensor) -> th.Tensor:
    """
    :param weights: (batch_size,), of which some may be infinite or NaN
    :return: the weights up to a factor, so that even their sum is finite. All equal if all weights are 0, or one is NaN.
    """
    least = th.finfo(weights.dtype).tiny
    return (weights / weights.max().clamp(min=least)).nan_to_num(nan=1.0).clamp(min=least)
