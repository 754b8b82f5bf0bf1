"""
Episodes written the way each source of data keeps them, by its own library where it has one.
"""

import itertools
from typing import NamedTuple

import h5py
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl

_NUMBERS = itertools.count()


class Episode(NamedTuple):
    """T steps: observations (T + 1, obs_dim), actions (T, action_dim), rewards (T,), and whether the environment ended it."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool

    @property
    def steps(self):
        return len(self.rewards)

    @property
    def is_last(self):
        return np.arange(self.steps) == self.steps - 1

    @property
    def terminals(self):
        return self.is_last & self.terminated

    @property
    def timeouts(self):
        return self.is_last & (not self.terminated)


def make_episodes(lengths=(5, 6, 7, 8), obs_dim=3, action_dim=2, seed=0):
    """Every other one terminated. Observation 0 counts steps, so that a transition across an episode's end shows."""
    rng = np.random.default_rng(seed)
    episodes = []
    for number, length in enumerate(lengths):
        observations = rng.normal(size=(length + 1, obs_dim)).astype(np.float32)
        observations[:, 0] = 100 * number + np.arange(length + 1)
        actions = rng.uniform(-1, 1, (length, action_dim)).astype(np.float32)
        episodes.append(Episode(observations, actions, rng.normal(size=length).astype(np.float32), number % 2 == 0))
    return episodes


def joined(episodes, column):
    return np.concatenate([column(episode) for episode in episodes])


def flat_columns(episodes):
    """A row for each step: D4RL's names."""
    return dict(
        observations=joined(episodes, lambda e: e.observations[:-1]),
        next_observations=joined(episodes, lambda e: e.observations[1:]),
        actions=joined(episodes, lambda e: e.actions),
        rewards=joined(episodes, lambda e: e.rewards),
        terminals=joined(episodes, lambda e: e.terminals),
        timeouts=joined(episodes, lambda e: e.timeouts),
    )


def without(columns, *keys):
    return {key: column for key, column in columns.items() if key not in keys}


def trajectory_columns(episodes):
    """OGBench's raw layout: every trajectory has its last observation as a row, whose action leads nowhere."""

    def with_last(column, filler):
        return joined(episodes, lambda e: np.concatenate([column(e), np.full((1, *column(e).shape[1:]), filler)]))

    return dict(
        observations=joined(episodes, lambda e: e.observations),
        actions=with_last(lambda e: e.actions, 0.5).astype(np.float32),
        rewards=with_last(lambda e: e.rewards, 7.0).astype(np.float32),
        masks=with_last(lambda e: 1.0 - e.terminals, 1.0),
        terminals=joined(episodes, lambda e: np.arange(e.steps + 1) == e.steps).astype(np.float32),
    )


def write_hdf5(path, columns):
    with h5py.File(path, "w") as file:
        for key, column in columns.items():
            file.create_dataset(key, data=column, compression="gzip")
    return path


def write_npz(path, columns, compressed=False):
    (np.savez_compressed if compressed else np.savez)(path, **columns)
    return path


def spaces_of(episodes):
    shape = episodes[0].observations.shape[1:]
    return spaces.Box(-np.inf, np.inf, shape, np.float32), spaces.Box(-1, 1, episodes[0].actions.shape[1:], np.float32)


def episode_buffer(episode, **changes):
    fields = dict(
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=episode.terminals,
        truncations=episode.timeouts,
    )
    return EpisodeBuffer(**{**fields, **changes})


def write_minari(episodes, data_format="hdf5", reference_scores=None):
    observation_space, action_space = spaces_of(episodes)
    name = f"test/written{next(_NUMBERS)}-v0"
    dataset = minari.create_dataset_from_buffers(
        name,
        [episode_buffer(episode) for episode in episodes],
        observation_space=observation_space,
        action_space=action_space,
        data_format=data_format,
    )
    if reference_scores is not None:
        dataset.storage.update_metadata(dict(zip(("ref_min_score", "ref_max_score"), reference_scores, strict=True)))
    return name


def fill_sb3_buffer(episodes, buffer, key=None):
    """As SB3's own loop does: one step at a time, time limits in the infos."""
    for episode in episodes:
        for step in range(episode.steps):
            observation, following = episode.observations[step][None], episode.observations[step + 1][None]
            if key is not None:
                observation, following = {key: observation}, {key: following}
            done, cut = episode.is_last[step], episode.timeouts[step]
            infos = [{"TimeLimit.truncated": bool(cut)}]
            buffer.add(observation, following, episode.actions[step][None], episode.rewards[step], np.array([done]), infos)
    return buffer


def sb3_buffer(episodes, cls=ReplayBuffer):
    observation_space, action_space = spaces_of(episodes)
    key = "state" if cls is DictReplayBuffer else None
    space = spaces.Dict({"state": observation_space}) if key else observation_space
    size = sum(episode.steps for episode in episodes) + 3
    return fill_sb3_buffer(episodes, cls(size, space, action_space, device="cpu"), key)


def write_pickle(path, episodes, cls=ReplayBuffer):
    save_to_pkl(path, sb3_buffer(episodes, cls))
    return path


#: Name -> from episodes and an empty folder to a source that has every step of them
WHOLE_FORMATS = {
    "mapping": lambda episodes, folder: flat_columns(episodes),
    "npz": lambda episodes, folder: write_npz(folder / "own.npz", flat_columns(episodes), compressed=True),
    "npz of RL Unplugged": lambda episodes, folder: write_npz(
        folder / "unplugged.npz",
        dict(
            without(flat_columns(episodes), "terminals", "timeouts"),
            masks=1.0 - joined(episodes, lambda e: e.terminals),
            done_floats=joined(episodes, lambda e: e.is_last).astype(np.float32),
        ),
    ),
    "npz with short names": lambda episodes, folder: write_npz(
        folder / "short.npz",
        dict(
            obs=joined(episodes, lambda e: e.observations[:-1]),
            action=joined(episodes, lambda e: e.actions),
            reward=joined(episodes, lambda e: e.rewards)[:, None],
            next_obs=joined(episodes, lambda e: e.observations[1:]),
            done=joined(episodes, lambda e: e.is_last),
            truncated=joined(episodes, lambda e: e.timeouts),
        ),
    ),
    "OGBench, raw": lambda episodes, folder: write_npz(folder / "ogbench.npz", trajectory_columns(episodes)),
    "OGBench, compact": lambda episodes, folder: write_npz(
        folder / "compact.npz",
        dict(
            trajectory_columns(episodes),
            valids=joined(episodes, lambda e: np.arange(e.steps + 1) < e.steps).astype(np.float32),
            terminals=joined(episodes, lambda e: np.arange(e.steps + 1) >= e.steps - 1).astype(np.float32),
        ),
    ),
    "OGBench, regular": lambda episodes, folder: dict(
        without(flat_columns(episodes), "timeouts"),
        masks=1.0 - joined(episodes, lambda e: e.terminals),
        terminals=joined(episodes, lambda e: e.is_last).astype(np.float32),
    ),
    "D4RL": lambda episodes, folder: write_hdf5(folder / "d4rl.hdf5", flat_columns(episodes)),
    "Minari, HDF5": lambda episodes, folder: write_minari(episodes),
    "Minari, Arrow": lambda episodes, folder: write_minari(episodes, "arrow"),
    "Minari, Parquet": lambda episodes, folder: write_minari(episodes, "parquet"),
    "ReplayBuffer": lambda episodes, folder: sb3_buffer(episodes),
    "DictReplayBuffer": lambda episodes, folder: sb3_buffer(episodes, DictReplayBuffer),
    "pickle": lambda episodes, folder: write_pickle(folder / "buffer.pkl", episodes),
    "list": lambda episodes, folder: [
        write_hdf5(folder / "first.hdf5", flat_columns(episodes[:1])),
        *([flat_columns(episodes[1:])] if len(episodes) > 1 else []),
    ],
}


#: Sources whose rows can stay on a disk
FILE_FORMATS = [name for name in WHOLE_FORMATS if "npz" in name or "Minari" in name or name in ("D4RL", "OGBench, raw")]
