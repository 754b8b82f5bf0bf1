"""
Lists of trajectories (Decision Transformer, mjrl and DAPG, imitation's old pickles) and of single transitions (SERL).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_genpolicy.common.datasets.flags import warn_of_both
from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, join_episodes, one_a_row
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions
from sb3_genpolicy.common.datasets.names import ALIASES, Columns, missing_key, named_columns
from sb3_genpolicy.common.files.plain_pickles import Record, unpickle_plain
from sb3_genpolicy.common.utils import tree_items, tree_map

USED = ("terminals", "success_at_end")
#: imitation's names
_SHORT = {"acts": "actions", "rews": "rewards", "terminal": "terminals"}
_FLAGS = ("terminals", "timeouts", "dones", "masks")
#: Keys under which a pickle may hold its list
_LISTS = ("paths", "trajs", "trajectories", "demos", "episodes", "data")


def read_pickle(path: Path, label: str) -> Mapping[str, Any] | Sequence[Any]:
    """
    :param path: a pickle
    :param label: what it is called
    :return: the list of trajectories or transitions in it, or the arrays by name
    :raises ValueError: if it holds or would run something else
    """
    with path.open("rb") as file:
        held = unpickle_plain(file, label)
    if isinstance(held, Mapping):
        lists = [held[key] for key in _LISTS if isinstance(held.get(key), (list, tuple))]
        if len(lists) != 1:
            return trajectories_by_name(held) or held
        held = lists[0]
    if isinstance(held, np.ndarray) and held.dtype.hasobject:
        held = list(held.reshape(-1))
    if not isinstance(held, (list, tuple)):
        raise ValueError(f"{label} holds a {type(held).__name__}, not a list of trajectories or transitions.")
    return held


def trajectories_by_name(held: Mapping[Any, Any]) -> list[Any] | None:
    """
    :param held: of a pickle, or a mapping
    :return: its values, where each of them is a trajectory; otherwise None
    """
    values = list(held.values())
    if not values or not all(isinstance(value, Mapping) for value in values):
        return None
    named = [named_columns(_with_long_names(value)) for value in values]
    return values if all({"observations", "actions"} <= columns.keys() for columns in named) else None


def are_trajectories(sources: Sequence[Any]) -> bool:
    """
    :param sources: of a list
    :return: whether they are trajectories or transitions and not datasets of their own: single numbers as rewards or flags,
        one observation more than rewards, or nothing that says where episodes were cut
    """
    if not sources or not all(is_trajectory(source) for source in sources):
        return False
    if not isinstance(sources[0], Mapping):
        return True
    columns = named_columns(_with_long_names(sources[0]))
    if not {"observations", "actions"} <= columns.keys():
        return False
    if "rewards" not in columns:
        return len(sources) > 1
    if any(_shape(columns[key]) == () for key in ("rewards", *_FLAGS) if key in columns) or _is_step(columns):
        return True
    n_steps = _length(columns["actions"])
    if n_steps and _length(columns["observations"]) == n_steps + 1:
        return len(sources) > 1 or ("next_observations" not in columns and _ends_at_most_once(columns))
    if len(sources) == 1:
        return False
    return not columns.keys() & {"timeouts", "dones", "masks", "valids"} and (
        "next_observations" not in columns or "terminals" not in columns
    )


def _is_step(columns: Columns) -> bool:
    """One step: its reward is a single number, also in an array of one, and its action none of one row."""
    rewards, n_actions = _shape(columns["rewards"]), _length(columns["actions"])
    return rewards == () or (rewards == (1,) and n_actions != 1)


def _ends_at_most_once(columns: Columns) -> bool:
    """Whether no flag but that of the last row ends an episode."""
    flags = [np.reshape(columns[key], -1)[:-1] for key in ("terminals", "timeouts", "dones") if key in columns]
    return not any(flag.any() for flag in flags)


def _shape(value: Any) -> tuple[int, ...] | None:
    """None of what is no array."""
    try:
        return np.shape(value)
    except ValueError:
        return None


def read_trajectories(sources: Sequence[Any], options: ColumnOptions, label: str) -> EpisodeRows:
    """
    A trajectory is one episode. It ended by itself where its ``terminals`` or ``terminated`` say so, or ``masks`` are 0;
    ``dones`` beside ``timeouts`` likewise. Without any flag it was cut off, with a warning.

    :param sources: dictionaries of arrays, all of one trajectory, or of single transitions
    :param options: ``terminals``, True or False, where no flag says what ended trajectories, and ``success_at_end`` count
    :param label: what they are called
    :return: their rows
    :raises ValueError: if one lacks what trajectories consist of
    """
    options.check_used(label, USED)
    if isinstance(options.terminals, str):
        raise ValueError(f"{label}: terminals= is True or False here, whether trajectories ended by themselves.")
    if not sources:
        raise ValueError(f"{label} is empty: it has no trajectories to learn from.")
    named = [_named(source, number, label) for number, source in enumerate(sources)]
    if "rewards" in named[0] and _is_step(named[0]):
        return _transitions(named, label)
    episodes = []
    unflagged, n_cut, n_both = 0, 0, 0
    for number, columns in enumerate(named):
        episode, told = _episode(columns, options, f"{label}, trajectory {number}")
        episodes.append(episode)
        unflagged += not told
        cut = _flag(columns.get("timeouts", False), len(episode["terminals"]), f"{label}, trajectory {number}: timeouts")
        n_cut, n_both = n_cut + int(cut.sum()), n_both + int((cut & episode["terminals"]).sum())
    if n_both == n_cut and options.terminals is None:
        warn_of_both(n_both, label)
    if unflagged and options.terminals is None and not options.success_at_end:
        warnings.warn(
            f"{label}: nothing says what ended {unflagged} of {len(episodes)} trajectories: they count as cut off; "
            "terminals=True takes them for ended by the environment.",
            stacklevel=2,
        )
    return join_episodes(episodes, label, [f"trajectory {number}" for number in range(len(episodes))])


def is_trajectory(source: Any) -> bool:
    """
    :param source: anything
    :return: whether it holds one trajectory or step: a dictionary, or an object of imitation's, whose fields are read
    """
    return isinstance(source, (Mapping, Record)) or (
        is_dataclass(source) and not isinstance(source, type) and {"obs", "acts"} <= vars(source).keys()
    )


def fields_of(source: Any) -> Mapping[str, Any]:
    """
    :param source: of which :func:`is_trajectory` holds
    :return: its fields by name, bytes as text
    """
    fields = source if isinstance(source, Mapping) else vars(source)
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in fields.items()}


def _with_long_names(source: Any) -> dict[str, Any]:
    return {_SHORT.get(key, key): value for key, value in fields_of(source).items() if key != "infos" and value is not None}


def _named(source: Any, number: int, label: str) -> Columns:
    if not is_trajectory(source):
        raise ValueError(
            f"{label} holds a {type(source).__name__} at place {number}, not a dictionary of a trajectory's arrays."
        )
    columns = named_columns(_with_long_names(source))
    for key in ("observations", "actions"):
        if key not in columns:
            raise ValueError(missing_key(columns, f"{label}, trajectory {number},", key))
    if np.ndim(columns.get("terminals", ())) == 0 and _was_truncated(fields_of(source).get("infos")):
        columns["terminals"] = False
    return columns


def _was_truncated(infos: Any) -> bool:
    last = infos[-1] if isinstance(infos, (Sequence, np.ndarray)) and len(infos) else {}
    return isinstance(last, Mapping) and bool(last.get("TimeLimit.truncated", False))


def _length(tree: Any) -> int:
    first = tree_items(tree, "")[0][1]
    try:
        return len(first)
    except TypeError:
        return 0


def _episode(columns: Columns, options: ColumnOptions, label: str) -> tuple[dict[str, Any], bool]:
    """The arrays of a trajectory, and whether anything says what ended it."""
    episode: dict[str, Any] = {
        key: tree_map(lambda array, key=key: _array(array, f"{label}: {key}"), _by_key(columns[key]))
        for key in ("observations", "actions", "rewards", "next_observations")
        if key in columns and not (key == "rewards" and options.success_at_end)
    }
    n_steps = len(episode["actions"])
    if n_steps == 0:
        raise ValueError(f"{label} has no steps: remove it.")
    flags = {key: _flag(columns[key], n_steps, f"{label}: {key}") for key in _FLAGS if key in columns}
    terminals = _terminals(flags, columns, n_steps)
    if options.terminals is not None:
        terminals = np.zeros(n_steps, dtype=bool)
        terminals[-1:] = options.terminals
    episode["terminals"] = terminals
    return episode, bool(flags)


def _terminals(flags: Mapping[str, np.ndarray], columns: Columns, n_rows: int) -> np.ndarray:
    """
    ``masks`` say it, where there are any, but for discount factors and padding: those are nowhere 0 though ``terminals``, or
    ``dones`` beside ``timeouts``, are set.
    """
    cut = flags.get("timeouts", np.zeros(n_rows, dtype=bool))
    ended = flags.get("terminals", flags.get("dones", np.zeros(n_rows, dtype=bool)) & ~cut)
    if "masks" not in flags:
        return ended
    discounts = columns.sources["masks"].startswith("discount") or "timeouts" in flags
    return ended if discounts and flags["masks"].all() else ~flags["masks"]


def _by_key(value: Any) -> Any:
    """A dictionary of arrays, where there is one dictionary for each step."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, Mapping) for each in value):
        if all(each.keys() == value[0].keys() for each in value):
            return {key: [each[key] for each in value] for key in value[0]}
    return value


def _array(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.hasobject and array.shape:
            # Numbers that stand in an array of objects
            array = np.asarray(array.tolist())
    except ValueError as error:
        raise ValueError(f"{name} is no array ({error}): give one with a row for every step.") from error
    if not array.shape or array.dtype.hasobject:
        raise ValueError(f"{name} is {'a single number' if not array.shape else 'ragged'}; it needs one row for every step.")
    return array


def _flag(value: Any, n_steps: int, name: str) -> np.ndarray:
    """(n_steps,); a single flag is that of the last step."""
    array = np.asarray(value)
    if array.size == 1 and n_steps != 1:
        whole = np.zeros(n_steps, dtype=bool)
        whole[-1] = bool(array.reshape(-1)[0])
        return whole
    if array.size != n_steps or array.dtype.hasobject:
        raise ValueError(f"{name} has shape {array.shape}, but there are {n_steps} actions.")
    values = array.reshape(n_steps)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name} is {values[~((values >= 0) & (values <= 1))][0]}; it has to be 0 or 1.")
    return values > 0


def _transitions(named: Sequence[Columns], label: str) -> EpisodeRows:
    """One dictionary a step. Episodes end at `dones`, and where a step leads to another observation than the next row's."""
    first = named[0]
    for key in ("rewards", "next_observations"):
        if key not in first:
            raise ValueError(missing_key(first, f"{label}, transition 0,", key))
    known = [key for key in ALIASES if key in first]
    columns: dict[str, Any] = {}
    for key in known:
        try:
            if isinstance(first[key], Mapping):
                parts = first[key].keys()
                columns[key] = {str(part): np.stack([np.asarray(each[key][part]) for each in named]) for part in parts}
            else:
                columns[key] = np.stack([np.asarray(each[key]) for each in named])
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{label}: {key} is not the same in all transitions ({error}).") from error
    n_rows = len(named)
    flags = {key: np.asarray(columns[key]).reshape(n_rows) > 0 for key in _FLAGS if key in columns}
    if not flags:
        raise ValueError(f"{label} has no flags ('masks', 'dones' or 'terminals') of steps after which nothing is earned.")
    cut = flags.get("timeouts", np.zeros(n_rows, dtype=bool))
    terminals = _terminals(flags, first, n_rows)
    ends = terminals | cut | flags.get("dones", cut)
    return EpisodeRows(
        observations=columns["observations"],
        actions=columns["actions"],
        rewards=one_a_row(columns["rewards"], f"{label}: rewards"),
        terminals=terminals,
        starts=np.append(0, np.flatnonzero(ends[:-1]) + 1),
        next_observations=columns["next_observations"],
        place=lambda row: f"transition {row}",
    )
