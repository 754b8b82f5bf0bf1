"""
What an agent does in an environment becomes a Minari dataset.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import minari
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari import MinariDataset
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage.datasets_root_dir import get_dataset_path
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, VecTransposeImage
from tqdm import tqdm

from sb3_genpolicy.common.datasets.columns import PATIENCE
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import check_number, named_arguments

# Steps held in memory before they are written
_STEPS_IN_MEMORY = 50_000


class Agent(Protocol):
    """
    Anything with SB3's ``predict``: an algorithm or a policy.
    """

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> tuple[Any, Any]:
        """cf ``BasePolicy``."""
        ...


#: An agent, or a function from one observation to one action
Policy = Agent | Callable[[Any], Any]


@named_arguments
def record_dataset(
    policy: Policy,
    env: gym.Env | VecEnv | str | None,
    dataset_id: str,
    *,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    deterministic: bool = False,
    seed: int | None = None,
    reference_scores: tuple[float, float] | None = None,
    algorithm_name: str | None = None,
    author: str | None = None,
    description: str | None = None,
    jpeg_encoding: bool = False,
) -> MinariDataset:
    """
    Let a policy act, and record what happens: ``record_dataset(agent, "Hopper-v5", "me/hopper/first-v0", n_steps=100_000)``.

    Observations and rewards are recorded as the environment gives them, also where the agent sees them through a
    ``VecNormalize``, and actions as the environment gets them. Steps that were recorded before an error or an interrupt are
    kept.

    :param policy: an SB3 algorithm or policy, anything else with ``predict``, or a function from an observation to an action
    :param env: environment, vectorised or not, or its id; None: the agent's own
    :param dataset_id: ``(namespace/)name-v0``, not taken yet
    :param n_steps: number of steps, over all copies of the environment; episodes that are under way then are cut off
    :param n_episodes: number of episodes in place of ``n_steps``, shared out evenly, so that short ones do not win
    :param deterministic: whether the agent acts without its noise
    :param seed: of the environment and the agent's noise; it is set for Python, numpy and torch
    :param reference_scores: returns that count as normalised scores of 0 and 100
    :param algorithm_name: name of what acted, the agent's class by default
    :param author: who records
    :param description: what the dataset is
    :param jpeg_encoding: whether images are compressed with loss
    :return: the dataset
    :raises ValueError: if neither or both of ``n_steps`` and ``n_episodes`` are given, the id is taken or malformed, or
        actions are not continuous
    """
    if (n_steps is None) == (n_episodes is None):
        raise ValueError("Say how much to record: either n_steps or n_episodes.")
    check_number("n_steps" if n_episodes is None else "n_episodes", n_steps if n_episodes is None else n_episodes, low=1)
    _check_id(dataset_id)
    vec_env, normalizer = _bare_vec_env(_env_of(policy, env))
    if not isinstance(vec_env.action_space, spaces.Box):
        raise ValueError(f"Actions are in {vec_env.action_space}; only continuous actions (a Box space) are recorded.")
    writer = _DatasetWriter(
        dataset_id,
        vec_env,
        dict(
            algorithm_name=algorithm_name or type(policy).__name__,
            author=author,
            description=description,
            jpeg_encoding=jpeg_encoding,
        ),
        reference_scores,
    )
    if seed is not None:
        vec_env.seed(seed)
        # Python's, numpy's and torch's generators; an agent's own training is left alone
        set_random_seed(seed)
    recorder = _Recorder(policy, vec_env, normalizer, deterministic, writer)
    try:
        recorder.run(n_steps, n_episodes)
    finally:
        writer.flush()
    return minari.load_dataset(dataset_id)


def _check_id(dataset_id: str) -> None:
    try:
        parse_dataset_id(dataset_id)
    except TypeError as error:
        raise ValueError(f"The id '{dataset_id}' has no version: end it in '-v0'.") from error
    folder = Path(get_dataset_path(dataset_id))
    if (folder / "data").exists():
        raise ValueError(f"There is a dataset '{dataset_id}' already, in {folder}: choose another name or version.")


def _env_of(policy: Any, env: gym.Env | VecEnv | str | None) -> VecEnv:
    if env is None:
        env = policy.get_env() if hasattr(policy, "get_env") else None
        if env is None:
            raise ValueError("There is no environment to act in: pass `env=`.")
    if isinstance(env, VecEnv):
        return env
    return DummyVecEnv([lambda: gym.make(env) if isinstance(env, str) else env])


def _bare_vec_env(env: VecEnv) -> tuple[VecEnv, VecNormalize | None]:
    """The environment below what changes observations for the agent alone, and what normalises them."""
    normalizer = None
    while isinstance(env, (VecNormalize, VecTransposeImage)):
        normalizer = env if isinstance(env, VecNormalize) else normalizer
        env = env.venv
    return env, normalizer


class _DatasetWriter:
    """
    Gathers episodes, and writes them when there are many.
    """

    def __init__(self, dataset_id: str, env: VecEnv, metadata: dict[str, Any], reference_scores: tuple[float, float] | None):
        self.dataset_id, self.env, self.metadata = dataset_id, env, metadata
        self.reference_scores = reference_scores
        self.dataset: MinariDataset | None = None
        self.episodes: list[EpisodeBuffer] = []

    def add(self, episode: EpisodeBuffer) -> None:
        self.episodes.append(episode)
        if sum(map(len, self.episodes)) >= _STEPS_IN_MEMORY:
            self.flush()

    def flush(self) -> None:
        if not self.episodes:
            return
        if self.dataset is not None:
            self.dataset.update_dataset_from_buffer(self.episodes)
        else:
            with warnings.catch_warnings():
                # Minari asks for an author's address and more, which nobody has to give
                warnings.filterwarnings("ignore", message=".* is set to None|env_spec is None")
                self.dataset = minari.create_dataset_from_buffers(
                    self.dataset_id,
                    self.episodes,
                    env=_spec_of(self.env),
                    observation_space=self.env.observation_space,
                    action_space=self.env.action_space,
                    **{key: value for key, value in self.metadata.items() if value is not None},
                )
            if self.reference_scores is not None:
                # Given to Minari above, they would be lost where the environment has no specification
                low, high = self.reference_scores
                self.dataset.storage.update_metadata(dict(ref_min_score=float(low), ref_max_score=float(high)))
        self.episodes = []


def _spec_of(env: VecEnv) -> EnvSpec | None:
    """The environment's specification, without wrappers that cannot be made again from it, as SB3's ``Monitor``."""
    spec = env.get_attr("spec")[0]
    if spec is None:
        return None
    lost = [wrapper.name for wrapper in spec.additional_wrappers if wrapper.kwargs is None and wrapper.name != "Monitor"]
    if lost:
        warnings.warn(
            f"The dataset's environment will be recovered without {', '.join(lost)}, which keep no record.", stacklevel=4
        )
    kept = tuple(wrapper for wrapper in spec.additional_wrappers if wrapper.kwargs is not None)
    return replace(spec, additional_wrappers=kept)


class _Recorder:
    """
    Acts, and keeps the steps of every copy of the environment apart.
    """

    def __init__(self, policy: Any, env: VecEnv, normalizer: VecNormalize | None, deterministic: bool, writer: _DatasetWriter):
        self.policy, self.env, self.normalizer, self.deterministic = policy, env, normalizer, deterministic
        self.writer = writer
        self.open = [_OpenEpisode() for _ in range(env.num_envs)]
        self.state: Any = None
        self.starts = np.ones(env.num_envs, dtype=bool)

    def run(self, n_steps: int | None, n_episodes: int | None) -> None:
        n_envs = self.env.num_envs
        # Episodes that each copy still has to give; steps that all of them still have to
        quota = np.array([((n_episodes or 0) + k) // n_envs for k in range(n_envs)])
        left = n_steps or 0
        observations: Any = self.env.reset()
        with tqdm(total=n_steps or n_episodes, desc=f"recording {self.writer.dataset_id}", delay=PATIENCE, leave=False) as bar:
            try:
                while left > 0 or quota.any():
                    actions = self._act(observations)
                    following, rewards, dones, infos = self.env.step(actions)
                    for k in range(n_envs):
                        if quota[k] == 0 and left == 0:
                            continue
                        led_to = infos[k]["terminal_observation"] if dones[k] else _of_env(following, k)
                        self.open[k].add(_of_env(observations, k), actions[k], rewards[k], dones[k], infos[k], led_to)
                        if dones[k]:
                            self.writer.add(self.open[k].buffer())
                            self.open[k] = _OpenEpisode()
                        if n_steps is not None:
                            left -= 1
                            bar.update()
                        elif dones[k]:
                            quota[k] -= 1
                            bar.update()
                    observations, self.starts = following, dones
            finally:
                # What is under way is cut off, after an error too
                self._cut()

    def _act(self, observations: Any) -> np.ndarray:
        seen = observations if self.normalizer is None else self.normalizer.normalize_obs(observations)
        if hasattr(self.policy, "predict"):
            actions, self.state = self.policy.predict(
                seen, state=self.state, episode_start=self.starts, deterministic=self.deterministic
            )
        else:
            actions = np.stack([np.asarray(self.policy(_of_env(seen, k))) for k in range(self.env.num_envs)])
        space = self.env.action_space
        assert isinstance(space, spaces.Box)
        actions = np.asarray(actions, dtype=space.dtype).reshape(self.env.num_envs, *space.shape)
        return np.clip(actions, space.low, space.high)

    def _cut(self) -> None:
        for episode in self.open:
            if episode.rewards:
                episode.truncations[-1] = True
                self.writer.add(episode.buffer())


class _OpenEpisode:
    """
    The steps of an episode so far, and the observation that the last of them led to.
    """

    def __init__(self) -> None:
        self.observations: list[Any] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.terminations: list[bool] = []
        self.truncations: list[bool] = []
        self.led_to: Any = None

    def add(self, observation: Any, action: Any, reward: Any, done: bool, info: dict[str, Any], led_to: Any) -> None:
        truncated = bool(done and info.get("TimeLimit.truncated", False))
        self.observations.append(observation)
        self.actions.append(np.array(action))
        self.rewards.append(float(reward))
        self.terminations.append(bool(done) and not truncated)
        self.truncations.append(truncated)
        self.led_to = led_to

    def buffer(self) -> EpisodeBuffer:
        """As Minari writes it."""
        observations = [*self.observations, self.led_to]
        if isinstance(self.led_to, dict):
            stacked: Any = {key: np.stack([np.asarray(each[key]) for each in observations]) for key in self.led_to}
        else:
            stacked = np.stack(observations)
        flat: dict[str, Any] = {key: np.array(getattr(self, key)) for key in ("rewards", "terminations", "truncations")}
        return EpisodeBuffer(observations=stacked, actions=np.stack(self.actions), **flat)  # type: ignore[arg-type]


def _of_env(tree: Any, k: int) -> Any:
    return tree_map(lambda array: np.array(array[k]), dict(tree) if isinstance(tree, dict) else tree)
