"""
Episodes of a Minari dataset, some at a time, checked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from minari import MinariDataset

from sb3_genpolicy.common.datasets.checks import (
    NUMBER,
    check_action_bounds,
    check_finite,
    check_members,
    check_numeric,
    check_row_shape,
    shaped,
    stored_shape,
)
from sb3_genpolicy.common.datasets.names import Known
from sb3_genpolicy.common.datasets.value_ranges import ValueRanges
from sb3_genpolicy.common.utils import space_items
from sb3_genpolicy.generative.checks import did_you_mean

# Episodes read at a time: HDF5 keeps what it knows of each until the file is closed. Fewer where they are large.
_EPISODES, _BYTES = 256, 2**22
_FLAG = spaces.MultiBinary(1)
_FLAT = ("rewards", "terminations", "truncations")


@dataclass(frozen=True)
class Episodes:
    """
    Some episodes one after the other, as they are stored.

    :param lengths: (n_episodes,), steps of each
    :param observations: name of the space's part -> (n_steps + n_episodes, \\*shape)
    :param actions: (n_steps, \\*shape), in the environment's units
    :param rewards: (n_steps,)
    :param terminations: (n_steps,)
    :param truncations: (n_steps,), set at the end of every episode that nothing else ended
    """

    lengths: np.ndarray
    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray

    @property
    def n_steps(self) -> int:
        return len(self.rewards)

    @property
    def is_last_observation(self) -> np.ndarray:
        """
        :return: (n_steps + n_episodes,), whether an observation is only what its episode's last step led to
        """
        is_last = np.zeros(self.n_steps + len(self.lengths), dtype=bool)
        is_last[np.cumsum(self.lengths + 1) - 1] = True
        return is_last


class EpisodeReader:
    """
    Reads episodes, checks them, and says in which one a fault is.

    :param dataset: the dataset
    :param known: what is done to its actions
    """

    def __init__(self, dataset: MinariDataset, known: Known):
        self.dataset, self.known = dataset, known
        self.observation_space: Any = dataset.observation_space
        self.action_space: Any = known.space_for(dataset.action_space)
        self.label = f"Dataset '{dataset.id}' ({dataset.storage.data_path})"
        self._indices = [int(index) for index in dataset.episode_indices]
        #: Of the observations that were read, and names of those that are read as float64
        self.ranges = ValueRanges()
        self.finer: set[str] = set()
        keys = list(self.observation_space.spaces) if isinstance(self.observation_space, spaces.Dict) else [None]
        #: Name and key of every part of an observation, and its space
        self._observed = [
            (name, key, space)
            for key, (name, space) in zip(keys, space_items(self.observation_space, "observations"), strict=True)
        ]

    def batches(self) -> Iterator[Episodes]:
        """
        :return: all episodes, some at a time
        """
        position = 0
        while position < len(self._indices):
            columns, lengths = self._collect(self._indices[position : position + _EPISODES])
            ids = self._indices[position : position + len(lengths)]
            yield self._checked(columns, np.array(lengths), ids)
            position += len(lengths)

    def _collect(self, indices: list[int]) -> tuple[dict[str, list[np.ndarray]], list[int]]:
        columns: dict[str, list[np.ndarray]] = {}
        lengths: list[int] = []
        size = 0
        for index, raw in self._raw_episodes(indices):
            parts = self._parts(raw, f"{self.label}, episode {index}")
            for key, array in parts.items():
                columns.setdefault(key, []).append(array)
                size += array.nbytes
            lengths.append(len(parts["rewards"]))
            if size > _BYTES:
                break
        return columns, lengths

    def _raw_episodes(self, indices: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        done = 0
        try:
            for raw in self.dataset.storage.get_episodes(indices):
                yield indices[done], raw
                done += 1
        except GeneratorExit:
            raise
        except Exception as error:
            # Whatever HDF5, Arrow or Minari stumble over, the file is not as Minari writes it
            episode = indices[min(done, len(indices) - 1)]
            missing = re.search(r"object '([^']+)' doesn't exist", str(error))
            what = f"has no key '{missing[1]}'" if missing else f"cannot be read ({error or type(error).__name__})"
            raise ValueError(
                f"{self.label}, episode {episode} {what}: the file is damaged; fetch or record it again."
            ) from error

    def _parts(self, raw: dict[str, Any], label: str) -> dict[str, np.ndarray]:
        """The episode's arrays by name, of the right kind, shape and length."""
        steps = len(raw["rewards"])
        if steps == 0:
            raise ValueError(f"{label} has no steps: remove it from the dataset.")
        parts = {}
        for name, key, space in self._observed:
            observations = raw["observations"]
            if key is not None and key not in observations:
                raise ValueError(f"{label}: observations has no key '{key}'. {did_you_mean(key, observations)}")
            parts[name] = _of_space(observations if key is None else observations[key], space, label, name)
            if len(parts[name]) != steps + 1:
                raise ValueError(
                    f"{label} has {steps} steps but {len(parts[name])} {name}; there should be one more than steps. "
                    f"{self._cut()}"
                )
        parts["actions"] = _of_space(raw["actions"], self.action_space, label, "actions")
        for key in _FLAT:
            parts[key] = _of_space(raw[key], NUMBER, label, key)
        for key in ("actions", *_FLAT):
            if len(parts[key]) != steps:
                raise ValueError(f"{label} has {steps} rewards but {len(parts[key])} {key}; there should be as many.")
        return parts

    def _checked(self, columns: dict[str, list[np.ndarray]], lengths: np.ndarray, ids: list[int]) -> Episodes:
        """The values of all episodes together; a fault is looked for in each."""
        joined = {key: np.concatenate(arrays) for key, arrays in columns.items()}
        observations = {name: self._stored(joined[name], space, name, lengths + 1, ids) for name, _, space in self._observed}
        for name in {"actions", *observations} - self.finer:
            self.ranges.see(name, joined[name])
        actions = self._stored(joined["actions"], self.action_space, "actions", lengths, ids)
        actions = self.known.transformed(actions, self.action_space)
        check_action_bounds(actions, self.action_space, f"{self.label}: actions", _Where(lengths, ids))
        rewards = self._stored(joined["rewards"], NUMBER, "rewards", lengths, ids)[:, 0]
        flags = {key: self._flags(joined[key], key, lengths, ids) for key in ("terminations", "truncations")}
        last = np.cumsum(lengths) - 1
        # An episode without a flag at its end was truncated by the end of the recording
        flags["truncations"][last] |= ~flags["terminations"][last]
        return Episodes(lengths, observations, actions, rewards, **flags)

    def _stored(self, array: np.ndarray, space: spaces.Space, name: str, lengths: np.ndarray, ids: list[int]) -> np.ndarray:
        dtype = np.float64 if name in self.finer else None
        stored, where = shaped(array, space, f"{self.label}: {name}", dtype), _Where(lengths, ids)
        check_finite(stored, f"{self.label}: {name}", where)
        check_members(stored, space, f"{self.label}: {name}", where)
        return stored

    def _flags(self, array: np.ndarray, key: str, lengths: np.ndarray, ids: list[int]) -> np.ndarray:
        flags = self._stored(array, _FLAG, key, lengths, ids)[:, 0] > 0
        inside = flags.copy()
        inside[np.cumsum(lengths) - 1] = False
        if inside.any():
            place = _Where(lengths, ids)(int(np.argmax(inside)))
            raise ValueError(
                f"{self.label}: {key} is set at {place}, inside the episode: it may be set in the last row alone. "
                "Split the episode there."
            )
        return flags

    def _cut(self) -> str:
        if type(self.dataset.storage).FORMAT == "hdf5":
            return ""
        return "Minari's Arrow storage cuts episodes of more than 32,767 steps when it reads them: store them as HDF5."

    def miscounted(self) -> str:
        """
        :return: the sentence for a file whose episodes are not as long as its metadata say, with the first of them
        """
        total, found = 0, ""
        metadata = self.dataset.storage.get_episode_metadata(self._indices)
        for (index, raw), meta in zip(self._raw_episodes(self._indices), metadata, strict=False):
            steps, recorded = len(raw["rewards"]), int(meta["total_steps"])
            total += steps
            if steps != recorded and not found:
                found = f"{self.label}, episode {index} has {steps} steps where {recorded} were recorded"
        found = found or f"{self.label} says that it has {self.dataset.total_steps} steps, but its episodes have {total}"
        return f"{found}: the file is damaged; fetch or record it again. {self._cut()}".rstrip()


class _Where:
    """From a row of several episodes to words."""

    def __init__(self, lengths: np.ndarray, ids: list[int]):
        self.lengths, self.ids = lengths, ids

    def __call__(self, row: int) -> str:
        starts = np.cumsum(self.lengths) - self.lengths
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return f"episode {self.ids[number]}, row {row - starts[number]} of {self.lengths[number]}"


def _of_space(array: Any, space: spaces.Space, label: str, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        check_numeric(array.dtype, f"{label}: {name}")
    if array.shape[1:] != stored_shape(space):
        check_row_shape(array.shape, space, f"{label}: {name}")
    return array
