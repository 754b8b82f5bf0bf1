"""
Several records as one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.checks import label_of
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import space_items, tree_items, tree_of


def concatenate(parts: Sequence[Transitions], name: str | None, writer: ArrayWriter) -> Transitions:
    """
    The episodes of the first, then those of the second, and so on.

    :param parts: records of the same spaces
    :param name: name of the whole
    :param writer: where the arrays go
    :return: the whole, with the reference scores and the environment that all parts agree on
    :raises ValueError: if the spaces differ
    """
    first = parts[0]
    for number, part in enumerate(parts[1:], 1):
        _check_same_spaces(first, part, number)
    n_rows = sum(part.n_rows for part in parts)
    trees = [dict(tree_items(part.states, "observations")) for part in parts]
    states = {}
    for key, _ in space_items(first.observation_space, "observations"):
        arrays = [tree[key] for tree in trees]
        dtype = np.result_type(*{array.dtype for array in arrays})
        states[key] = writer.allocate(key, (sum(map(len, arrays)), *arrays[0].shape[1:]), dtype)
        row, extra = 0, n_rows
        for part, rows in zip(parts, arrays, strict=True):
            states[key][row : row + part.n_rows] = rows[: part.n_rows]
            states[key][extra : extra + len(rows) - part.n_rows] = rows[part.n_rows :]
            row, extra = row + part.n_rows, extra + len(rows) - part.n_rows
    columns: dict[str, Any] = {}
    for key in ("actions", "rewards", "terminals", "timeouts", "ends"):
        array = getattr(first, key)
        columns[key] = writer.allocate(key, (n_rows, *array.shape[1:]), array.dtype)
        np.concatenate([getattr(part, key) for part in parts], out=columns[key])
    next_rows = writer.allocate("next_rows", (n_rows,), np.int64)
    row, extra = 0, n_rows
    for part in parts:
        led_to = part.next_rows
        next_rows[row : row + part.n_rows] = np.where(led_to < part.n_rows, led_to + row, led_to - part.n_rows + extra)
        row, extra = row + part.n_rows, extra + len(tree_items(part.states, "")[0][1]) - part.n_rows
    return replace(
        first,
        states=tree_of(first.observation_space, states.values()),
        next_rows=next_rows,
        **columns,
        inferred_cuts=sum(part.inferred_cuts for part in parts),
        name=name,
        env_id=first.env_id if all(part.env_id == first.env_id for part in parts) else None,
        reference_scores=(
            first.reference_scores if all(part.reference_scores == first.reference_scores for part in parts) else None
        ),
        memory_mapped=False,
    )


def _check_same_spaces(first: Transitions, part: Transitions, number: int) -> None:
    label = f"{label_of(part)} (number {number} of the list)"
    for key in ("observation_space", "action_space"):
        mine, theirs = getattr(first, key), getattr(part, key)
        if mine is theirs:
            continue
        if key == "action_space":
            differ = mine != theirs
        else:
            ours, others = (dict(space_items(space, "")) for space in (mine, theirs))
            differ = ours.keys() != others.keys() or any(_differ(ours[name], others[name]) for name in ours)
        if differ:
            raise ValueError(f"{label} has the {key.replace('_', ' ')} {theirs}, but the first of the list has {mine}.")


def _differ(one: spaces.Space, other: spaces.Space) -> bool:
    """Bounds of observations are not looked at, and differ between a file and its environment."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return one.shape != other.shape or (one.dtype == np.uint8) != (other.dtype == np.uint8)
    return one != other
