"""
Small datasets that tests make for themselves, and small networks.
"""

import numpy as np
from gymnasium import spaces

#: Networks that train fast
SMALL = dict(net_arch=[32, 32])
# As release 0.1 acted: of several candidates the best is taken
BEST = dict(candidate_temperature=0.0)


def make_arrays(n_episodes=4, obs_dim=3, action_dim=2, low=-1.0, high=1.0, seed=0):
    """
    Episodes of unequal length (5, 6, 7, ...), every other one terminated, the rest cut off.
    Observation 0 counts steps, so that a transition across an episode's end shows.
    """
    rng = np.random.default_rng(seed)
    columns = {key: [] for key in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")}
    for episode in range(n_episodes):
        length = 5 + episode
        observations = rng.normal(size=(length + 1, obs_dim))
        observations[:, 0] = 100 * episode + np.arange(length + 1)
        ends = np.arange(length) == length - 1
        columns["observations"].append(observations[:-1])
        columns["next_observations"].append(observations[1:])
        columns["actions"].append(rng.uniform(low, high, size=(length, action_dim)))
        columns["rewards"].append(rng.normal(size=length))
        columns["terminals"].append(ends * (episode % 2 == 0))
        columns["timeouts"].append(ends * (episode % 2 == 1))
    arrays = {key: np.concatenate(column).astype(np.float32) for key, column in columns.items()}
    arrays["action_space"] = spaces.Box(low, high, (action_dim,), np.float32)
    return arrays


def one_step_data(actions, rewards, terminal=1.0):
    """Rows of one state that lead back to it."""
    n = len(actions)
    state = np.zeros((n, 1), np.float32)
    flags = dict(terminals=np.full(n, terminal), timeouts=np.full(n, 1.0 - terminal))
    return dict(observations=state, next_observations=state, actions=actions, rewards=rewards, **flags)
