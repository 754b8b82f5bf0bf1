"""
How far a policy is from what was logged, by a model of the behaviour policy that is a density.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_genpolicy.bc import BC
from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.policies.gaussian_policy import GaussianPolicy
from sb3_genpolicy.common.policies.sampling_policy import SamplingPolicy
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.evaluation.acting import Acting, own_random_numbers, policy_actions
from sb3_genpolicy.evaluation.question import Question
from sb3_genpolicy.generative import Likelihood, Sampler

# Rows at which densities are compared
_ROWS = 4096
# Rows at a time
_CHUNK = 1024
# Logged actions of a density below this quantile are the rim of the data
_RIM = 0.01
# Of the flow's density, whose steps' errors are far below what is told apart here
_DENSITY = Likelihood(sampler=Sampler("rk4", 8))
_ARCHITECTURE = [128, 128, 128]


@dataclass(frozen=True)
class Support:
    """
    Where a policy's actions lie, beside the logged ones.

    :param outside: share of its actions that are less dense under the behaviour model than 99 of 100 logged actions, in
        [0, 1]; about 0.01 for the behaviour itself
    :param quantile: mean quantile of its actions' densities among those of the logged ones, in [0, 1]; about 0.5 for the
        behaviour itself, more for a policy that does the usual thing
    :param kl: its divergence from the behaviour, in nats; None where it has no density
    :param matching_loss: its actor's loss on the judging episodes, by which a clone is judged; None where it has none
    """

    outside: float
    quantile: float
    kl: float | None
    matching_loss: float | None

    @property
    def leaving(self) -> float:
        """
        :return: the probability that the policy leaves the data in a step, in [0, 1]: its actions beyond the rim, above twice
            as many as the behaviour has there, which a sample and a density model cannot tell from as many
        """
        return max(0.0, self.outside - 2.0 * _RIM)


def fit_behaviour(data: Transitions, observation_space: spaces.Space, steps: int, seed: int, progress_bar: bool) -> BC:
    """
    :param data: the logged episodes
    :param observation_space: as networks see it
    :param steps: gradient steps
    :param seed: of the training
    :param progress_bar: whether to show one
    :return: a flow that acts as was logged, whose density is known
    """
    if isinstance(observation_space, spaces.Dict):
        policy = "FlowMultiInputPolicy"
    else:
        policy = "FlowCnnPolicy" if is_image_space(observation_space) else "FlowPolicy"
    # Its actor follows closely: there are few steps
    with own_random_numbers(seed):
        model = BC(policy, dataset=data, seed=seed, actor_tau=0.005, policy_kwargs=dict(net_arch=_ARCHITECTURE))
        return model.learn(steps, log_interval=None, progress_bar=progress_bar)


def log_density(policy: Any, observations: Any, actions: np.ndarray) -> np.ndarray:
    """
    :param policy: with a density
    :param observations: batch first
    :param actions: (batch_size, action_dim), in the environment's units
    :return: (batch_size,), in nats
    """
    policy.set_training_mode(False)
    parts = []
    with th.no_grad():
        for start in range(0, len(actions), _CHUNK):
            some = tree_map(lambda array, at=start: array[at : at + _CHUNK], observations)
            tensors = policy.obs_to_tensor(some)[0]
            own = th.as_tensor(actions[start : start + _CHUNK], device=policy.device)
            own = own.reshape(-1, *policy.action_space.shape)
            options = (_DENSITY,) if isinstance(policy, SamplingPolicy) else ()
            parts.append(policy.log_prob(tensors, own, *options).double().cpu().numpy())
    return np.concatenate(parts)


def why_no_density(acting: Acting) -> str | None:
    """
    :param acting: a policy
    :return: why the density of its actions is not known, in words; None where it is
    """
    policy = acting.policy
    if acting.deterministic:
        return "it acts without random numbers"
    if isinstance(policy, SamplingPolicy):
        if policy.n_candidates > 1:
            return f"it chooses among {policy.n_candidates} candidates"
        return "it is guided while it acts" if policy.guidance > 0.0 else None
    if isinstance(policy, GaussianPolicy) or callable(getattr(type(policy), "log_prob", None)):
        return None
    return "its actions have none"


def measure_support(ask: Question, acting: Acting, behaviour: Any, seed: int) -> Support:
    """
    :param ask: what is asked
    :param acting: the policy
    :param behaviour: policy of the behaviour model
    :param seed: of the rows and the actions
    :return: where its actions lie
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(ask.data.n_rows, min(_ROWS, ask.data.n_rows), replace=False))
    observations = tree_map(lambda array: array[rows], ask.data.states)
    logged = np.asarray(ask.data.actions[rows]).reshape(len(rows), -1)
    drawn = policy_actions(acting, observations, 1, seed)[:, 0]
    of_logged = log_density(behaviour, observations, logged)
    of_drawn = log_density(behaviour, observations, drawn)
    below, up_to = (np.searchsorted(np.sort(of_logged), of_drawn, side=side) / len(of_logged) for side in ("left", "right"))
    kl = None
    if why_no_density(acting) is None:
        own = log_density(acting.policy, acting.seen(observations), drawn)
        ratios = own - of_drawn
        kl = float(ratios.mean()) if np.isfinite(ratios).all() else math.inf
    quantile = float(0.5 * (below + up_to).mean())
    return Support(float((up_to < _RIM).mean()), quantile, kl, _matching_loss(acting, observations, logged, seed))


def _matching_loss(acting: Acting, observations: Any, actions: np.ndarray, seed: int) -> float | None:
    if not isinstance(acting.model, OfflineAlgorithm):
        return None
    policy = acting.model.policy
    if not hasattr(policy.actor_ema, "cloning_loss") or getattr(policy, "takes_noise", False):
        return None
    tensors = policy.obs_to_tensor(acting.seen(observations))[0]
    shaped = actions.reshape(-1, *policy.action_space.shape)
    scaled = th.as_tensor(policy.scale_action(shaped), device=policy.device).float().flatten(1)
    generator = th.Generator(policy.device).manual_seed(seed)
    with th.no_grad():
        return float(policy.actor_ema.cloning_loss(tensors, scaled, generator).mean())
