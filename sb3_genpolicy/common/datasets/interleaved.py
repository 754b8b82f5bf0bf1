"""
Rows of several environments that were stepped together, one row of each at every step.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from sb3_genpolicy.common.datasets.columns import Column, read, rows_per_chunk
from sb3_genpolicy.common.datasets.names import Columns
from sb3_genpolicy.common.datasets.row_reader import READ_ERRORS
from sb3_genpolicy.common.utils import tree_items, tree_map

# Number of rows that are examined, and largest number of environments that is tried
_LOOKED_AT, _MOST = 4096, 256
# Rows of n environments are interleaved if at least the first share of rows leads to the n-th row after them, and at most the
# second share to the next row
_LEAD_AHEAD, _BY_CHANCE = 0.5, 0.1


class OrderedColumn:
    """
    A column in another order, which is read as a whole.

    :param column: the column
    :param order: (n_rows,), its rows in the order that is wanted
    """

    def __init__(self, column: Column, order: np.ndarray):
        self.column, self.order = column, order
        self.shape, self.dtype = column.shape, column.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        array = read(self.column)
        size = rows_per_chunk(self.shape, self.dtype)
        for start in range(0, len(array), size):
            yield array[self.order[start : start + size]]


def as_streams(columns: Columns, label: str, in_memory: bool) -> Columns:
    """
    :param columns: of a source, of one length
    :param label: what the source is called, for messages
    :param in_memory: whether its rows are read into memory
    :return: the rows of one environment after those of another, where they are interleaved; other sources as they are
    :raises ValueError: if they are interleaved and stay on a disk
    """
    n_envs = _count_environments(columns)
    if n_envs == 1:
        return columns
    found = f"{label}: the rows of {n_envs} environments that were stepped together are interleaved"
    if not in_memory:
        raise ValueError(f"{found}. Write one environment's after the other's, or load with memory_map=False.")
    warnings.warn(f"{found}. They are read one environment after the other.", stacklevel=2)
    n_rows = columns["actions"].shape[0]
    stream = np.arange(n_rows) % n_envs
    order = np.argsort(stream, kind="stable")
    result = Columns(columns.given)
    place = columns.place
    result.place = None if place is None else lambda row: place(int(order[row]))
    result.sources, result.unused = columns.sources, columns.unused
    result.update({key: tree_map(lambda column: OrderedColumn(column, order), value) for key, value in columns.items()})
    result.marks = {key: OrderedColumn(column, order) for key, column in columns.marks.items()}
    result.stream_ends = np.cumsum(np.bincount(stream))[:-1] - 1
    return result


def _count_environments(columns: Columns) -> int:
    if "next_observations" not in columns or len(columns.part_ends):
        return 1
    try:
        before, after = (_head(columns[key]) for key in ("observations", "next_observations"))
    except READ_ERRORS:
        # A damaged column is reported when it is read
        return 1
    if before.keys() != after.keys() or any(before[key].shape != after[key].shape for key in before):
        return 1
    n_rows = min(map(len, before.values()))

    def share_that_leads(ahead: int) -> float:
        same = [(after[key][: n_rows - ahead] == before[key][ahead:n_rows]) for key in before]
        return float(np.all([part.reshape(len(part), -1).all(axis=1) for part in same], axis=0).mean())

    if n_rows < 3 or share_that_leads(1) > _BY_CHANCE:
        return 1
    # At least three steps of each
    for n_envs in range(2, min(_MOST, n_rows // 3) + 1):
        if share_that_leads(n_envs) >= _LEAD_AHEAD:
            return n_envs
    return 1


def _head(tree: Any) -> dict[str, np.ndarray]:
    return {name: _first_rows(column) for name, column in tree_items(tree, "")}


def _first_rows(column: Column) -> np.ndarray:
    pieces, n_rows = [], 0
    for chunk in column.chunks():
        pieces.append(chunk[: _LOOKED_AT - n_rows])
        n_rows += len(pieces[-1])
        if n_rows >= _LOOKED_AT:
            break
    return np.concatenate(pieces) if pieces else np.zeros(column.shape, column.dtype)
