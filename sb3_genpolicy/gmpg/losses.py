"""
Losses of the policy gradient: every one has the tilted behaviour policy, mu exp(beta Q) / Z, as its aim. All are means over
rows, and what they divide by is a mean over the whole batch, so that several processes can average theirs.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch as th

from sb3_genpolicy.common.updates.batch import mean_of_rows
from sb3_genpolicy.generative.kl import KLSample

GradientEstimator = Literal["pathwise", "adjoint", "reinforce", "reinforce_softmax", "matching", "detached"]
GRADIENT_ESTIMATORS: tuple[GradientEstimator, ...] = (
    "pathwise",
    "adjoint",
    "reinforce",
    "reinforce_softmax",
    "matching",
    "detached",
)

#: Of values, (..., n_rows), over all rows of a batch, see :class:`~sb3_genpolicy.common.updates.batch.Batch`
Mean = Callable[[th.Tensor], th.Tensor]

# In place of no row at all
_LEAST_SHARE = 1e-8


class PolicyLoss(NamedTuple):
    """
    :param loss: a scalar
    :param q_value: mean Q of the actions, a scalar
    :param kl: estimate of KL(pi || mu), a scalar; None where nothing depends on it
    :param sample: the actions, None for ``matching``
    """

    loss: th.Tensor
    q_value: th.Tensor
    kl: th.Tensor | None
    sample: KLSample | None


def pathwise_loss(sample: KLSample, scaled_q: th.Tensor, mean: Mean = mean_of_rows) -> th.Tensor:
    """
    ``-beta Q(s, a) + log pi(a|s) - log mu(a|s)`` with a ~ pi, whose gradient passes through the sampler
    (section 4.2 of the paper, the reverse KL divergence).

    :param sample: actions of the policy and their log ratio
    :param scaled_q: beta Q at these actions, (batch_size,)
    :param mean: over all rows of the batch
    :return: the mean over rows whose log ratio is known, a scalar
    """
    share_found = mean(sample.found.float())
    return (sample.found * (sample.log_ratio - scaled_q)).mean() / share_found.clamp(min=_LEAST_SHARE)


def reinforce_loss(sample: KLSample, scaled_advantage: th.Tensor, weight_clamp: float, mean: Mean = mean_of_rows) -> th.Tensor:
    """
    The score-function form of the same gradient from actions of the behaviour policy, a ~ mu, which the optimal policy's
    density ratio ``exp(beta (Q - V))`` weights. What a row adds to log Z, the signal's weighted mean, is subtracted.

    :param sample: actions of the behaviour policy and their log ratio
    :param scaled_advantage: beta (Q - V) at these actions, (batch_size,)
    :param weight_clamp: largest weight
    :param mean: over all rows of the batch
    :return: a scalar, whose gradient alone has a meaning
    """
    weights = sample.found * scaled_advantage.detach().exp().clamp(max=weight_clamp)
    weights = weights / mean(weights).clamp(min=1e-8)
    signal = (sample.log_ratio - scaled_advantage).detach()
    return (weights * (signal - mean(weights * signal)) * sample.log_ratio).mean()


def reinforce_softmax_loss(sample: KLSample, scaled_q: th.Tensor, n_actions: int) -> th.Tensor:
    """
    As :func:`reinforce_loss`, with weights ``softmax(beta Q)`` over several actions of each state, which need no V.

    :param sample: actions of the behaviour policy and their log ratio, rows of a state side by side
    :param scaled_q: beta Q at these actions, (batch_size \\* n_actions,)
    :param n_actions: actions of each state
    :return: a scalar, whose gradient alone has a meaning
    """
    log_ratio = sample.log_ratio.reshape(-1, n_actions)
    scaled_q = scaled_q.detach().reshape(-1, n_actions)
    weights = scaled_q.softmax(dim=1) * sample.found.reshape(-1, n_actions)
    signal = (log_ratio - scaled_q).detach()
    baseline = (weights * signal).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1e-8)
    return (weights * (signal - baseline) * log_ratio).sum(dim=1).mean()


def kl_from_reference(sample: KLSample) -> th.Tensor:
    """
    :param sample: actions of the behaviour policy and their log ratio
    :return: KL(pi || mu): the mean of r log r - r + 1 for the density ratio r, which is never negative
    """
    log_ratio = sample.log_ratio.detach()
    # A product: where the ratio overflows, a difference would be no number
    return (log_ratio.exp() * (log_ratio - 1.0) + 1.0).mean()
