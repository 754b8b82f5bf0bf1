"""
What an agent does in an environment becomes a Minari dataset.
"""

import warnings
from collections.abc import Callable
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
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecTransposeImage
from tqdm import tqdm

from sb3_genpolicy.common.datasets.columns import PATIENCE
from sb3_genpolicy.common.datasets.env_specs import writable
from sb3_genpolicy.common.datasets.envs import check_env, named_env
from sb3_genpolicy.common.datasets.recorded_steps import EpisodeTap, row_of, tapped
from sb3_genpolicy.common.datasets.vec_wrappers import layers, statistics_at_rest
from sb3_genpolicy.common.transitions.transitions import check_reference_scores
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

    Observations and rewards are recorded as the environment gives them, and actions as it gets them, whatever wrappers of SB3
    (``VecNormalize``, ``VecFrameStack``, ...) the agent sees it through; their statistics stay as they are. Gymnasium's
    wrappers are a part of the environment. Steps that were recorded before an error or an interrupt are kept.

    :param policy: an SB3 algorithm or policy, anything else with ``predict``, or a function from an observation to an action
    :param env: environment, vectorised or not, or its id; None: the agent's own
    :param dataset_id: ``(namespace/)name-v0``, not taken yet
    :param n_steps: number of steps, over all copies of the environment; episodes that are under way then are cut off
    :param n_episodes: number of episodes in place of ``n_steps``, shared out evenly, so that short ones do not win
    :param deterministic: whether the agent acts without its noise
    :param seed: of the environment and the agent's noise, a whole number >= 0; it is set for Python, numpy and torch
    :param reference_scores: returns that count as normalised scores of 0 and 100
    :param algorithm_name: name of what acted, the agent's class by default
    :param author: who records
    :param description: what the dataset is
    :param jpeg_encoding: whether images are compressed with loss
    :return: the dataset
    :raises ValueError: if neither or both of ``n_steps`` and ``n_episodes`` are given, the id is taken or malformed, actions
        are not continuous, or gymnasium normalises by statistics that change on the way
    """
    if (n_steps is None) == (n_episodes is None):
        raise ValueError("Say how much to record: either n_steps or n_episodes.")
    check_number("n_steps" if n_episodes is None else "n_episodes", n_steps if n_episodes is None else n_episodes, low=1)
    _check_id(dataset_id)
    scores = None if reference_scores is None else check_reference_scores(reference_scores)
    acted_in = _env_of(policy, env)
    recorded = layers(acted_in)[-1]
    if not isinstance(recorded.action_space, spaces.Box):
        raise ValueError(f"Actions are in {recorded.action_space}; only continuous actions (a Box space) are recorded.")
    _check_not_normalized(recorded)
    writer = _DatasetWriter(
        dataset_id,
        recorded,
        dict(
            algorithm_name=algorithm_name or type(policy).__name__,
            author=author,
            description=description,
            jpeg_encoding=jpeg_encoding,
        ),
        scores,
    )
    if seed is not None:
        acted_in.seed(seed)
        # Python's, numpy's and torch's generators; an agent's own training is left alone
        set_random_seed(seed)
    try:
        with tqdm(total=n_steps or n_episodes, desc=f"recording {dataset_id}", delay=PATIENCE, leave=False) as bar:
            tap = EpisodeTap(recorded, n_steps, n_episodes, writer.add, bar.update)
            with statistics_at_rest(acted_in), tapped(acted_in, tap) as env:
                _Recorder(policy, env, tap, deterministic).run()
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
        # SB3's policies turn images themselves, others get them as the environment gives them
        while isinstance(env, VecTransposeImage):
            env = env.venv
        return env
    check_env(env)
    made = named_env(env) if isinstance(env, (str, EnvSpec)) else env
    return DummyVecEnv([lambda: made])


def _check_not_normalized(env: VecEnv) -> None:
    """What SB3's wrappers change, is looked through; gymnasium's are inside the environment."""
    for wrapper in (gym.wrappers.NormalizeObservation, gym.wrappers.NormalizeReward):
        if any(env.env_is_wrapped(wrapper)):
            raise ValueError(
                f"The environment is wrapped in gymnasium's {wrapper.__name__}, whose statistics change while it is recorded: "
                "every row would have a scale of its own. Record it without; for agents there is SB3's VecNormalize."
            )


class _DatasetWriter:
    """
    Gathers episodes, and writes them when there are many.
    """

    def __init__(self, dataset_id: str, env: VecEnv, metadata: dict[str, Any], reference_scores: tuple[float, float] | None):
        self.dataset_id, self.env, self.metadata = dataset_id, env, metadata
        self.spec = writable(env.get_attr("spec")[0], f"Dataset '{dataset_id}'")
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
                    # Minari would make it, which its id alone is not enough for
                    env=None if self.spec is None or self.spec.entry_point is None else self.spec,
                    observation_space=self.env.observation_space,
                    action_space=self.env.action_space,
                    **{key: value for key, value in self.metadata.items() if value is not None},
                )
            if self.spec is not None and self.spec.entry_point is None:
                self.dataset.storage.update_metadata(dict(env_spec=self.spec.to_json()))
            if self.reference_scores is not None:
                # Given to Minari above, they would be lost where the environment has no specification
                low, high = self.reference_scores
                self.dataset.storage.update_metadata(dict(ref_min_score=float(low), ref_max_score=float(high)))
        self.episodes = []


class _Recorder:
    """
    Lets a policy act in an environment whose steps are written down further inside.
    """

    def __init__(self, policy: Any, env: VecEnv, tap: EpisodeTap, deterministic: bool):
        self.policy, self.env, self.tap, self.deterministic = policy, env, tap, deterministic
        self.state: Any = None
        self.starts = np.ones(env.num_envs, dtype=bool)

    def run(self) -> None:
        try:
            observations: Any = self.env.reset()
            while self.tap.wants_more:
                n_seen = self.tap.n_seen
                observations, _, self.starts, _ = self.env.step(self._act(observations))
                if self.tap.n_seen == n_seen:
                    raise ValueError(
                        f"{type(self.env).__name__} does not step the environment that it is around, which leaves nothing to "
                        "record: give that environment itself."
                    )
        finally:
            # What is under way is cut off, after an error too
            self.tap.cut()

    def _act(self, observations: Any) -> np.ndarray:
        if hasattr(self.policy, "predict"):
            actions, self.state = self.policy.predict(
                observations, state=self.state, episode_start=self.starts, deterministic=self.deterministic
            )
        else:
            actions = np.stack([np.asarray(self.policy(row_of(observations, k))) for k in range(self.env.num_envs)])
        space = self.env.action_space
        if not isinstance(space, spaces.Box):
            # A wrapper that makes continuous actions of others
            return np.asarray(actions)
        actions = np.asarray(actions, dtype=space.dtype).reshape(self.env.num_envs, *space.shape)
        return np.clip(actions, space.low, space.high)
