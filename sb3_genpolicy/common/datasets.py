"""
Every source of logged data becomes one :class:`~sb3_genpolicy.common.transitions.Transitions` record.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Union

import minari
import numpy as np
from gymnasium import spaces
from minari import MinariDataset
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy.common.buffers import OfflineReplayBuffer
from sb3_genpolicy.common.dataset_checks import ACTION_TOLERANCE, check_transitions, infer_observation_space, shaped
from sb3_genpolicy.common.transitions import KEYS, Arrays, Transitions
from sb3_genpolicy.common.utils import tree_map
from sb3_genpolicy.generative.checks import did_you_mean

#: What a dataset can be given as, see :func:`load_dataset`
DatasetSource = Union[str, MinariDataset, ReplayBuffer, Mapping[str, Any], Transitions]  # noqa: UP007

#: Datasets that ship with the package: name -> file in ``sb3_genpolicy/data``
EMBEDDED = {"pendulum-mixed": "pendulum_mixed.npz"}

_REQUIRED = tuple(key for key in KEYS if key != "timeouts")
_OPTIONAL = ("timeouts", "observation_space", "action_space")


def load_dataset(source: DatasetSource) -> Transitions:
    """
    Read logged data, whatever holds them, and check them.

    :param source: one of

        - the id of a local Minari dataset (``"mujoco/hopper/medium-v0"``), or a Minari dataset object;
        - the name of a dataset that ships with the package: ``"pendulum-mixed"``;
        - an SB3 ``ReplayBuffer`` or ``DictReplayBuffer``, whose scaled actions are brought back to the environment's units;
        - a mapping of arrays with the keys ``observations``, ``actions``, ``rewards``, ``next_observations``, ``terminals``
          and, if episodes were cut off, ``timeouts``; also ``observation_space`` and ``action_space`` where they cannot be
          seen from the arrays (bounds of the actions other than -1 and 1);
        - a ``Transitions`` record.
    :return: the record
    :raises ValueError: if there is no such dataset, or it is empty, misshapen, non-finite or has actions outside their bounds
    :raises TypeError: if the source is of no kind known
    """
    if isinstance(source, Transitions):
        return check_transitions(source)
    if isinstance(source, str):
        return check_transitions(_read_embedded(source) if source in EMBEDDED else _read_minari(open_minari(source)))
    if isinstance(source, MinariDataset):
        return check_transitions(_read_minari(source))
    if isinstance(source, ReplayBuffer):
        return check_transitions(_read_buffer(source))
    if isinstance(source, Mapping):
        return check_transitions(_read_mapping(source))
    raise TypeError(
        f"A dataset cannot be a {type(source).__name__}: give a Minari id or dataset, the name of an embedded dataset "
        f"({', '.join(EMBEDDED)}), an SB3 replay buffer, or a mapping with the keys {', '.join(_REQUIRED)}."
    )


def dataset_spaces(source: DatasetSource) -> tuple[spaces.Space, spaces.Space]:
    """
    The spaces of a dataset, without reading the rows of a Minari dataset.

    :param source: as for :func:`load_dataset`
    :return: observation space and action space
    """
    if isinstance(source, str) and source not in EMBEDDED:
        source = open_minari(source)
    if isinstance(source, (MinariDataset, ReplayBuffer, Transitions)):
        return source.observation_space, source.action_space
    data = load_dataset(source)
    return data.observation_space, data.action_space


def local_datasets_for(env_id: str | None) -> list[str]:
    """
    :param env_id: an environment's id, or None for all
    :return: the datasets on this machine that were recorded in that environment (in any version of it)
    """
    names = []
    if env_id is None or _same_env(env_id, "Pendulum-v1"):
        names += list(EMBEDDED)
    for name, metadata in minari.list_local_datasets().items():
        env_spec = metadata.get("env_spec")
        recorded = json.loads(env_spec)["id"] if isinstance(env_spec, str) else None
        if env_id is None or (recorded is not None and _same_env(env_id, recorded)):
            names.append(name)
    return names


def _same_env(env_id: str, other: str) -> bool:
    return env_id.rsplit("-v", 1)[0] == other.rsplit("-v", 1)[0]


def open_minari(name: str) -> MinariDataset:
    try:
        return minari.load_dataset(name)
    except FileNotFoundError as error:
        installed = local_datasets_for(None)
        raise ValueError(
            f"There is no dataset '{name}' on this machine, which has {', '.join(installed)}. "
            f"A Minari dataset is fetched by `minari download {name}`; ids end in a version: 'mujoco/hopper/medium-v0'."
        ) from error


def _read_minari(dataset: MinariDataset) -> Transitions:
    observation_space, action_space = dataset.observation_space, dataset.action_space
    label = f"Dataset '{dataset.spec.dataset_id}'"
    parts = list(observation_space.spaces.values()) if isinstance(observation_space, spaces.Dict) else [observation_space]
    if any(isinstance(space, (spaces.Dict, spaces.Tuple)) for space in parts):
        raise ValueError(f"{label} has nested or tuple observations, {observation_space}: flatten them first.")
    if not isinstance(action_space, spaces.Box):
        raise ValueError(f"{label} has actions in {action_space}; only continuous actions (a Box space) can be learnt.")

    columns: dict[str, list[Any]] = {key: [] for key in KEYS}
    for episode in dataset.iterate_episodes():
        _append_episode(columns, episode, observation_space, action_space, f"{label}, episode {episode.id}")
    if not columns["rewards"]:
        raise ValueError(f"{label} is empty: it has no episodes.")
    arrays: dict[str, Any] = {key: _concatenate(column) for key, column in columns.items()}
    if len(arrays["rewards"]) != dataset.total_steps:
        raise ValueError(
            f"{label} says that it has {dataset.total_steps} steps, but its episodes have {len(arrays['rewards'])}: "
            "its file is damaged; download or record it again."
        )
    env_spec, scores = dataset.env_spec, dataset.storage.metadata
    low, high = scores.get("ref_min_score"), scores.get("ref_max_score")
    return Transitions(
        **arrays,
        observation_space=observation_space,
        action_space=action_space,
        name=dataset.spec.dataset_id,
        env_id=env_spec.id if env_spec is not None else None,
        reference_scores=(float(low), float(high)) if low is not None and high is not None else None,  # type: ignore[arg-type]
    )


def _append_episode(
    columns: dict[str, list[Any]], episode: Any, observation_space: spaces.Space, action_space: spaces.Box, label: str
) -> None:
    """A Minari episode has one observation more than steps: the last is only ever a next observation."""
    steps = len(episode.rewards)
    if steps == 0:
        return
    observations = _shaped_tree(episode.observations, observation_space, f"{label}: observations")
    for array in observations.values() if isinstance(observations, dict) else [observations]:
        if len(array) != steps + 1:
            raise ValueError(f"{label} has {steps} steps but {len(array)} observations; there should be one more than steps.")
    timeouts = np.asarray(episode.truncations, dtype=np.float32)
    if not (episode.terminations[-1] or timeouts[-1]):
        # The recording stopped here, the task did not
        timeouts[-1] = 1.0
    columns["observations"].append(tree_map(lambda array: array[:-1], observations))
    columns["next_observations"].append(tree_map(lambda array: array[1:], observations))
    columns["actions"].append(shaped(episode.actions, action_space, f"{label}: actions"))
    columns["rewards"].append(np.asarray(episode.rewards, dtype=np.float32))
    columns["terminals"].append(np.asarray(episode.terminations, dtype=np.float32))
    columns["timeouts"].append(timeouts)


def _shaped_tree(arrays: Any, space: spaces.Space, name: str) -> Arrays:
    if isinstance(space, spaces.Dict):
        if not isinstance(arrays, Mapping):
            raise ValueError(f"{name} is one array, but the observation space has the keys {', '.join(space.spaces)}.")
        missing = [key for key in space.spaces if key not in arrays]
        if missing:
            raise ValueError(f"{name} has no key '{missing[0]}'. {did_you_mean(missing[0], arrays)}")
        return {key: shaped(arrays[key], part, f"{name}[{key!r}]") for key, part in space.spaces.items()}
    return shaped(arrays, space, name)


def _concatenate(column: list[Any]) -> Arrays:
    if isinstance(column[0], dict):
        return {key: np.concatenate([part[key] for part in column]) for key in column[0]}
    return np.concatenate(column)


def _read_buffer(buffer: ReplayBuffer) -> Transitions:
    """Rows of each parallel environment follow each other, oldest first; scaled actions go back to the environment's units."""
    action_space = buffer.action_space
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"The replay buffer has actions in {action_space}; only continuous actions (a Box space) can be learnt."
        )
    if isinstance(buffer, OfflineReplayBuffer):
        raise ValueError("This replay buffer was itself filled from a dataset: pass that dataset instead.")
    n_rows, size = buffer.size(), buffer.buffer_size
    rows = (np.arange(n_rows) + (buffer.pos if buffer.full else 0)) % size
    if buffer.optimize_memory_usage and buffer.full:
        # Its slot at `pos` holds the last next observation, not a row of its own
        rows = rows[1:]

    def column(array: np.ndarray, shift: int = 0) -> np.ndarray:
        return ReplayBuffer.swap_and_flatten(array[(rows + shift) % size])

    low, high = action_space.low, action_space.high
    scaled = column(buffer.actions).reshape(-1, *action_space.shape)
    if len(scaled) and np.abs(scaled).max() > 1.0 + ACTION_TOLERANCE:
        raise ValueError(
            f"The replay buffer holds actions up to {np.abs(scaled).max():.3g} in size, but SB3 stores them scaled to "
            "[-1, 1]. Scale them with `policy.scale_action`, or pass a mapping of arrays instead."
        )
    timeouts = column(buffer.timeouts).reshape(-1)
    dones = column(buffer.dones).reshape(-1)
    terminals = dones * (1.0 - timeouts)
    _end_every_stream(terminals, timeouts, buffer.n_envs)
    observations = tree_map(column, buffer.observations)
    if buffer.optimize_memory_usage:
        next_observations = tree_map(lambda array: column(array, shift=1), buffer.observations)
    else:
        next_observations = tree_map(column, buffer.next_observations)
    return Transitions(
        observations=_shaped_tree(observations, buffer.observation_space, "observations"),
        actions=(low + 0.5 * (scaled.astype(np.float32) + 1.0) * (high - low)).astype(np.float32),
        rewards=column(buffer.rewards).reshape(-1),
        next_observations=_shaped_tree(next_observations, buffer.observation_space, "next_observations"),
        terminals=terminals,
        timeouts=timeouts,
        observation_space=buffer.observation_space,
        action_space=action_space,
    )


def _end_every_stream(terminals: np.ndarray, timeouts: np.ndarray, n_streams: int) -> None:
    """Where the rows of one recording stop without an end of the episode, the recording was cut off."""
    last = np.arange(1, n_streams + 1) * (len(terminals) // n_streams) - 1
    if len(terminals):
        timeouts[last] = np.where(terminals[last] > 0, timeouts[last], 1.0)


def _read_mapping(mapping: Mapping[str, Any]) -> Transitions:
    for key in mapping:
        if key not in _REQUIRED + _OPTIONAL and not key.startswith(("infos", "metadata")):
            raise ValueError(f"The dataset's key '{key}' is unknown. {did_you_mean(key, _REQUIRED + _OPTIONAL)}")
    for key in _REQUIRED:
        if key not in mapping:
            raise ValueError(
                f"The dataset has no key '{key}'. It needs {', '.join(_REQUIRED)}; 'timeouts' may come with them."
            )
    observation_space = mapping.get("observation_space") or infer_observation_space(mapping["observations"])
    action_space = mapping.get("action_space") or _infer_action_space(mapping["actions"])
    flags: dict[str, Any] = {}
    for key in ("rewards", "terminals", "timeouts"):
        array = np.array(mapping.get(key, np.zeros(len(mapping["rewards"]))), dtype=np.float32)
        if array.ndim == 0 or array.size != len(array):
            raise ValueError(f"'{key}' has shape {array.shape}; it needs one number for each step.")
        flags[key] = array.reshape(-1)
    if len(flags["terminals"]) == len(flags["timeouts"]):
        _end_every_stream(flags["terminals"], flags["timeouts"], 1)
    return Transitions(
        observations=_shaped_tree(mapping["observations"], observation_space, "observations"),
        next_observations=_shaped_tree(mapping["next_observations"], observation_space, "next_observations"),
        actions=shaped(mapping["actions"], action_space, "actions"),
        **flags,
        observation_space=observation_space,
        action_space=action_space,
    )


def _infer_action_space(actions: Any) -> spaces.Box:
    actions = np.asarray(actions)
    if actions.dtype.kind not in "f":
        raise ValueError(
            f"The actions are of type {actions.dtype}; only continuous (floating-point) actions can be learnt. "
            "If they are continuous, give 'action_space' in the mapping."
        )
    if actions.size and np.isfinite(actions).all() and np.abs(actions).max() > 1.0 + ACTION_TOLERANCE:
        raise ValueError(
            f"The actions reach {np.abs(actions).max():.4g} in size and the mapping does not say what their bounds are: "
            "add 'action_space', a gymnasium.spaces.Box with the lowest and the highest action."
        )
    return spaces.Box(-1.0, 1.0, actions.shape[1:] or (1,), np.float32)


def _read_embedded(name: str) -> Transitions:
    """Episodes are stored with their last observation, as in Minari, so that no observation is stored twice."""
    with (resources.files("sb3_genpolicy") / "data" / EMBEDDED[name]).open("rb") as file, np.load(file) as stored:
        lengths = stored["lengths"]
        last = np.cumsum(lengths + 1) - 1
        is_last = np.zeros(len(stored["observations"]), dtype=bool)
        is_last[last] = True
        is_first = np.roll(is_last, 1)
        ends = np.zeros(lengths.sum(), dtype=np.float32)
        ends[np.cumsum(lengths) - 1] = 1.0
        metadata = json.loads(str(stored["metadata"]))
        bound = np.asarray(metadata["observation_bound"], dtype=np.float32)
        low, high = metadata["action_bounds"]
        return Transitions(
            observations=stored["observations"][~is_last],
            next_observations=stored["observations"][~is_first],
            actions=stored["actions"],
            rewards=stored["rewards"],
            terminals=np.zeros_like(ends),
            timeouts=ends,
            observation_space=spaces.Box(-bound, bound, dtype=np.float32),
            action_space=spaces.Box(low, high, shape=stored["actions"].shape[1:], dtype=np.float32),
            name=name,
            env_id=metadata["env_id"],
            reference_scores=tuple(metadata["reference_scores"]),
        )
