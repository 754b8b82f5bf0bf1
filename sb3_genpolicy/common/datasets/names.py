"""
What each convention calls its columns, and what a source of bare arrays does not say of itself.
"""

import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets.checks import ACTION_TOLERANCE
from sb3_genpolicy.common.datasets.columns import Column
from sb3_genpolicy.common.transitions.transforms import ActionTransform
from sb3_genpolicy.common.utils import tree_map

#: Column -> what it is called by Minari, D4RL, OGBench, RL Unplugged's npz files, SB3 and their users. Of several names that
#: are given, the first is used.
ALIASES = {
    "observations": ("observations", "observation", "obs", "states", "state"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "next_observations": ("next_observations", "next_observation", "next_obs", "next_states", "next_state"),
    "terminals": ("terminals", "terminal", "terminations", "terminated", "is_terminal"),
    "timeouts": ("timeouts", "timeout", "truncations", "truncated"),
    # Ends of either kind
    "dones": ("dones", "done", "dones_float", "done_floats"),
    # 0 where nothing is earned afterwards
    "masks": ("masks", "mask", "discounts", "discount"),
    # OGBench's compact form: 0 where a row is only the last observation of an episode
    "valids": ("valids",),
}
_BY_ALIAS = {alias: key for key, aliases in ALIASES.items() for alias in aliases}
#: Prefixes of what files carry beside: simulator states, infos, returns
IGNORED = (
    "infos",
    "metadata",
    "qpos",
    "qvel",
    "button_states",
    "physics",
    "oracle_reps",
    "next_oracle_reps",
    "episodic_reward",
)
#: What tells time steps of dm_env, and of those who write likewise, from other rows
MARKS = ("is_first", "is_last", "is_terminal", "step_type", "discount", "physics")
# A name that nobody knows is taken for a slip of one that would be used from this likeness on, and of one that is needed
_SLIP, _NEEDED_SLIP = 0.85, 0.7
# Names said in one sentence
_SAID = 8


class Columns(dict[str, Any]):
    """
    The names of :data:`ALIASES` -> column, or dictionary of columns.

    :param given: every name that the source has
    :param sources: the names of :data:`ALIASES` -> what the source calls it
    :param unused: names that are not used
    :param marks: those of :data:`MARKS` -> column
    :param part_ends: last rows of the sources that were joined to this one, without the last of all
    :param stream_ends: last rows of the environments whose rows follow each other in this one, likewise
    :param place: from a row to where the source has it, in words, where that is not its number
    """

    def __init__(self, given: list[str]):
        super().__init__()
        self.given = given
        self.sources: dict[str, str] = {}
        self.unused: list[str] = []
        #: Names of two parts, such as ``group/array``
        self.inner: list[tuple[str, str]] = []
        self.marks: dict[str, Any] = {}
        self.part_ends = self.stream_ends = np.zeros(0, dtype=np.int64)
        self.place: Callable[[int], str] | None = None


@dataclass(frozen=True)
class Known:
    """
    What a source of bare arrays does not say of itself.

    :param observation_space: space of the observations
    :param action_space: space of the actions
    :param env_id: id of the environment
    :param reference_scores: returns that count as normalised scores of 0 and 100
    :param action_transforms: what is done to its actions
    """

    observation_space: spaces.Space | None = None
    action_space: spaces.Space | None = None
    env_id: str | None = None
    reference_scores: tuple[float, float] | None = None
    action_transforms: tuple[ActionTransform, ...] = ()

    def space_for(self, own: spaces.Space) -> spaces.Space:
        """
        :param own: the action space that a source says
        :return: the one that its actions are read for: what was asked for where its own has no bounds or its actions are
            transformed, else its own
        """
        asked = self.action_space
        if asked is None or not isinstance(own, spaces.Box) or asked.shape != own.shape:
            return own
        return asked if self.action_transforms or not own.is_bounded() else own

    def transformed(self, actions: np.ndarray, space: spaces.Box) -> np.ndarray:
        """
        :param actions: (n_rows, \\*shape), as they were logged
        :param space: of the environment's actions
        :return: the actions after all transforms
        """
        for transform in self.action_transforms:
            actions = transform(actions, space)
        return actions


def named_columns(given: Mapping[str, Any], as_column: Callable[[Any, str], Any] | None = None) -> Columns:
    """
    :param given: name -> column, dictionaries of observations nested or with a slash (``observations/position``)
    :param as_column: makes a column of what is used, from it and its name
    :return: the columns that are used, and the names of those that are not
    """
    given = {name.decode("latin-1") if isinstance(name, bytes) else name: column for name, column in given.items()}
    outers = list(dict.fromkeys(str(name).partition("/")[0] for name in given))
    columns = Columns(outers)
    for key, aliases in ALIASES.items():
        present = [alias for alias in aliases if alias in outers]
        if present:
            columns.sources[key] = present[0]
    used = {outer: key for key, outer in columns.sources.items()}
    columns.unused = [outer for outer in outers if outer not in used and not outer.startswith(IGNORED)]
    for name, column in given.items():
        outer, _, inner = str(name).partition("/")
        columns.inner += [(outer, inner)] if inner else []
        if as_column is not None and (outer in used or outer in MARKS):
            column = tree_map(lambda array, outer=outer: as_column(array, outer), column)
        if outer in MARKS and not inner:
            columns.marks[outer] = column
        if outer not in used:
            continue
        if inner:
            columns.setdefault(used[outer], {})[inner] = column
        else:
            columns[used[outer]] = column
    return columns


def warn_of_unused(columns: Columns, label: str) -> None:
    """
    Name the columns that are not used, once.

    :param columns: of a source
    :param label: what the source is called
    """
    names = columns.unused
    if not names:
        return
    said = ", ".join(names[:_SAID]) + (f" and {len(names) - _SAID} more" if len(names) > _SAID else "")
    absent = [alias for key, aliases in ALIASES.items() if key not in columns for alias in aliases]
    hint = _hint(names, absent, _SLIP)
    what = f"column {said} is" if len(names) == 1 else f"columns {said} are"
    warnings.warn(f"{label}: the {what} not used.{hint}", stacklevel=2)


def missing_key(columns: Columns, label: str, key: str) -> str:
    """
    :param columns: of a source
    :param label: what the source is called
    :param key: of :data:`ALIASES`, which it lacks
    :return: the sentence that says so, and which of its unknown names may be meant
    """
    return f"{label} has no key '{key}'; it has {', '.join(columns.given)}.{slip_of(columns, key) or _in_groups(columns, key)}"


def _in_groups(columns: Columns, key: str) -> str:
    """Where a key of that name is one level deeper, as in a group for each episode."""
    groups = [outer for outer, inner in columns.inner if inner in ALIASES[key] and outer in columns.unused]
    if not groups:
        return ""
    if len(groups) == 1:
        return f" '{groups[0]}' has one in it: pass a mapping of its arrays."
    return (
        f" {len(groups)} groups, first '{groups[0]}', have one in them: pass a list of mappings, one of each group's arrays."
    )


def slip_of(columns: Columns, *keys: str) -> str:
    """
    :param columns: of a source
    :param keys: of :data:`ALIASES`, which it lacks
    :return: which of its unknown names may be meant, in a sentence after a space; empty if none
    """
    return _hint(columns.unused, [alias for key in keys for alias in ALIASES[key]], _NEEDED_SLIP)


def _hint(unused: list[str], aliases: list[str], cutoff: float) -> str:
    for name in unused:
        nearest = difflib.get_close_matches(name, aliases, n=1, cutoff=cutoff)
        if nearest:
            return f" Did you mean '{nearest[0]}' by '{name}'?"
    return ""


def infer_observation_space(observations: Any) -> spaces.Space:
    """
    The widest space that arrays fit: unbounded boxes, 0 to 255 for uint8 images.

    :param observations: a column, or a dictionary of columns
    :return: a Box, or a Dict of Boxes
    """

    def box(column: Column) -> spaces.Box:
        if column.dtype == np.uint8 and len(column.shape) == 4:
            return spaces.Box(0, 255, column.shape[1:], np.uint8)
        return spaces.Box(-np.inf, np.inf, column.shape[1:] or (1,), np.float32)

    boxes = tree_map(box, observations)
    return spaces.Dict(boxes) if isinstance(boxes, dict) else boxes


def infer_action_space(column: Column, label: str, as_they_are: bool = True) -> spaces.Box:
    """
    :param column: of the actions
    :param label: what the source is called, for the message
    :param as_they_are: whether nothing is done to the actions before they are checked
    :return: the box from -1 to 1
    :raises ValueError: if the actions are discrete or larger
    """
    if column.dtype.kind != "f":
        raise ValueError(
            f"{label}: the actions are of type {column.dtype}; only continuous (floating-point) actions can be learnt. "
            "If they are continuous, give 'action_space'."
        )
    largest = max((float(np.abs(chunk).max()) for chunk in column.chunks() if chunk.size), default=0.0)
    if as_they_are and np.isfinite(largest) and largest > 1.0 + ACTION_TOLERANCE:
        raise ValueError(
            f"{label}: the actions reach {largest:.4g} in size and nothing says what their bounds are: add 'action_space', "
            "a gymnasium.spaces.Box with the lowest and the highest action."
        )
    return spaces.Box(-1.0, 1.0, column.shape[1:] or (1,), np.float32)
