"""
Environments of offline learning: one that carries its dataset, and a stand-in where there is none.
"""

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari import MinariDataset
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_genpolicy.common.datasets import EMBEDDED, DatasetSource, load_dataset, local_datasets_for, open_minari
from sb3_genpolicy.common.datasets.env_specs import make_recorded_env
from sb3_genpolicy.common.datasets.paths import FILE_SUFFIXES, ending
from sb3_genpolicy.common.datasets.suites import register_suite
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import shown


def check_env(env: Any) -> None:
    """
    :param env: an environment, or the id or the specification of one
    :raises ValueError: if it is neither
    """
    if isinstance(env, (str, EnvSpec, gym.Env, VecEnv)):
        return
    wanted = f"env must be an environment, the id of one or None, not {shown(env)}"
    if isinstance(env, gym.vector.VectorEnv):
        raise ValueError(f"{wanted}: gymnasium's vectorised environments are none of SB3, whose `make_vec_env` makes some.")
    # Old environments, of OpenAI's Gym, are SB3's to convert
    if callable(getattr(type(env), "step", None)):
        return
    if isinstance(env, type) or callable(env):
        raise ValueError(f"{wanted}: call it, and give what it makes.")
    raise ValueError(f"{wanted}.")


def made_env(env: Any, verbose: int = 0) -> GymEnv:
    """
    :param env: an environment, or the id or the specification of one
    :param verbose: whether it is said that one is made
    :return: the environment; made of a name as SB3's constructors do
    :raises ValueError: if it is neither, or there is no such environment
    """
    if env is None:
        raise ValueError("There is no environment: give one, or the id of one.")
    check_env(env)
    if not isinstance(env, (str, EnvSpec)):
        return env
    if verbose >= 1 and isinstance(env, str):
        print(f"Creating environment from the given name '{env}'")
    try:
        # So that videos can be recorded
        return named_env(env, render_mode="rgb_array")
    except TypeError:
        return named_env(env)


def named_env(env: str | EnvSpec, **kwargs: Any) -> gym.Env:
    """
    :param env: id or specification of an environment
    :param kwargs: see ``gymnasium.make``
    :return: the environment
    :raises ValueError: if there is none, or it needs another package
    """
    register_suite(env if isinstance(env, str) else env.id)
    try:
        return gym.make(env, **kwargs)
    except (gym.error.Error, ImportError) as error:
        name = env if isinstance(env, str) else env.id
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"The environment '{name}' cannot be made: {reason}{'' if reason.endswith('?') else '.'}") from error


class OfflineEnv(gym.Wrapper):
    """
    An environment that carries the dataset recorded in it.

    :param env: the environment
    :param dataset: a Minari dataset or the name of one
    """

    def __init__(self, env: gym.Env, dataset: str | MinariDataset):
        super().__init__(env)
        self.dataset = dataset

    def get_dataset(self) -> Transitions:
        """
        D4RL's convention.

        :return: the dataset; reads like a mapping of arrays too
        """
        return load_dataset(self.dataset)


def make_offline_env(dataset: str | MinariDataset, eval_env: bool = False, render_mode: str | None = None) -> OfflineEnv:
    """
    The environment that a dataset was recorded in, carrying the dataset: ``GMPO("FlowPolicy", make_offline_env(id)).learn()``.

    :param dataset: id of a local Minari dataset, a Minari dataset, or the name of an embedded dataset
    :param eval_env: whether to make the environment that the dataset names for evaluation, where it names one
    :param render_mode: gymnasium's render mode
    :return: the environment with ``get_dataset()``
    :raises ValueError: if there is no such dataset, if it does not say what environment it was recorded in, or if that cannot
        be made on this machine
    """
    if isinstance(dataset, str) and dataset in EMBEDDED:
        env_id = load_dataset(dataset).env_id
        assert env_id is not None
        return OfflineEnv(gym.make(env_id, render_mode=render_mode), dataset)
    way_on = "make the environment yourself and pass the dataset as `dataset=`"
    if not isinstance(dataset, MinariDataset) and ending(dataset) in FILE_SUFFIXES:
        raise ValueError(f"A file, as {dataset}, does not say what environment it was recorded in: {way_on}.")
    opened = dataset if isinstance(dataset, MinariDataset) else open_minari(dataset)
    return OfflineEnv(make_recorded_env(opened, eval_env, way_on, render_mode), dataset)


def carried_dataset(env: VecEnv | None) -> Any:
    """
    :param env: an environment
    :return: what its ``get_dataset()`` gives, None if it has none
    """
    if env is None or not env.has_attr("get_dataset"):
        return None
    return env.env_method("get_dataset", indices=0)[0]


def env_id_of(env: VecEnv | None) -> str | None:
    """
    :param env: an environment
    :return: the id that it is registered by, None if it is not
    """
    if env is None or not env.has_attr("spec"):
        return None
    spec = env.get_attr("spec", indices=0)[0]
    return spec.id if spec is not None else None


def find_dataset(
    given: Iterable[DatasetSource | None], env: VecEnv | None, saved_name: str | None, owner: str
) -> DatasetSource:
    """
    :param given: what a user gave, the first first
    :param env: an environment that may carry a dataset
    :param saved_name: name of the dataset that a model was trained on
    :param owner: who is to learn from it, for the message
    :return: the first there is: given, carried by the environment, named
    :raises ValueError: if there is none, with the local datasets made for the environment
    """
    for source in given:
        if source is not None:
            return source
    carried = carried_dataset(env)
    if carried is not None:
        return carried
    if saved_name is not None:
        return saved_name
    env_id = env_id_of(env)
    local = local_datasets_for(env_id)
    known = f"On this machine there are, for {env_id or 'any environment'}: {', '.join(local)}." if local else ""
    raise ValueError(
        f"{owner} has no dataset to learn from. {known} Pass one as `dataset=` (a Minari id, a file, a "
        "replay buffer or a mapping of arrays), or an environment that carries its own (`make_offline_env(id)`)."
    )


class SpacesVecEnv(VecEnv):
    """
    Stands where SB3 expects an environment when there is none: it has spaces, and cannot be stepped.

    :param observation_space: observation space
    :param action_space: action space
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        super().__init__(1, observation_space, action_space)

    def reset(self) -> Any:
        if isinstance(self.observation_space, spaces.Dict):
            return tree_map(_zero_observation, dict(self.observation_space.spaces))
        return _zero_observation(self.observation_space)

    def step_async(self, actions: np.ndarray) -> None:
        raise ValueError(
            "This model was made from a dataset, without an environment, and cannot act in one: "
            "give it one by `model.set_env(env)` or `load(path, env=env)`."
        )

    def step_wait(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None]
        raise AttributeError(f"There is no environment to ask for '{attr_name}'.")

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"There is no environment to set '{attr_name}' of.")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(f"There is no environment to call '{method_name}' of.")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: int | Iterable[int] | None = None) -> list[bool]:
        return [False]


def _zero_observation(space: spaces.Space) -> np.ndarray:
    return np.zeros((1, *(space.shape or ())), dtype=space.dtype)
