"""
Small spaces, of all kinds that observations and actions may have and of some that they may not, as strategies of hypothesis.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st


def of(*values):
    return st.sampled_from(values)


class SpacesEnv(gym.Env):
    """Has spaces, and is never stepped."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, seed=None, options=None):
        return self.observation_space.sample(), {}


def _box(low, high, shape=(3,), dtype=np.float32):
    return spaces.Box(low, high, shape, dtype)


_FLAT = [
    _box(-np.inf, np.inf),
    _box(-1.0, 1.0, (1,)),
    _box(0.0, np.inf, (2,), np.float64),
    spaces.Box(np.array([-1.0, -np.inf, 5.0]), np.array([1.0, 3.0, 5.0]), dtype=np.float64),
    _box(-1e6, 1e6, (2, 3)),
    _box(-1.0, 1.0, (1, 2, 2), np.float64),
    _box(-5, 5, (4,), np.int64),
    _box(0, 255, (4,), np.uint8),
    _box(0, 255, (8, 8), np.uint8),
    _box(0, 1, (2, 2), np.int8),
    spaces.Box(np.array([[-1.0, -2.0], [0.0, 0.5]]), np.array([[1.0, 2.0], [np.inf, 1.0]]), dtype=np.float64),
    spaces.Discrete(4),
    spaces.Discrete(1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
]
_IMAGES = [_box(0, 255, (1, 36, 36), np.uint8), _box(0, 255, (3, 36, 40), np.uint8)]
_LAST_CHANNELS = [_box(0, 255, (36, 40, 3), np.uint8)]
_ODD = [
    _box(-1.0, 1.0, ()),
    _box(-1.0, 1.0, (0,)),
    _box(-1e300, 1e300, (2,), np.float64),
    _box(0, 255, (8, 8, 3), np.uint8),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
]


def _dicts(*kinds):
    parts = st.sampled_from([part for kind in kinds for part in kind])
    return st.dictionaries(st.sampled_from(["a", "b", "observation"]), parts, min_size=1, max_size=2).map(spaces.Dict)


_DICTS = _dicts(_FLAT, _IMAGES[:1]) | _dicts(_FLAT, _LAST_CHANNELS)
OBSERVATIONS = st.one_of(of(*_FLAT), of(*_FLAT), _DICTS, of(*_IMAGES, *_LAST_CHANNELS))
ODD_OBSERVATIONS = st.one_of(
    *(OBSERVATIONS, of(*_ODD), _dicts(_FLAT, _IMAGES, _LAST_CHANNELS, _ODD)),
    _dicts(_FLAT).map(lambda inner: spaces.Dict({"outer": inner})),
    of(spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])),
)

_ACTIONS = [
    _box(-1.0, 1.0, (2,)),
    _box(-2.0, 2.0, (1,)),
    _box(-1.0, 1.0, (3,), np.float64),
    _box(-1.0, 1.0, (2, 2)),
    spaces.Box(np.array([0.0, -3.0], np.float32), np.array([0.5, 1.0], np.float32)),
    spaces.Box(np.array([[0.0], [-1e4]]), np.array([[1e-3], [1e4]]), dtype=np.float64),
]
_ODD_ACTIONS = [
    _box(1.0, 1.0, (2,)),
    spaces.Box(np.array([0.0, -1.0], np.float32), np.array([0.0, 1.0], np.float32)),
    _box(-np.inf, np.inf, (2,)),
    spaces.Box(np.array([0.0, -1.0], np.float32), np.array([np.inf, 1.0], np.float32)),
    _box(-1.0, 1.0, ()),
    _box(-1.0, 1.0, (0,)),
    _box(-5, 5, (2,), np.int32),
    _box(-1e300, 1e300, (2,), np.float64),
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 2]),
    spaces.MultiBinary(2),
]
ACTIONS, ODD_ACTIONS = of(*_ACTIONS), of(*_ACTIONS, *_ODD_ACTIONS)


def kind_for(space):
    """What the policies for these observations are called by."""
    if isinstance(space, spaces.Dict):
        return "MultiInput"
    return "Cnn" if space in _IMAGES + _LAST_CHANNELS else ""
