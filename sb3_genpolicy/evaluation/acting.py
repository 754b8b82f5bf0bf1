"""
What a policy does in logged states: as it acts, by its own ``predict``.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from tqdm import tqdm

from sb3_genpolicy.common.policies.planning_policy import horizon_of
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import shown

# Actions that are drawn at a time
_CHUNK = 8192
# States in which a policy is asked twice, whether it acts by chance
_ASKED_TWICE = 16


class Acting(NamedTuple):
    """
    A policy, and how it is meant to act.

    :param model: an algorithm of SB3's kind, or a policy alone
    :param deterministic: whether it acts without random numbers
    """

    model: BaseAlgorithm | BasePolicy
    deterministic: bool = False

    @property
    def policy(self) -> Any:
        return self.model.policy if isinstance(self.model, BaseAlgorithm) else self.model

    @property
    def execute_length(self) -> int:
        """How many actions it executes before it looks again."""
        return horizon_of(self.model).execute_length

    def predict(self, observations: Any) -> np.ndarray:
        """
        :param observations: batch first, as the environment gives them, or stacks of them for a policy that sees several
        :return: actions in the environment's units, (batch_size, \\*action_shape); of a plan, as many as are
            executed, (batch_size, execute_length, \\*action_shape), without the second axis for one
        """
        policy, seen = self.policy, self.seen(observations)
        horizon = horizon_of(policy)
        if horizon.chunk_length > 1:
            plans = policy.plan(seen, self.deterministic)
            return plans[:, 0] if horizon.execute_length == 1 else plans[:, : horizon.execute_length]
        if not horizon.is_one_step:
            return policy.plan(seen, self.deterministic)
        return self.model.predict(seen, deterministic=self.deterministic)[0]

    def seen(self, observations: Any) -> Any:
        """
        :param observations: batch first, as the environment gives them, or stacks of them for a policy that sees several
        :return: as the policy gets them, normalised where it was trained behind a VecNormalize
        :raises ValueError: for stacks behind a VecNormalize
        """
        wrapper = self.model.get_vec_normalize_env() if isinstance(self.model, BaseAlgorithm) else None
        if wrapper is None:
            return observations
        if horizon_of(self.policy).history > 1:
            raise ValueError(
                "A policy that sees several observations behind a VecNormalize cannot be evaluated here: train it without "
                "the wrapper (policies standardise observations themselves)."
            )
        return wrapper.normalize_obs(observations)


def check_policy(model: Any) -> None:
    """
    :param model: what is to be evaluated
    :raises TypeError: if it is no algorithm and no policy
    """
    if not isinstance(model, (BaseAlgorithm, BasePolicy)):
        raise TypeError(f"model has to be a model, a policy, or the file of a model, not {shown(model)}.")


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """
    :param seed: of torch's numbers within the context, which leaves all global random states as they were
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with th.random.fork_rng():
            th.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def acts_by_chance(acting: Acting, states: Any) -> bool:
    """
    :param acting: a policy
    :param states: observations, batch first
    :return: whether it does different things in the same state
    """
    some = tree_map(lambda array: array[:_ASKED_TWICE], states)
    return not np.array_equal(acting.predict(some), acting.predict(some))


def policy_actions(acting: Acting, states: Any, n_actions: int, seed: int, progress_bar: bool = False) -> np.ndarray:
    """
    Actions as the policy acts, with its solver, candidates and guidance.

    :param acting: the policy
    :param states: observations, batch first
    :param n_actions: how many for each; of a policy that does always the same there is one
    :param seed: of torch's random numbers, whose state stays as it was
    :param progress_bar: whether to show one
    :return: (n_states, n_actions, action_dim), float32, in the environment's units; of a policy that executes several actions
        of a plan, these end to end
    """
    n_states = len(next(iter(states.values())) if isinstance(states, dict) else states)
    with own_random_numbers(seed):
        n_actions = n_actions if acts_by_chance(acting, states) else 1
        per_chunk = max(1, _CHUNK // n_actions)
        parts = []
        with tqdm(total=n_states, desc="actions", delay=2.0, leave=False, disable=not progress_bar) as bar:
            for start in range(0, n_states, per_chunk):
                some = tree_map(lambda array, at=start: np.repeat(array[at : at + per_chunk], n_actions, axis=0), states)
                actions = acting.predict(some)
                parts.append(actions.reshape(-1, n_actions, int(np.prod(actions.shape[1:]))).astype(np.float32))
                bar.update(len(parts[-1]))
    return np.concatenate(parts)
