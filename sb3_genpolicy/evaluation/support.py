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
from sb3_genpolicy.common.policies.planning_policy import horizon_of
from sb3_genpolicy.common.policies.sampling_policy import SamplingPolicy
from sb3_genpolicy.common.transitions.time_windows import plan_rows, planned_space
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


def fit_behaviour(
    data: Transitions, observation_space: spaces.Space, steps: int, seed: int, progress_bar: bool, chunk_length: int = 1
) -> BC:
    """
    :param data: the logged episodes
    :param observation_space: as networks see it
    :param steps: gradient steps
    :param seed: of the training
    :param progress_bar: whether to show one
    :param chunk_length: number of actions that follow each other whose joint density is wanted
    :return: a flow that acts as was logged, whose density is known
    """
    if isinstance(observation_space, spaces.Dict):
        policy = "FlowMultiInputPolicy"
    else:
        policy = "FlowCnnPolicy" if is_image_space(observation_space) else "FlowPolicy"
    options = dict(net_arch=_ARCHITECTURE, chunk_length=chunk_length)
    # Its actor follows closely: there are few steps
    with own_random_numbers(seed):
        model = BC(policy, dataset=data, seed=seed, actor_tau=0.005, policy_kwargs=options)
        return model.learn(steps, log_interval=None, progress_bar=progress_bar)


def check_behaviour(behaviour: Any, action_space: spaces.Box, length: int) -> Any:
    """
    :param behaviour: policy of a behaviour model that somebody gave
    :param action_space: of the environment
    :param length: of how many actions together densities are wanted
    :return: the same
    :raises ValueError: if its densities are of another number of actions
    """
    if behaviour.action_space.shape != planned_space(action_space, length).shape:
        raise ValueError(
            f"The behaviour model has densities of actions of the shape {behaviour.action_space.shape}, but the policy "
            f"executes {length} of the shape {action_space.shape} together: train it with "
            f"policy_kwargs=dict(chunk_length={length}), or leave it out, so that one is fitted."
        )
    return behaviour


def log_density(policy: Any, observations: Any, actions: np.ndarray) -> np.ndarray:
    """
    :param policy: with a density
    :param observations: batch first
    :param actions: (batch_size, action_dim), in the environment's units; of a policy that plans, whole plans, end to end
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
    policy, horizon = acting.policy, horizon_of(acting.policy)
    if acting.deterministic:
        return "it acts without random numbers"
    if horizon.execute_length < horizon.chunk_length:
        return f"it executes {horizon.execute_length} actions of plans of {horizon.chunk_length}, whose density is of all"
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
    :return: where its actions lie; of a policy that executes several of a plan, where these together do
    """
    random, length = np.random.default_rng(seed), acting.execute_length
    rows = whole_windows(ask.data, length)
    rows = np.sort(rows[random.choice(len(rows), min(_ROWS, len(rows)), replace=False)])
    observations = tree_map(lambda array: array[rows], ask.data.states)
    logged = _logged_from(ask.data, rows, length)
    drawn = policy_actions(acting, observations, 1, seed)[:, 0]
    of_logged = log_density(behaviour, observations, logged)
    of_drawn = log_density(behaviour, observations, drawn)
    below, up_to = (np.searchsorted(np.sort(of_logged), of_drawn, side=side) / len(of_logged) for side in ("left", "right"))
    kl = None
    if why_no_density(acting) is None:
        own = log_density(acting.policy, acting.seen(observations), drawn)
        ratios = own - of_drawn
        kl = float(ratios.mean()) if np.isfinite(ratios).all() else math.inf
    loss = _matching_loss(acting, ask.data, rows, observations, seed)
    quantile = float(0.5 * (below + up_to).mean())
    return Support(float((up_to < _RIM).mean()), quantile, kl, loss)


def whole_windows(data: Transitions, length: int) -> np.ndarray:
    """
    :param data: the logged episodes
    :param length: of a window
    :return: numbers of the rows from which on as many are of one episode, ascending; all rows where there are none
    """
    if length == 1:
        return np.arange(data.n_rows)
    rows = np.flatnonzero(plan_rows(data, length)[:, -1] == np.arange(data.n_rows) + length - 1)
    return rows if len(rows) else np.arange(data.n_rows)


def _logged_from(data: Transitions, rows: np.ndarray, length: int) -> np.ndarray:
    """Logged actions from rows on, end to end, (n, length * action_dim); after an episode's end its last."""
    if length > 1:
        rows = plan_rows(data, length)[rows]
    return np.asarray(data.actions[rows]).reshape(len(rows), -1)


def _matching_loss(acting: Acting, data: Transitions, rows: np.ndarray, observations: Any, seed: int) -> float | None:
    if not isinstance(acting.model, OfflineAlgorithm):
        return None
    policy = acting.model.policy
    if not hasattr(policy.actor_ema, "cloning_loss") or getattr(policy, "takes_noise", False):
        return None
    tensors = policy.obs_to_tensor(acting.seen(observations))[0]
    actions = _logged_from(data, rows, horizon_of(policy).chunk_length)
    shaped = actions.reshape(-1, *policy.action_space.shape)
    scaled = th.as_tensor(policy.scale_action(shaped), device=policy.device).float().flatten(1)
    generator = th.Generator(policy.device).manual_seed(seed)
    with th.no_grad():
        return float(policy.actor_ema.cloning_loss(tensors, scaled, generator).mean())
