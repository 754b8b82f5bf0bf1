"""
Arrays as Minari records them.
"""

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from tests.helpers.arrays import make_arrays

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (3,), np.float64)


def episodes_of(arrays):
    """Split arrays at their ends: (start, end) rows of every episode."""
    ends = np.flatnonzero(arrays["terminals"] + arrays["timeouts"]) + 1
    return list(zip([0, *ends[:-1]], ends, strict=True))


def write_minari(name, arrays, env=None, flag_ends=True, **kwargs):
    """Record arrays as Minari does: T + 1 observations for T steps."""
    buffers = []
    for start, end in episodes_of(arrays):
        terminations, truncations = arrays["terminals"][start:end] > 0, arrays["timeouts"][start:end] > 0
        buffers.append(
            EpisodeBuffer(
                observations=np.concatenate([arrays["observations"][start:end], arrays["next_observations"][end - 1 : end]]),
                actions=arrays["actions"][start:end],
                rewards=arrays["rewards"][start:end],
                terminations=terminations,
                truncations=truncations if flag_ends else np.zeros_like(truncations),
            )
        )
    return minari.create_dataset_from_buffers(
        name,
        buffers,
        env=env,
        observation_space=None if env else OBSERVATIONS,
        action_space=None if env else arrays["action_space"],
        **kwargs,
    )


def pendulum_arrays():
    arrays = make_arrays(obs_dim=3, action_dim=1, low=-2.0, high=2.0)
    for key in ("observations", "next_observations"):
        arrays[key] = np.tanh(arrays[key])
    return arrays
