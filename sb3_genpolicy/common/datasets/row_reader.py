"""
Columns are read into arrays, checked on the way.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from gymnasium import spaces
from tqdm import tqdm

from sb3_genpolicy.common.datasets.checks import (
    are_flat_rows,
    check_finite,
    check_members,
    check_row_shape,
    say_flat_rows,
    shaped,
)
from sb3_genpolicy.common.datasets.columns import PATIENCE, Column, rows_per_chunk
from sb3_genpolicy.common.datasets.value_ranges import ValueRanges

#: What reading a damaged file raises
READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error)


class RowReader:
    """
    Reads columns into arrays, checks them, and says where in the file a row is.

    :param kept: (n_file_rows,), whether a row is a step
    :param where_in_file: from a row of the file to words
    :param label: what the source is called
    """

    def __init__(self, kept: np.ndarray, where_in_file: Callable[[int], str], label: str):
        self.kept, self.where_in_file, self.label = kept, where_in_file, label
        self.all_kept = bool(kept.all())
        self.n_rows = len(kept) if self.all_kept else int(kept.sum())
        #: Of the observations that were read
        self.ranges = ValueRanges()
        #: Names of the observations that are read as float64
        self.finer: set[str] = set()
        # Names of those whose rows were said to be flat
        self._flat: set[str] = set()

    def where(self, row: int) -> str:
        """
        :param row: a step
        :return: where in the file it is, in words
        """
        return self.where_in_file(row if self.all_kept else int(np.flatnonzero(self.kept)[row]))

    def pieces(
        self, column: Column, space: spaces.Space, name: str, states: str | None = None
    ) -> Iterable[tuple[int, np.ndarray]]:
        """
        :param column: a column
        :param space: of one row
        :param name: what the column is called, for messages
        :param states: the array of observations that it goes into, if it does
        :return: first row of every piece, in the file, and the piece as it is stored
        :raises ValueError: if it cannot be read, or holds what no such column may hold
        """
        if are_flat_rows(column.shape, space):
            self._say_flat(name if states is None else states, space)
        else:
            check_row_shape(column.shape, space, f"{self.label}: {name}")
        finer = states in self.finer
        start = 0
        try:
            for chunk in self._with_progress(column, name):
                where_in_piece = self._shifted(start)
                piece = shaped(chunk, space, f"{self.label}: {name}", np.float64 if finer else None)
                check_finite(piece, f"{self.label}: {name}", where_in_piece)
                check_members(piece, space, f"{self.label}: {name}", where_in_piece)
                if states is not None and not finer:
                    self.ranges.see(states, chunk)
                yield start, piece
                start += len(chunk)
        except READ_ERRORS as error:
            raise ValueError(
                f"{self.label}: {name} cannot be read from row {start} on ({error}): the file is damaged."
            ) from error

    def _with_progress(self, column: Column, name: str) -> Iterable[np.ndarray]:
        total = -(-column.shape[0] // rows_per_chunk(column.shape, column.dtype))
        return tqdm(column.chunks(), f"{self.label}: {name}", total, delay=PATIENCE, leave=False)

    def _say_flat(self, name: str, space: spaces.Space) -> None:
        if name not in self._flat:
            self._flat.add(name)
            say_flat_rows(f"{self.label}: {name}", space)

    def _shifted(self, start: int) -> Callable[[int], str]:
        return lambda row: self.where_in_file(start + row)

    def read_into(self, array: np.ndarray, column: Column, space: spaces.Space, name: str, states: str | None = None) -> None:
        """
        :param array: (n_rows, ...), filled with the rows that are steps
        :param column: as for :meth:`pieces`, and the others likewise
        :param space: of one row
        :param name: what the column is called
        :param states: the array of observations that it goes into, if it does
        """
        row = 0
        for start, piece in self.pieces(column, space, name, states):
            piece = piece if self.all_kept else piece[self.kept[start : start + len(piece)]]
            array[row : row + len(piece)] = piece
            row += len(piece)
