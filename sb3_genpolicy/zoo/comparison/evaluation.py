"""
How a model is evaluated: the same starts for all, without a trace in the training.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed

from sb3_genpolicy.common.transitions.transitions import normalized_score
from sb3_genpolicy.zoo.tasks import published_task

#: Starts of all evaluations
EVALUATION_SEED = 10_000
# Actions that are timed, after some that are not
_TIMED, _BEFORE = 100, 20


def scores_of(model: Any, env_id: str, episodes: int, deterministic: bool) -> np.ndarray:
    """
    :param model: a model
    :param env_id: of the environment
    :param episodes: as many environments are stepped at once, each from a start of its own
    :param deterministic: how it acts
    :return: (episodes,), normalised scores, or returns where nobody says what counts as 0 and 100
    """
    env = make_vec_env(env_id, n_envs=episodes, seed=EVALUATION_SEED)
    with _random_state_of_its_own():
        set_random_seed(EVALUATION_SEED)
        returns, _ = evaluate_policy(model, env, episodes, deterministic, return_episode_rewards=True)
    env.close()
    reference = reference_scores_for(model)
    return np.array(returns) if reference is None else np.asarray(normalized_score(np.array(returns), reference))


def reference_scores_for(model: Any) -> tuple[float, float] | None:
    """
    :param model: a model that has read its dataset
    :return: returns that count as 0 and 100: the dataset's, or those of the published task; None where nobody says
    """
    task = published_task(model.dataset_name)
    return model.reference_scores or (task.reference_scores if task is not None else None)


def acting_milliseconds(model: Any, env_id: str) -> float:
    """
    :param model: a model
    :param env_id: of the environment
    :return: median time of a deterministic ``predict`` of one observation
    """
    env = make_vec_env(env_id, n_envs=1, seed=EVALUATION_SEED)
    observation: Any = env.reset()
    env.close()
    times = []
    with _random_state_of_its_own():
        for _ in range(_BEFORE + _TIMED):
            start = time.perf_counter()
            model.predict(observation, deterministic=True)
            times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[_BEFORE:]))


@contextmanager
def _random_state_of_its_own() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with th.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
