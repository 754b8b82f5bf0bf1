"""
Where the arrays of a record are written: into memory, or into flat files that are read back as they are looked at.
"""

import errno
import math
import mmap
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sb3_genpolicy.common.datasets.columns import slices

# Where Linux says what a container, or a job of a cluster, may take
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class ArrayWriter(Protocol):
    """
    Makes the arrays that a source is read into.
    """

    def allocate(self, name: str, shape: tuple[int, ...], dtype: Any, spare_rows: int = 0) -> np.ndarray:
        """
        :param name: of the array; one that was allocated before is forgotten
        :param shape: (n_rows, ...)
        :param dtype: of its entries
        :param spare_rows: rows by which the array will probably be extended
        :return: an array to fill
        """
        ...

    def extend(self, name: str, n_rows: int) -> np.ndarray:
        """
        :param name: of an array that was allocated; views of it are no longer valid
        :param n_rows: rows to append
        :return: the longer array
        """
        ...


class MemoryWriter:
    """
    Arrays in memory.
    """

    def __init__(self) -> None:
        # With their spare rows, and the rows in use
        self._arrays: dict[str, tuple[np.ndarray, int]] = {}

    def allocate(self, name: str, shape: tuple[int, ...], dtype: Any, spare_rows: int = 0) -> np.ndarray:
        array = np.empty((shape[0] + spare_rows, *shape[1:]), dtype)
        self._arrays[name] = array, shape[0]
        return array[: shape[0]]

    def extend(self, name: str, n_rows: int) -> np.ndarray:
        array, used = self._arrays[name]
        if used + n_rows > len(array):
            longer = np.empty((used + n_rows, *array.shape[1:]), array.dtype)
            longer[:used] = array[:used]
            array = longer
        self._arrays[name] = array, used + n_rows
        return array[: used + n_rows]


class NotWritten(Exception):
    """
    A flat file cannot be written. The source that is being read is not at fault.
    """


class FileWriter:
    """
    Arrays in flat files of a folder. What goes wrong in writing them is raised as :class:`NotWritten`.

    :param folder: an empty folder
    """

    def __init__(self, folder: Path):
        self.folder = folder
        #: name -> file, shape and dtype
        self.layout: dict[str, dict[str, Any]] = {}
        self._n_files = 0

    def allocate(self, name: str, shape: tuple[int, ...], dtype: Any, spare_rows: int = 0) -> np.ndarray:
        self._enter(name, shape, dtype)
        return self._map(name, "w+")

    def _enter(self, name: str, shape: tuple[int, ...], dtype: Any) -> Path:
        if name in self.layout:
            (self.folder / self.layout[name]["file"]).unlink(missing_ok=True)
        file = f"{self._n_files:02d}_{''.join(c if c.isalnum() else '_' for c in name)}.bin"
        self._n_files += 1
        self.layout[name] = dict(file=file, shape=list(shape), dtype=np.dtype(dtype).str)
        return self.folder / file

    def store(self, name: str, array: np.ndarray) -> None:
        """
        Write an array that is there already; no memory is taken for it.

        :param name: of the array
        :param array: (n_rows, ...)
        """
        try:
            with self._enter(name, array.shape, array.dtype).open("wb") as file:
                for rows in slices(len(array)):
                    file.write(np.ascontiguousarray(array[rows]).data)
        except OSError as error:
            raise NotWritten(str(error)) from error

    def extend(self, name: str, n_rows: int) -> np.ndarray:
        self.layout[name]["shape"][0] += n_rows
        return self._map(name, "r+")

    def _map(self, name: str, mode: Any) -> np.ndarray:
        entry = self.layout[name]
        path, shape, dtype = self.folder / entry["file"], tuple(entry["shape"]), np.dtype(entry["dtype"])
        try:
            with path.open("wb" if mode == "w+" else "r+b") as file:
                size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
                if size:
                    _take_room(file.fileno(), size)
            return np.memmap(path, dtype, "r+", shape=shape) if size else np.empty(shape, dtype)
        except OSError as error:
            raise NotWritten(str(error)) from error


def _take_room(file: int, size: int) -> None:
    """Reserve the bytes of a file: otherwise a full disk would kill the program when it writes to the mapped file."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        # Some filesystems cannot reserve room
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def map_file(path: Path, shape: tuple[int, ...], dtype: Any, drawn: bool = False) -> np.ndarray:
    """
    :param path: a flat file
    :param shape: of its array
    :param dtype: of its entries
    :param drawn: whether rows are drawn from it at random, not read one after the other
    :return: the array, read-only, whose pages are read from the file as they are looked at
    :raises ValueError: if the file does not have the array's size
    """
    if 0 in shape:
        return np.empty(shape, dtype)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if drawn and hasattr(mmap, "MADV_RANDOM"):
        # Reading ahead would fetch a thousand times what is asked for
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype).reshape(shape)


def read_file(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """
    :param path: a flat file
    :param shape: of its array
    :param dtype: of its entries
    :return: the array, in memory
    :raises ValueError: if the file does not have the array's size
    """
    return np.fromfile(path, dtype).reshape(shape)


def machine_memory() -> float:
    """
    :return: bytes of memory that this machine, or the container on it, has; infinite where the system does not say
    """
    try:
        sizes = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    except (AttributeError, OSError, ValueError):
        sizes = [math.inf]
    for limit in map(Path, _LIMITS):
        try:
            sizes.append(float(limit.read_text()))
        except (OSError, ValueError):
            # None there, or "max"
            continue
    return min(sizes)
