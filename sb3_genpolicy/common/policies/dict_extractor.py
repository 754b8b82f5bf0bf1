"""
Features of dictionaries of observations.
"""

from collections import OrderedDict

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.type_aliases import TensorDict


class DictExtractor(CombinedExtractor):
    """
    SB3's extractor, also of keys that torch cannot name a module by, such as LeRobot's ``observation.state``: inside, a dot is
    an underscore. Without dots it is SB3's, in all numbers and names.

    :param observation_space: of the observations
    :param cnn_output_dim: number of features of each image
    :param normalized_image: whether images are in [0, 1] already
    """

    def __init__(self, observation_space: spaces.Dict, cnn_output_dim: int = 256, normalized_image: bool = False) -> None:
        inside = dict[str, str]()
        for key in observation_space.spaces:
            name = key.replace(".", "_")
            while name in inside or (name != key and name in observation_space.spaces):
                name += "_"
            inside[name] = key
        named = spaces.Dict(OrderedDict((name, observation_space[key]) for name, key in inside.items()))
        dotted = any("." in key for key in observation_space.spaces)
        super().__init__(named if dotted else observation_space, cnn_output_dim, normalized_image)
        self._observation_space = observation_space
        self._keys = inside

    def forward(self, observations: TensorDict) -> th.Tensor:
        """
        :param observations: key -> (batch_size, ...)
        :return: (batch_size, features_dim)
        """
        return super().forward({name: observations[key] for name, key in self._keys.items()})
