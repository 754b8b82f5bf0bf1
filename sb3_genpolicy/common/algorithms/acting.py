"""
How a model acts beyond SB3's ``predict``.
"""

from typing import Any

import numpy as np


def predict_chunk(
    self: Any,
    observation: np.ndarray | dict[str, np.ndarray],
    state: tuple[np.ndarray, ...] | None = None,
    episode_start: np.ndarray | None = None,
    deterministic: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
    """
    Plan anew, and get the whole plan, see
    :meth:`~sb3_genpolicy.common.policies.planning_policy.PlanningPolicy.predict_chunk`.

    :param observation: (n_envs, \\*observation_shape) or one without n_envs, or a dictionary of such
    :param state: what the last call of this or of ``predict`` returned
    :param episode_start: (n_envs,), where an episode begins
    :param deterministic: whether to plan without drawing random numbers
    :return: the plan, (chunk_length, \\*action_shape), with the number of environments before it for several, and the next
        ``state``
    """
    return self.policy.predict_chunk(observation, state, episode_start, deterministic)
