"""
Minari datasets, local and remote, in any storage.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari import MinariDataset
from tqdm import tqdm

from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.checks import (
    check_action_bounds,
    check_finite,
    check_members,
    check_spaces,
    shaped,
    storage_dtype,
    stored_shape,
)
from sb3_genpolicy.common.datasets.names import Known
from sb3_genpolicy.common.transitions import Transitions
from sb3_genpolicy.common.utils import space_items, tree_items
from sb3_genpolicy.generative.checks import did_you_mean

# A bar is shown of what takes longer, in seconds
_PATIENCE = 2.0


def read_minari(dataset: MinariDataset, writer: ArrayWriter, known: Known = Known()) -> Transitions:  # noqa: B008
    """
    Episodes follow each other; an episode has one observation more than steps, which only its last step leads to.

    :param dataset: the dataset
    :param writer: where the arrays go
    :param known: what is done to its actions; all else the dataset says itself
    :return: the record, checked
    :raises ValueError: if an episode is damaged, misshapen, empty, or holds what no episode may hold
    """
    reader = _EpisodeReader(dataset, known)
    check_spaces(reader.observation_space, reader.action_space, reader.label)
    n_rows, n_episodes = dataset.total_steps, dataset.total_episodes
    if n_episodes == 0 or n_rows == 0:
        raise ValueError(f"{reader.label} is empty: it has no steps to learn from.")
    parts = space_items(reader.observation_space, "observations")
    states = {
        name: writer.allocate(name, (n_rows + n_episodes, *stored_shape(space)), storage_dtype(space)) for name, space in parts
    }
    actions = writer.allocate("actions", (n_rows, *reader.action_space.shape), np.float32)
    flat = ("rewards", "terminals", "timeouts")
    rewards, terminals, timeouts = (writer.allocate(key, (n_rows,), np.float32) for key in flat)
    next_rows = writer.allocate("next_rows", (n_rows,), np.int64)

    start = 0
    for number, episode in enumerate(tqdm(reader.episodes(), reader.label, n_episodes, delay=_PATIENCE, leave=False)):
        end = start + len(episode["rewards"])
        if end > n_rows:
            raise ValueError(reader.miscounted())
        for name, array in tree_items(episode["observations"], "observations"):
            states[name][start:end], states[name][n_rows + number] = array[:-1], array[-1]
        actions[start:end], rewards[start:end] = episode["actions"], episode["rewards"]
        terminals[start:end], timeouts[start:end] = episode["terminations"], episode["truncations"]
        next_rows[start:end] = np.arange(start + 1, end + 1)
        next_rows[end - 1] = n_rows + number
        start = end
    if start != n_rows:
        raise ValueError(reader.miscounted())

    env_spec, metadata = dataset.env_spec, dataset.storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    is_dict = isinstance(reader.observation_space, spaces.Dict)
    return Transitions(
        states=dict(zip(reader.observation_space.spaces, states.values(), strict=True)) if is_dict else states["observations"],
        next_rows=next_rows,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=timeouts,
        observation_space=reader.observation_space,
        action_space=reader.action_space,
        name=minari_name(dataset),
        env_id=env_spec.id if env_spec is not None else None,
        reference_scores=(float(low), float(high)) if low is not None and high is not None else None,  # type: ignore[arg-type]
    )


def minari_name(dataset: MinariDataset) -> str | None:
    """
    :param dataset: a dataset
    :return: the id that it can be loaded by again, None if some of its episodes were taken out
    """
    whole = np.array_equal(dataset.episode_indices, np.arange(dataset.storage.total_episodes))
    return dataset.id if whole else None


class _EpisodeReader:
    """
    Reads episode after episode, checks each, and says in which one a fault is.
    """

    def __init__(self, dataset: MinariDataset, known: Known):
        self.dataset, self.known = dataset, known
        self.observation_space: Any = dataset.observation_space
        self.action_space: Any = dataset.action_space
        self.label = f"Dataset '{dataset.id}' ({dataset.storage.data_path})"

    def episodes(self) -> Iterator[dict[str, Any]]:
        """Observations (steps + 1, ...), the rest (steps, ...), as they are stored."""
        indices = [int(index) for index in self.dataset.episode_indices]
        for index, raw in zip(indices, self._raw_episodes(indices), strict=False):
            yield self._checked(raw, f"{self.label}, episode {index}")

    def _raw_episodes(self, indices: list[int]) -> Iterator[dict[str, Any]]:
        done = 0
        try:
            for raw in self.dataset.storage.get_episodes(indices):
                yield raw
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

    def _checked(self, raw: dict[str, Any], label: str) -> dict[str, Any]:
        steps = len(raw["rewards"])
        if steps == 0:
            raise ValueError(f"{label} has no steps: remove it from the dataset.")
        actions = shaped(raw["actions"], self.action_space, f"{label}: actions")
        episode = {"actions": self.known.transformed(actions, self.action_space)}
        episode["observations"] = self._observations(raw["observations"], label)
        for name, array in tree_items(episode["observations"], "observations"):
            if len(array) != steps + 1:
                raise ValueError(
                    f"{label} has {steps} steps but {len(array)} {name}; there should be one more than steps. {self._cut()}"
                )
        for key in ("rewards", "terminations", "truncations"):
            episode[key] = shaped(raw[key], _NUMBER, f"{label}: {key}")[:, 0]
        for key in ("actions", "terminations", "truncations"):
            if len(episode[key]) != steps:
                raise ValueError(f"{label} has {steps} rewards but {len(episode[key])} {key}; there should be as many.")
        self._check_values(episode, label)
        for key in ("terminations", "truncations"):
            early = np.flatnonzero(episode[key][:-1])
            if len(early):
                raise ValueError(
                    f"{label}: {key} is set at row {early[0]} of {steps}, inside the episode: it may be set in the last row "
                    "alone. Split the episode there."
                )
        if not (episode["terminations"][-1] or episode["truncations"][-1]):
            # The recording stopped here, the task did not
            episode["truncations"][-1] = 1.0
        return episode

    def _observations(self, observations: Any, label: str) -> Any:
        space = self.observation_space
        if not isinstance(space, spaces.Dict):
            return shaped(observations, space, f"{label}: observations")
        for key in space.spaces:
            if key not in observations:
                raise ValueError(f"{label}: observations has no key '{key}'. {did_you_mean(key, observations)}")
        return {key: shaped(observations[key], part, f"{label}: observations[{key!r}]") for key, part in space.spaces.items()}

    def _check_values(self, episode: dict[str, Any], label: str) -> None:
        def row(number: int) -> str:
            return f"row {number}"

        parts = dict(space_items(self.observation_space, "observations"))
        for name, array in [*tree_items(episode["observations"], "observations"), *episode.items()]:
            if not isinstance(array, dict):
                check_finite(array, f"{label}: {name}", row)
        for name, array in tree_items(episode["observations"], "observations"):
            check_members(array, parts[name], f"{label}: {name}", row)
        for key in ("terminations", "truncations"):
            check_members(episode[key], spaces.MultiBinary(1), f"{label}: {key}", row)
        check_action_bounds(episode["actions"], self.action_space, f"{label}: actions", row)

    def _cut(self) -> str:
        if type(self.dataset.storage).FORMAT == "hdf5":
            return ""
        return "Minari's Arrow storage cuts episodes of more than 32,767 steps when it reads them: store them as HDF5."

    def miscounted(self) -> str:
        """The sentence for a file whose episodes are not as long as its metadata say, with the first of them."""
        indices = [int(index) for index in self.dataset.episode_indices]
        total = sum(len(raw["rewards"]) for raw in self._raw_episodes(indices))
        says = f"{self.label} says that it has {self.dataset.total_steps} steps, but its episodes have {total}"
        metadata = self.dataset.storage.get_episode_metadata(indices)
        for index, meta, raw in zip(indices, metadata, self._raw_episodes(indices), strict=False):
            if int(meta["total_steps"]) != len(raw["rewards"]):
                says = (
                    f"{self.label}, episode {index} has {len(raw['rewards'])} steps where {meta['total_steps']} were recorded"
                )
                break
        return f"{says}: the file is damaged; fetch or record it again. {self._cut()}".rstrip()


_NUMBER = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def same_env(env_id: str, other: str) -> bool:
    """
    :param env_id: an environment's id
    :param other: another's
    :return: whether they are versions of one environment
    """
    return env_id.rsplit("-v", 1)[0] == other.rsplit("-v", 1)[0]


def local_minari_datasets(env_id: str | None) -> list[str]:
    """
    :param env_id: an environment's id, or None for all
    :return: the Minari datasets on this machine that were recorded in that environment (in any version of it)
    """
    names = []
    for name, metadata in minari.list_local_datasets().items():
        env_spec = metadata.get("env_spec")
        recorded = json.loads(env_spec)["id"] if isinstance(env_spec, str) else None
        if env_id is None or (recorded is not None and same_env(env_id, recorded)):
            names.append(name)
    return names
