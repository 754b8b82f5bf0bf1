"""
Who stands for the behaviour policy in a report: a model of it, and what was logged near a state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_genpolicy.bc import BC
from sb3_genpolicy.common.policies.actor import GenerativeActor
from sb3_genpolicy.common.utils import tree_items, tree_map
from sb3_genpolicy.evaluation.acting import Acting, check_policy, own_random_numbers, policy_actions
from sb3_genpolicy.evaluation.judges import spaces_of
from sb3_genpolicy.evaluation.support import check_behaviour, fit_behaviour, log_density, why_no_density
from sb3_genpolicy.generative import Likelihood, Sampler
from sb3_genpolicy.idql import IDQL
from sb3_genpolicy.qgpo import QGPO
from sb3_genpolicy.reporting.looked_at import LookedAt

# As evaluations without a simulator have it
_DENSITY = Likelihood(sampler=Sampler("rk4", 8))
# Actions at a time
_CHUNK = 1024
# Logged rows among which neighbours are looked for, and numbers of their observations that are compared, at most
_ROWS, _NUMBERS = 20_000, 1_000
_NEIGHBOURS = 100


@dataclass(frozen=True, eq=False)
class Behaviour:
    """
    A model of the behaviour policy.

    :param name: what it is, in words
    :param sample: observations, batch first, how many actions of each and a seed -> (n_states, n_actions, action_dim), in the
        environment's units
    :param log_prob: observations and as many actions, (n, action_dim) -> (n,), in nats; None where it has no density
    """

    name: str
    sample: Callable[[Any, int, int], np.ndarray]
    log_prob: Callable[[Any, np.ndarray], np.ndarray] | None


def find_behaviour(looked: LookedAt, behaviour: Any, steps: int) -> Behaviour | str:
    """
    :param looked: the model and its data
    :param behaviour: a model of the behaviour policy that somebody has; None where nobody has one
    :param steps: of a flow that is fitted where the model has none; 0: it is not
    :return: the first there is: given, the model's own, fitted. Else why there is none, in a sentence.
    :raises TypeError: if what is given is no model
    :raises ValueError: if it plans several actions, which are not those of a row
    """
    model = looked.model
    if behaviour is not None:
        check_policy(behaviour)
        check_behaviour(Acting(behaviour).policy, spaces_of(model)[1], 1)
        return _of_policy(behaviour, f"the given {type(behaviour).__name__}")
    if isinstance(model, BC):
        return "The policy is itself a clone of the behaviour policy: what was logged stands beside it."
    if isinstance(model, (IDQL, QGPO)):
        return _of_actor(looked, model.policy.actor_ema, "its own clone, before critics have a say")
    own = getattr(model.policy, "behaviour", None)
    if own is not None and not getattr(model, "pretraining", False):
        return _of_actor(looked, own, "its own behaviour model")
    if steps > 0:
        fitted = fit_behaviour(looked.data, model.observation_space, steps, looked.seed, progress_bar=True)
        return _of_policy(fitted, f"a flow fitted to the data in {steps:,} steps")
    if own is not None:
        return "The first phase, in which the behaviour model learns, is not over."
    return (
        f"{type(model).__name__} keeps no model of the behaviour policy: what was logged near a state stands for it. Give "
        "behaviour= (a BC that was trained), or behaviour_steps=3_000, which fits a flow, for its density."
    )


def _of_policy(model: Any, name: str) -> Behaviour:
    acting = Acting(model)

    def log_prob(observations: Any, actions: np.ndarray) -> np.ndarray:
        wrapper = None if model is acting.policy else model.get_vec_normalize_env()
        return log_density(acting.policy, observations if wrapper is None else wrapper.normalize_obs(observations), actions)

    def sample(observations: Any, n_actions: int, seed: int) -> np.ndarray:
        return policy_actions(acting, observations, n_actions, seed)

    return Behaviour(name, sample, log_prob if why_no_density(acting) is None else None)


def _of_actor(looked: LookedAt, actor: GenerativeActor, name: str) -> Behaviour:
    action_range = looked.model.policy.action_range
    space = looked.model.action_space

    @th.no_grad()
    def log_prob(observations: Any, actions: np.ndarray) -> np.ndarray:
        looked.model.policy.set_training_mode(False)
        parts = []
        for start in range(0, len(actions), _CHUNK):
            some = tree_map(lambda array, at=start: array[at : at + _CHUNK], observations)
            scaled = action_range.scale(th.as_tensor(actions[start : start + _CHUNK], device=looked.model.device))
            scaled = scaled.to(next(actor.parameters()).dtype)
            parts.append(actor.log_prob(looked.as_tensors(some), scaled, _DENSITY).double().cpu().numpy())
        return np.concatenate(parts) - action_range.log_scale()

    @th.no_grad()
    def sample(observations: Any, n_actions: int, seed: int) -> np.ndarray:
        looked.model.policy.set_training_mode(False)
        with own_random_numbers(seed):
            features = actor.extract_features(looked.as_tensors(observations), actor.features_extractor)
            features = features.repeat_interleave(n_actions, dim=0)
            noise = th.randn((len(features), actor.action_dim), device=features.device)
            actions = action_range.unscale(actor.sample(features, noise)).cpu().numpy()
        clipped = np.clip(actions, space.low.reshape(-1), space.high.reshape(-1))  # type: ignore[attr-defined]
        return clipped.reshape(-1, n_actions, actor.action_dim)

    return Behaviour(name, sample, log_prob)


class Neighbours:
    """
    What was logged in states like a given one.

    :param looked: the model and its data
    """

    def __init__(self, looked: LookedAt):
        self._looked = looked
        n_rows = looked.data.n_rows
        self._rows = np.linspace(0, n_rows - 1, min(n_rows, _ROWS)).astype(int)
        numbers = self._numbers(looked.states(self._rows))
        self._deviation = np.where(numbers.std(axis=0) > 0.0, numbers.std(axis=0), 1.0)
        self._scaled = numbers / self._deviation

    def _numbers(self, observations: Any) -> np.ndarray:
        """Evenly spaced ones where there are many, as in images, (n, n_numbers)."""
        flat = [np.asarray(array).reshape(len(array), -1) for _, array in tree_items(observations, "")]
        most = _NUMBERS // len(flat)
        return np.concatenate([part[:, :: -(-part.shape[1] // most)] for part in flat], axis=1).astype(np.float32)

    def actions(self, observation: Any) -> np.ndarray:
        """
        :param observation: a batch of one
        :return: logged actions of the hundred rows whose observations are nearest, each number in its standard deviations,
            (n, action_dim)
        """
        apart = np.square(self._scaled - self._numbers(observation) / self._deviation).sum(axis=1)
        nearest = np.argsort(apart, kind="stable")[:_NEIGHBOURS]
        return self._looked.flat_actions(np.sort(self._rows[nearest]))
