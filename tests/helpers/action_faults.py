"""
Faults planted in what a policy does.
"""

import numpy as np
from gymnasium import spaces


class Replay:
    """
    Acts as it was recorded to.

    :param actions: (n_steps, n_envs, action_dim)
    """

    def __init__(self, actions):
        self.actions, self.at = np.asarray(actions, np.float32), 0
        self.action_space = spaces.Box(-1.0, 1.0, self.actions.shape[2:], np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.at += 1
        return self.actions[self.at - 1], state


def with_jumps(actions, limits, n, rng):
    """
    :param actions: (n_steps, n_envs, action_dim), as they are
    :param limits: of which the planted jumps are outside, by a tenth at least
    :param n: how many are planted, each in a step and a dimension of its own
    :param rng: NumPy's generator
    :return: a copy with the jumps, and where they are, (n, 2): step and environment
    """
    planted, places = np.array(actions, np.float64), []
    steps = 2 + 4 * rng.permutation((len(actions) - 3) // 4)[:n]
    for step in steps:
        env, dim = rng.integers(planted.shape[1]), rng.integers(planted.shape[2])
        before = planted[step - 1, env, dim]
        size = np.broadcast_to(limits.speed, planted.shape[2:])[dim] * rng.uniform(1.1, 3.0)
        planted[step, env, dim] = before + size if before + size <= 1.0 else before - size
        places.append((step, env))
    assert np.abs(planted).max() <= 1.0
    return planted, np.array(places)
