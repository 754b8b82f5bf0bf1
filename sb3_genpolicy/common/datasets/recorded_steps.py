"""
The steps of an environment as they happen, below all that an agent sees it through.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from minari.data_collector.episode_buffer import EpisodeBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_genpolicy.common.datasets.vec_wrappers import layers
from sb3_genpolicy.common.utils import attributes, tree_map


class EpisodeTap(VecEnvWrapper):
    """
    Passes everything on, and keeps a copy of what the environment gave and got: wrappers above it may change theirs in place.

    :param venv: the innermost vectorised environment
    :param n_steps: steps to keep, over all copies of the environment
    :param n_episodes: episodes to keep in place of ``n_steps``, shared out evenly over the copies
    :param keep: takes an episode that has ended
    :param count: called at every step, or end of an episode, that counts
    """

    def __init__(
        self,
        venv: VecEnv,
        n_steps: int | None,
        n_episodes: int | None,
        keep: Callable[[EpisodeBuffer], None],
        count: Callable[[], Any],
    ):
        super().__init__(venv)
        # Episodes that each copy still has to give; steps that all of them still have to
        self.quota = np.array([((n_episodes or 0) + k) // venv.num_envs for k in range(venv.num_envs)])
        self.left = n_steps or 0
        self.keep, self.count = keep, count
        self.n_seen = 0
        self.actions = np.zeros(0)
        self.seen: list[Any] = []
        self.open = [_OpenEpisode() for _ in range(venv.num_envs)]

    @property
    def wants_more(self) -> bool:
        return self.left > 0 or bool(self.quota.any())

    def reset(self) -> Any:
        # Episodes that a wrapper breaks off
        self.cut()
        observations: Any = self.venv.reset()
        self.seen = [row_of(observations, k) for k in range(self.num_envs)]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = np.array(actions, dtype=self.action_space.dtype)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.n_seen += 1
        following = [row_of(observations, k) for k in range(self.num_envs)]
        for k in range(self.num_envs):
            if self.left > 0 or self.quota[k] > 0:
                led_to = infos[k]["terminal_observation"] if dones[k] else following[k]
                truncated = bool(infos[k].get("TimeLimit.truncated", False))
                self.open[k].add(self.seen[k], self.actions[k], float(rewards[k]), bool(dones[k]), truncated, led_to)
                self._count(k, bool(dones[k]))
        self.seen = following
        return observations, rewards, dones, infos

    def _count(self, k: int, done: bool) -> None:
        if done:
            self.keep(self.open[k].buffer())
            self.open[k] = _OpenEpisode()
        if self.left > 0:
            self.left -= 1
            self.count()
        elif done:
            self.quota[k] -= 1
            self.count()

    def cut(self) -> None:
        """
        End the episodes that are under way.
        """
        for k, episode in enumerate(self.open):
            if episode.rewards:
                episode.truncations[-1] = True
                self.keep(episode.buffer())
                self.open[k] = _OpenEpisode()


@contextmanager
def tapped(env: VecEnv, tap: EpisodeTap) -> Iterator[VecEnv]:
    """
    :param env: an environment with any wrappers
    :param tap: around its innermost environment
    :return: a context in which the tap lies below the wrappers; the environment to step in it
    """
    *wrappers, _ = layers(env)
    if not wrappers:
        yield tap
        return
    with attributes(wrappers[-1], venv=tap):
        yield env


class _OpenEpisode:
    """
    The steps of an episode so far, and the observation that the last of them led to.
    """

    def __init__(self) -> None:
        self.observations: list[Any] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.terminations: list[bool] = []
        self.truncations: list[bool] = []
        self.led_to: Any = None

    def add(self, observation: Any, action: np.ndarray, reward: float, done: bool, truncated: bool, led_to: Any) -> None:
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(reward)
        self.terminations.append(done and not truncated)
        self.truncations.append(done and truncated)
        self.led_to = led_to

    def buffer(self) -> EpisodeBuffer:
        """As Minari writes it."""
        observations = [*self.observations, self.led_to]
        if isinstance(self.led_to, dict):
            stacked: Any = {key: np.stack([each[key] for each in observations]) for key in self.led_to}
        else:
            stacked = np.stack(observations)
        flat: dict[str, Any] = {key: np.array(getattr(self, key)) for key in ("rewards", "terminations", "truncations")}
        return EpisodeBuffer(observations=stacked, actions=np.stack(self.actions), **flat)  # type: ignore[arg-type]


def row_of(tree: Any, k: int) -> Any:
    """
    :param tree: observations of all copies of an environment, (n_envs, \\*shape) or a dictionary of such arrays
    :param k: number of a copy
    :return: a copy of what that one saw
    """
    return tree_map(lambda array: np.array(array[k]), dict(tree) if isinstance(tree, Mapping) else tree)
