"""
Rows of episodes, as most tools keep them, become the columns that all sources are read from.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets.columns import ArrayColumn, rows_per_chunk
from sb3_genpolicy.common.datasets.files import Relabel, relabelled
from sb3_genpolicy.common.datasets.names import Columns, Known, named_columns
from sb3_genpolicy.common.utils import tree_items, tree_map

#: Names of what `relabel=` may change; all else in its arrays is there to look at
CHANGED = ("observations", "actions", "rewards", "terminals", "next_observations")


class PickedColumn:
    """
    Some rows of an array.

    :param array: (n_rows, ...)
    :param rows: (n_picked,), which of them
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self.array, self.rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        size = rows_per_chunk(self.shape, self.dtype)
        for start in range(0, len(self.rows), size):
            yield self.array[self.rows[start : start + size]]


@dataclass
class EpisodeRows:
    """
    Rows of episodes that follow each other.

    :param observations: (n_rows, ...), or a dictionary of such arrays
    :param actions: (n_rows, ...), taken in the row
    :param rewards: (n_rows,), earned by the row's action; None where the source has none
    :param terminals: (n_rows,), whether nothing is earned after the row's action
    :param starts: (n_episodes,), the first row of every episode
    :param is_step: (n_rows,), False where a row only holds the last observation of its episode. Default: all are steps
    :param next_observations: as ``observations``, what a row's action led to, where the source says so apart
    :param beside: what else the source has for each row, for ``relabel=``
    :param place: from a row to words
    :param observation_space: where the source says it
    :param action_space: likewise
    :param env_id: likewise
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray | None
    terminals: np.ndarray
    starts: np.ndarray
    is_step: np.ndarray | None = None
    next_observations: Any = None
    beside: dict[str, Any] = field(default_factory=dict)
    place: Callable[[int], str] | None = None
    observation_space: spaces.Space | None = None
    action_space: spaces.Box | None = None
    env_id: str | None = None

    @property
    def n_rows(self) -> int:
        return len(self.actions)

    def known(self, asked: Known) -> Known:
        """
        :param asked: what :func:`~sb3_genpolicy.common.datasets.load_dataset` was told
        :return: the same with what the source says itself
        """
        own = self.action_space
        return replace(
            asked,
            observation_space=asked.observation_space or self.observation_space,
            action_space=asked.action_space if own is None else asked.space_for(own),
            env_id=self.env_id,
        )


def one_a_row(array: np.ndarray, name: str) -> np.ndarray:
    """
    :param array: (n_rows,), or with further axes of length 1
    :param name: what it is called, for the message
    :return: (n_rows,)
    :raises ValueError: if rows have several numbers
    """
    if not array.shape or any(n != 1 for n in array.shape[1:]):
        raise ValueError(f"{name} has shape {array.shape}; it needs one number for each step.")
    return array.reshape(len(array))


def join_episodes(episodes: Sequence[Mapping[str, Any]], label: str, names: Sequence[str] | None = None) -> EpisodeRows:
    """
    :param episodes: each with ``observations``, ``actions``, ``terminals`` and, where there are, ``rewards`` and
        ``next_observations``; ``observations`` may have one row more than the others
    :param label: what the source is called
    :param names: what each episode is called. Default: ``episode 3``
    :return: their rows
    :raises ValueError: if there are none, or one is misshapen
    """
    if not episodes:
        raise ValueError(f"{label} is empty: it has no episodes to learn from.")
    names = [f"episode {number}" for number in range(len(episodes))] if names is None else names
    first = episodes[0]
    for episode, name in zip(episodes, names, strict=True):
        _check_episode(episode, first, f"{label}, {name}")
    lengths = np.array([_length(episode["observations"]) for episode in episodes])
    n_steps = np.array([len(episode["actions"]) for episode in episodes])
    starts = np.cumsum(lengths) - lengths

    def joined(key: str) -> np.ndarray:
        return np.concatenate([_padded(episode[key], n) for episode, n in zip(episodes, lengths, strict=True)])

    def flat(key: str) -> np.ndarray:
        return one_a_row(joined(key), f"{label}: {key}")

    step = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)

    def place(row: int) -> str:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return f"step {row - starts[number]} of {names[number]}"

    following = None
    if "next_observations" in first:
        trees = [
            tree_map(lambda array, n=n: _padded(array, n), episode["next_observations"])
            for episode, n in zip(episodes, lengths, strict=True)
        ]
        following = _joined_trees(trees)
    return EpisodeRows(
        observations=_joined_trees([episode["observations"] for episode in episodes]),
        actions=joined("actions"),
        rewards=flat("rewards") if "rewards" in first else None,
        terminals=flat("terminals") > 0,
        starts=starts,
        is_step=step < np.repeat(n_steps, lengths),
        next_observations=following,
        place=place,
    )


def _joined_trees(trees: Sequence[Any]) -> Any:
    return tree_map(lambda *arrays: np.concatenate(arrays), trees[0], *trees[1:])


def _length(tree: Any) -> int:
    return len(tree_items(tree, "")[0][1])


def _padded(array: np.ndarray, n_rows: int) -> np.ndarray:
    """With a row of zeros at the end, where it has one less."""
    if len(array) == n_rows:
        return array
    return np.concatenate([array, np.zeros((1, *array.shape[1:]), array.dtype)])


def _check_episode(episode: Mapping[str, Any], first: Mapping[str, Any], label: str) -> None:
    if episode.keys() != first.keys():
        lacking = sorted(first.keys() ^ episode.keys())
        raise ValueError(f"{label}: {lacking[0]} is not in all episodes, though in some.")
    n_steps = len(episode["actions"])
    if n_steps == 0:
        raise ValueError(f"{label} has no steps: remove it.")
    for key, tree in episode.items():
        arrays, others = dict(tree_items(tree, key)), dict(tree_items(first[key], key))
        if arrays.keys() != others.keys():
            raise ValueError(f"{label} has {', '.join(arrays)}, but the first episode has {', '.join(others)}.")
        for name, array in arrays.items():
            if key in ("rewards", "terminals"):
                one_a_row(array, f"{label}: {name}")
            if array.shape[1:] != others[name].shape[1:]:
                raise ValueError(
                    f"{label}: {name} has rows of shape {array.shape[1:]}, but those of the first episode have "
                    f"{others[name].shape[1:]}."
                )
            wanted = {n_steps, n_steps + 1} if key == "observations" else {n_steps}
            if len(array) not in wanted or len(array) != _length(tree):
                raise ValueError(f"{label}: {name} has {len(array)} rows, but there are {n_steps} actions.")


def as_columns(rows: EpisodeRows, label: str, relabel: Relabel | None, success_at_end: bool) -> Columns:
    """
    :param rows: of a source
    :param label: what the source is called
    :param relabel: changes its arrays before it is known which rows are steps
    :param success_at_end: whether every episode's last step is terminal and earns 1, all others 0
    :return: columns of steps, each with what it led to. The last step of an episode that was cut off and whose successor is
        not in the source is left out, with a warning
    :raises ValueError: if nothing says what steps earned
    """
    is_step = np.ones(rows.n_rows, dtype=bool) if rows.is_step is None else rows.is_step
    last_rows = np.append(rows.starts[1:], rows.n_rows) - 1
    last_steps = last_rows - ~is_step[last_rows]
    ends = np.zeros(rows.n_rows, dtype=bool)
    ends[last_steps] = True
    if success_at_end:
        _succeed(rows, ends, label)
    if relabel is not None:
        _relabel(rows, relabel, ends, is_step, label)
    if rows.rewards is None:
        raise ValueError(
            f"{label} has no rewards: pass `relabel=` to `load_dataset`, a function of its arrays that adds 'rewards' (and "
            "'terminals'), success_at_end=True if every episode ended because it succeeded, or, where they stand in a column, "
            "its name as rewards=."
        )
    terminals = np.asarray(rows.terminals) > 0
    successor = np.arange(rows.n_rows) + 1
    told = np.append(~ends[:-1] | ~is_step[1:], False)
    lost = is_step & ~told & ~terminals
    if rows.next_observations is not None:
        lost[:] = False
    if lost.any():
        _say_lost(rows, lost, label)
    # A terminal step is never asked what it led to
    successor[~told] = np.flatnonzero(~told)
    kept = np.flatnonzero(is_step & ~lost)
    if not len(kept):
        raise ValueError(f"{label} has no steps: each of its rows is the last of an episode, and leads nowhere.")
    if rows.next_observations is None:
        following = tree_map(lambda array: PickedColumn(array, successor[kept]), rows.observations)
    else:
        following = tree_map(lambda array: PickedColumn(array, kept), rows.next_observations)
    # Where the last step is left out, the one before it ends its episode
    left_out = np.flatnonzero(lost)
    ends[left_out[~np.isin(left_out, rows.starts)] - 1] = True
    columns = named_columns(
        dict(
            observations=tree_map(lambda array: PickedColumn(array, kept), rows.observations),
            next_observations=following,
            actions=PickedColumn(rows.actions, kept),
            rewards=PickedColumn(np.asarray(rows.rewards), kept),
            masks=ArrayColumn(~terminals[kept]),
            dones=ArrayColumn(ends[kept]),
            timeouts=ArrayColumn((ends & ~terminals)[kept]),
        )
    )
    place = rows.place or _numbered
    columns.place = lambda row: place(int(kept[row]))
    return columns


def _numbered(row: int) -> str:
    return f"row {row}"


def _succeed(rows: EpisodeRows, ends: np.ndarray, label: str) -> None:
    if rows.rewards is not None:
        raise ValueError(
            f"{label} has rewards of its own, which success_at_end=True would replace: change them by `relabel=`, or leave "
            "that out."
        )
    rows.rewards, rows.terminals = ends.astype(np.float32), ends.copy()


def _relabel(rows: EpisodeRows, relabel: Relabel, ends: np.ndarray, is_step: np.ndarray, label: str) -> None:
    own = {key: getattr(rows, key) for key in CHANGED if getattr(rows, key) is not None}
    lengths = np.diff(np.append(rows.starts, rows.n_rows))
    seen = dict(ends=ends, valids=is_step, episode=np.repeat(np.arange(len(lengths)), lengths))
    result = dict(relabelled({**rows.beside, **seen, **own}, relabel, label))
    if "masks" in result and result.get("terminals") is own["terminals"]:
        result["terminals"] = np.asarray(result["masks"]) == 0
    for key in CHANGED:
        if key not in result:
            continue
        value = tree_map(np.asarray, result[key])
        for name, array in tree_items(value, key):
            if not array.shape or len(array) != rows.n_rows:
                raise ValueError(
                    f"{label}: {name} has shape {array.shape} after relabel=, but there are {rows.n_rows} rows; the number of "
                    "rows has to stay as it is."
                )
        setattr(rows, key, value)


def _say_lost(rows: EpisodeRows, lost: np.ndarray, label: str) -> None:
    first = int(np.argmax(lost))
    where = (rows.place or _numbered)(first)
    n_lost = int(lost.sum())
    which = f"the last step of {n_lost} episodes that were" if n_lost > 1 else "the last step of an episode that was"
    warnings.warn(
        f"{label}: {which} cut off is left out, first {where}: what it led to is not in the source.",
        stacklevel=2,
    )
