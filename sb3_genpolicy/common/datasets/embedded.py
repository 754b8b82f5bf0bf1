"""
Datasets that ship with the package.
"""

import json
from importlib import resources

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.transitions.transitions import Transitions

#: Name -> file in ``sb3_genpolicy/data``
EMBEDDED = {"pendulum-mixed": "pendulum_mixed.npz"}


def read_embedded(name: str) -> Transitions:
    """
    :param name: one of :data:`EMBEDDED`
    :return: the record
    """
    with (resources.files("sb3_genpolicy") / "data" / EMBEDDED[name]).open("rb") as file, np.load(file) as stored:
        # As in Minari, an episode is stored with its last observation
        lengths, observations = stored["lengths"], stored["observations"]
        n_rows, ends = lengths.sum(), np.cumsum(lengths) - 1
        is_last = np.zeros(len(observations), dtype=bool)
        is_last[np.cumsum(lengths + 1) - 1] = True
        next_rows = np.arange(1, n_rows + 1)
        next_rows[ends] = n_rows + np.arange(len(lengths))
        timeouts = np.zeros(n_rows, dtype=np.float32)
        timeouts[ends] = 1.0
        metadata = json.loads(str(stored["metadata"]))
        bound = np.asarray(metadata["observation_bound"], dtype=np.float32)
        low, high = metadata["action_bounds"]
        return Transitions(
            states=np.concatenate([observations[~is_last], observations[is_last]]),
            next_rows=next_rows,
            actions=stored["actions"],
            rewards=stored["rewards"],
            terminals=np.zeros_like(timeouts),
            timeouts=timeouts,
            observation_space=spaces.Box(-bound, bound, dtype=np.float32),
            action_space=spaces.Box(low, high, shape=stored["actions"].shape[1:], dtype=np.float32),
            name=name,
            env_id=metadata["env_id"],
            reference_scores=tuple(metadata["reference_scores"]),
        )
