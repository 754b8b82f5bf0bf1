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
from sb3_genpolicy.common.transitions import Transitions
from sb3_genpolicy.common.utils import tree_items, tree_of


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
    states = {}
    for key, array in tree_items(first.states, "observations"):
        arrays = [dict(tree_items(part.states, "observations"))[key] for part in parts]
        states[key] = writer.allocate(key, (sum(map(len, arrays)), *array.shape[1:]), array.dtype)
        row, extra = 0, n_rows
        for part, rows in zip(parts, arrays, strict=True):
            states[key][row : row + part.n_rows] = rows[: part.n_rows]
            states[key][extra : extra + len(rows) - part.n_rows] = rows[part.n_rows :]
            row, extra = row + part.n_rows, extra + len(rows) - part.n_rows
    columns: dict[str, Any] = {}
    for key in ("actions", "rewards", "terminals", "timeouts"):
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
        if isinstance(mine, spaces.Box) and isinstance(theirs, spaces.Box) and key == "observation_space":
            # Bounds of observations are not looked at, and differ between a file and its environment
            differ = mine.shape != theirs.shape or (mine.dtype == np.uint8) != (theirs.dtype == np.uint8)
        else:
            differ = mine != theirs
        if differ:
            raise ValueError(f"{label} has the {key.replace('_', ' ')} {theirs}, but the first of the list has {mine}.")
