"""
Files of columns: legacy D4RL's HDF5, and the npz files of OGBench, RL Unplugged and everybody else.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.columns import ArrayColumn, NpzColumn, read
from sb3_genpolicy.common.datasets.flat import read_flat
from sb3_genpolicy.common.datasets.names import Columns, Known, named_columns
from sb3_genpolicy.common.datasets.paths import HDF5_SUFFIXES, ending
from sb3_genpolicy.common.datasets.row_reader import READ_ERRORS
from sb3_genpolicy.common.transitions.transitions import Transitions

if TYPE_CHECKING:
    import h5py

#: From a source's arrays by name to the same with more or others of them; None: they were changed in place
Relabel = Callable[[dict[str, Any]], Mapping[str, Any] | None]


def read_file(path: Path, writer: ArrayWriter, known: Known, relabel: Relabel | None) -> Transitions:
    """
    :param path: an HDF5 or npz file
    :param writer: where the arrays go
    :param known: what the file does not say of itself
    :param relabel: changes the file's arrays before they are read; all of them are then held in memory
    :return: the record, checked
    :raises ValueError: if the file is damaged or does not hold a dataset
    """
    import h5py

    label, name = f"File {path}", str(path)
    try:
        if ending(path) in HDF5_SUFFIXES:
            with h5py.File(path, "r") as file:
                _refuse_minari(file, path)
                return _read(_hdf5_columns(file), writer, known, relabel, label, name)
        return _read(_npz_columns(path), writer, known, relabel, label, name)
    except READ_ERRORS as error:
        raise ValueError(f"{label} is damaged or cut off ({error}): fetch or write it again.") from error


@contextmanager
def opened_columns(path: Path) -> Iterator[Columns]:
    """
    :param path: an HDF5 or npz file
    :return: a context with its columns, unread
    :raises ValueError: if the file is damaged
    """
    import h5py

    label = f"File {path}"
    try:
        if ending(path) in HDF5_SUFFIXES:
            with h5py.File(path, "r") as file:
                _refuse_minari(file, path)
                yield named_columns(_hdf5_columns(file))
        else:
            yield named_columns(_npz_columns(path))
    except READ_ERRORS as error:
        raise ValueError(f"{label} is damaged or cut off ({error}): fetch or write it again.") from error


def _read(
    given: Mapping[str, Any], writer: ArrayWriter, known: Known, relabel: Relabel | None, label: str, name: str
) -> Transitions:
    if relabel is None:
        return read_flat(named_columns(given), writer, known, label, name)
    given = relabelled({key: read(column) for key, column in given.items()}, relabel, label)
    columns = {key: ArrayColumn(np.asarray(array)) for key, array in given.items()}
    # Without a name: loaded by it again, the data would be others
    return read_flat(named_columns(columns), writer, known, label, None)


def relabelled(arrays: dict[str, Any], relabel: Relabel, label: str) -> Mapping[str, Any]:
    """
    :param arrays: a source's arrays by name
    :param relabel: changes them in place, or returns others
    :param label: what the source is called, for the message
    :return: the arrays afterwards
    :raises TypeError: if the function returns anything else
    """
    result = relabel(arrays)
    if result is None:
        return arrays
    if not isinstance(result, Mapping):
        raise TypeError(f"{label}: relabel= returned a {type(result).__name__}; it has to return the arrays by name, or None.")
    return result


def _hdf5_columns(file: "h5py.File") -> dict[str, ArrayColumn]:
    import h5py

    columns = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape:
            columns[name] = ArrayColumn(item)

    file.visititems(visit)
    return columns


def _refuse_minari(file: "h5py.File", path: Path) -> None:
    if "episode_0" in file:
        raise ValueError(f"File {path} holds the episodes of a Minari dataset: give its id, or the folder above its 'data'.")


def _npz_columns(path: Path) -> dict[str, NpzColumn]:
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name[: -len(".npy")] for name in archive.namelist() if name.endswith(".npy")]
        columns = {key: NpzColumn(path, key) for key in keys}
    except ValueError as error:
        # What numpy says of a header that is none
        raise ValueError(f"File {path} is damaged ({error}): fetch or write it again.") from error
    rows = {key: column for key, column in columns.items() if column.shape}
    if columns and not rows:
        raise ValueError(
            f"File {path} has no arrays with a row for each step, but single things ({', '.join(columns)}), as of "
            "numpy.savez(path, data=...): write it by numpy.savez(path, **data), with an array for each name."
        )
    return rows
