"""
How far a policy has gone from the behaviour, and how many rows it was made of.
"""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_genpolicy.common.policies.sampling_policy import SamplingPolicy
from sb3_genpolicy.common.updates.weights import effective_sample_size, kl_from_uniform
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.evaluation.acting import own_random_numbers
from sb3_genpolicy.evaluation.support import log_density, why_no_density
from sb3_genpolicy.reporting.behaviour import Behaviour
from sb3_genpolicy.reporting.looked_at import LookedAt

# States over which the divergence is a mean: two densities are computed for each
_STATES = 256


class Divergence(NamedTuple):
    """
    :param kl: mean of KL(policy || behaviour) over states, in nats; None where it is not known
    :param error: its standard error, from one action in each state
    :param n_states: over which it is a mean
    :param why: why it is not known, in words; empty where it is
    """

    kl: float | None
    error: float | None
    n_states: int
    why: str


def divergence_from(looked: LookedAt, behaviour: Behaviour | str) -> Divergence:
    """
    :param looked: the model and its data
    :param behaviour: a model of the behaviour policy, or why there is none
    :return: the mean of ``log pi(a|s) - log mu(a|s)`` over states of the data and an action of the policy in each, which for
        a flow is taken before it is clipped to its bounds
    """
    if isinstance(behaviour, str):
        return Divergence(None, None, 0, behaviour)
    if behaviour.log_prob is None:
        return Divergence(None, None, 0, f"The density of {behaviour.name} is not known.")
    why = why_no_density(looked.acting)
    if why is not None:
        return Divergence(None, None, 0, f"The density of the policy is not known, as {why}.")
    chosen = np.linspace(0, len(looked.rows) - 1, min(len(looked.rows), _STATES)).astype(int)
    observations = tree_map(lambda array: array[chosen], looked.observations)
    actions = _actions(looked, observations, chosen)
    wrapper = looked.model.get_vec_normalize_env()
    seen = observations if wrapper is None else wrapper.normalize_obs(observations)
    ratios = log_density(looked.model.policy, seen, actions) - behaviour.log_prob(observations, actions)
    if not np.isfinite(ratios).all():
        return Divergence(np.inf, None, len(ratios), "")
    return Divergence(float(ratios.mean()), float(ratios.std() / np.sqrt(len(ratios))), len(ratios), "")


def _actions(looked: LookedAt, observations: object, chosen: np.ndarray) -> np.ndarray:
    policy = looked.model.policy
    if not isinstance(policy, SamplingPolicy):
        return looked.acted[chosen].astype(np.float32)
    policy.set_training_mode(False)
    with own_random_numbers(looked.seed), th.no_grad():
        actions, _ = policy.sample_with_log_prob(looked.as_tensors(observations))
    return actions.flatten(1).cpu().numpy()


class RowWeights(NamedTuple):
    """
    How rows count in the policy's loss.

    :param effective_share: Kish's effective sample size, as a share of the rows, in (0, 1]
    :param kl: divergence of the weighted rows from the rows as they are, in nats
    :param n_rows: that were weighed
    """

    effective_share: float
    kl: float
    n_rows: int


@th.no_grad()
def row_weights(looked: LookedAt) -> RowWeights | str:
    """
    :param looked: the model and its data
    :return: the weights that its method gives the rows that are looked at, by its critics as they are now; or why it gives
        none
    """
    model = looked.model
    weights_of = getattr(model, "advantage_weights", None)
    if weights_of is None or getattr(model, "weighting", "advantage") != "advantage":
        return f"{type(model).__name__} does not weigh logged actions: there is no effective sample size."
    model.policy.set_training_mode(False)
    actions = looked.scaled(looked.logged)
    critic, value_net = model.policy.critic_target, model.policy.value_net
    if critic.options.learns_advantage:
        advantage = critic.preferences(looked.tensors, actions)
    else:
        advantage = critic.q_values(looked.tensors, actions) - value_net(looked.tensors)
    weights = weights_of(model.horizon_ratio * advantage).double()
    return RowWeights(float(effective_sample_size(weights)), float(kl_from_uniform(weights)), len(weights))
