"""
Columns of logged data, read piece by piece, so that a source is never held twice.
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

#: A bar is shown of what takes longer, in seconds
PATIENCE = 2.0
# A piece read at a time
_CHUNK_BYTES = 2**20


class Column(Protocol):
    """
    One array of a source, with a row for each step.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        """
        :return: all rows, in pieces and in order
        """
        ...


def rows_per_chunk(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """
    :param shape: (n_rows, ...)
    :param dtype: of an entry
    :return: rows of a piece
    """
    return max(1, _CHUNK_BYTES // max(1, int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize))


class ArrayColumn:
    """
    A column that can be sliced: an array, or a dataset of an HDF5 file.

    :param array: (n_rows, ...)
    """

    def __init__(self, array: Any):
        self.array = array
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)

    def chunks(self) -> Iterator[np.ndarray]:
        size = rows_per_chunk(self.shape, self.dtype)
        for start in range(0, self.shape[0], size):
            yield np.asarray(self.array[start : start + size])


class NpzColumn:
    """
    A member of an npz file, decompressed as it is read.

    :param path: the file
    :param key: the member's name, without ``.npy``
    """

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
            self.shape, self.fortran_order, self.dtype = _read_npy_header(stream)

    def chunks(self) -> Iterator[np.ndarray]:
        if self.fortran_order or self.dtype.hasobject or not self.shape:
            # Such arrays do not lie row by row; objects are refused by numpy
            with np.load(self.path, allow_pickle=False) as archive:
                yield archive[self.key]
            return
        size = rows_per_chunk(self.shape, self.dtype)
        row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.key}.npy") as stream:
            _read_npy_header(stream)
            for start in range(0, self.shape[0], size):
                n_rows = min(size, self.shape[0] - start)
                data = stream.read(n_rows * row_bytes)
                if len(data) < n_rows * row_bytes:
                    raise EOFError(f"its data stop at row {start + len(data) // max(row_bytes, 1)} of {self.shape[0]}")
                yield np.frombuffer(data, self.dtype).reshape(n_rows, *self.shape[1:])


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


class MappedColumn:
    """
    A column whose pieces go through a function that keeps their shape.

    :param column: the column
    :param function: of a piece
    """

    def __init__(self, column: Column, function: Callable[[np.ndarray], np.ndarray]):
        self.column, self.function = column, function
        self.shape, self.dtype = column.shape, column.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        return (self.function(chunk) for chunk in self.column.chunks())


class StreamsColumn:
    """
    Rows of parallel environments in a ring, one environment after the other.

    :param array: (n_slots, n_envs, ...)
    :param first: slot of the oldest row
    :param n_steps: rows of each environment
    """

    def __init__(self, array: np.ndarray, first: int, n_steps: int):
        self.array, self.first, self.n_steps = array, first, n_steps
        self.shape, self.dtype = (n_steps * array.shape[1], *array.shape[2:]), array.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        size = rows_per_chunk(self.shape, self.dtype)
        for env in range(self.array.shape[1]):
            for start in range(0, self.n_steps, size):
                slots = (self.first + np.arange(start, min(start + size, self.n_steps))) % len(self.array)
                yield self.array[slots, env]


def read(column: Column) -> np.ndarray:
    """
    :param column: a column
    :return: all its rows
    """
    chunks = list(column.chunks())
    return np.concatenate(chunks) if chunks else np.zeros(column.shape, column.dtype)


def slices(n_rows: int, size: int = 2**16) -> Iterator[slice]:
    """
    :param n_rows: number of rows
    :param size: rows of a slice
    :return: slices that cover all rows
    """
    return (slice(start, start + size) for start in range(0, n_rows, size))
