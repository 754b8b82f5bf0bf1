"""
Spaces of all kinds, rows and datasets of them, and the policies that learn from them.
"""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

ACTIONS = spaces.Box(-2.0, 3.0, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
SPACES = {
    "box": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "matrix": spaces.Box(-1, 1, (2, 3), np.float32),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
    "image": IMAGE,
    "dict": spaces.Dict({"vector": spaces.Box(-5, 5, (3,), np.float32), "image": IMAGE, "mode": spaces.Discrete(2)}),
}


def rows_of(space, n_rows, seed=0):
    space.seed(seed)
    if isinstance(space, spaces.Dict):
        return {key: rows_of(part, n_rows) for key, part in space.spaces.items()}
    return np.stack([np.asarray(space.sample()) for _ in range(n_rows)])


def dataset_of(space, n_rows=12):
    rng = np.random.default_rng(0)
    return dict(
        observations=rows_of(space, n_rows),
        next_observations=rows_of(space, n_rows, seed=1),
        actions=rng.uniform(-2, 3, (n_rows, 2)),
        rewards=rng.normal(size=n_rows),
        terminals=np.arange(n_rows) % 4 == 3,
        observation_space=space,
        action_space=ACTIONS,
    )


def policy_for(name, kind):
    return kind + {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(name, "Policy")


class BatchNormDropout(BaseFeaturesExtractor):
    """As in SB3's tests: layers that behave differently in training and evaluation."""

    def __init__(self, observation_space):
        super().__init__(observation_space, get_flattened_obs_dim(observation_space))
        self.layers = nn.Sequential(nn.BatchNorm1d(self.features_dim), nn.Dropout(0.5))

    def forward(self, observations):
        return self.layers(observations)
