"""
An inverse temperature that is found, not given: beta moves until the policy is as far from the behaviour policy as was asked.
"""

from typing import Any

import torch as th

from sb3_genpolicy.generative.checks import check_number

#: How much more episodes of higher return count where beta is found, in nats. Critics tell one action of a state
#: from another, hardly one agent from another, whose states are others: that order is in the returns of whole episodes
#: (docs/guide/results.md)
DEFAULT_EPISODE_KL = 1.0
#: Largest weight where beta is found. Advantages have heavy tails (a kurtosis of 24 to 1093, docs/modules/gmpo.md): with
#: weights of up to 100, a row in a thousand would make up the whole divergence, and the others would weigh the same
DEFAULT_CLAMP = 10.0
#: The paper's
PAPERS_CLAMP = 100.0
# Log beta moves by at most this much in a step
_LOG_BETA_RATE = 0.01
# Where nothing tells actions apart, beta would grow for ever
_LARGEST_LOG_BETA = 20.0


def temperature_of(beta: float | None, target_kl: float | None, default: float) -> tuple[float, float | None]:
    """
    :param beta: inverse temperature as it is given, or where it starts
    :param target_kl: divergence that it is adapted to hold, in nats
    :param default: divergence that is held where neither is given, in nats
    :return: beta, and the divergence, None where beta is fixed
    :raises ValueError: if one of them is out of range, or beta cannot be adapted
    """
    if beta is None:
        beta, target_kl = 1.0, default if target_kl is None else target_kl
    check_number("beta", beta, low=0.0)
    if target_kl is not None:
        check_number("target_kl", target_kl, low=0.0, low_open=True)
        if beta == 0.0:
            raise ValueError("target_kl adapts beta by factors: it must start above 0.")
    return beta, target_kl


def clamp_of(weight_clamp: float | None, target_kl: float | None, of_given_beta: float) -> float:
    """
    :param weight_clamp: largest weight as it is given, > 0, None for the default
    :param target_kl: divergence that beta is adapted to hold, None where it is fixed
    :param of_given_beta: the default where beta is fixed
    :return: the largest weight: where beta is adapted :data:`DEFAULT_CLAMP` by default
    :raises ValueError: if it is out of range
    """
    if weight_clamp is None:
        return of_given_beta if target_kl is None else DEFAULT_CLAMP
    check_number("weight_clamp", weight_clamp, low=0.0, low_open=True, infinite=True)
    return weight_clamp


def episode_kl_of(episode_kl: float | None, target_kl: float | None) -> float:
    """
    :param episode_kl: divergence of rows weighted by the returns of their episodes, in nats, >= 0, None for the default
    :param target_kl: divergence that beta is adapted to hold, None where it is fixed
    :return: the divergence: where beta is adapted :data:`DEFAULT_EPISODE_KL` by default, else 0
    :raises ValueError: if it is out of range
    """
    if episode_kl is None:
        return 0.0 if target_kl is None else DEFAULT_EPISODE_KL
    check_number("episode_kl", episode_kl, low=0.0)
    return float(episode_kl)


def change_towards(target_kl: float, kl: th.Tensor) -> th.Tensor:
    """
    Beta grows while the policy may still move away, and falls where it went too far.

    :param target_kl: divergence that is to be held, in nats
    :param kl: divergence at the present beta, a scalar
    :return: by how much log beta changes in this step, a scalar
    """
    return _LOG_BETA_RATE * (1.0 - kl.detach() / target_kl).clamp(-1.0, 1.0)


def mean_kl_between(target_kl: float, before: th.Tensor, after: th.Tensor, updates: int) -> float:
    """
    :param target_kl: divergence that is to be held, in nats
    :param before: log beta
    :param after: log beta some updates later
    :param updates: how many, >= 1
    :return: the mean divergence over them that :func:`change_towards` saw, where what is above twice the target counts as that
    """
    return target_kl * (1.0 - (after - before).item() / (updates * _LOG_BETA_RATE))


def changed(log_beta: th.Tensor, change: Any) -> None:
    """
    :param log_beta: what changes, in place
    :param change: by how much
    """
    log_beta.add_(change).clamp_(-_LARGEST_LOG_BETA, _LARGEST_LOG_BETA)
