"""
Sources of other tools become records.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.flat import read_flat
from sb3_genpolicy.common.datasets.formats import table
from sb3_genpolicy.common.datasets.formats.d3rlpy import read_d3rlpy, read_d3rlpy_v1
from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, as_columns
from sb3_genpolicy.common.datasets.formats.imitation import read_imitation, read_imitation_npz
from sb3_genpolicy.common.datasets.formats.lerobot import read_lerobot
from sb3_genpolicy.common.datasets.formats.options import Asked, ColumnOptions
from sb3_genpolicy.common.datasets.formats.robomimic import read_robomimic
from sb3_genpolicy.common.datasets.formats.sb2 import read_sb2
from sb3_genpolicy.common.datasets.formats.signatures import Kind, label_of_file
from sb3_genpolicy.common.datasets.formats.step_files import read_dreamer_chunks, read_step_files
from sb3_genpolicy.common.datasets.formats.table_cells import columns_of_file, columns_of_frame
from sb3_genpolicy.common.datasets.formats.tianshou import read_tianshou
from sb3_genpolicy.common.datasets.formats.torchrl import read_torchrl
from sb3_genpolicy.common.datasets.formats.trajectories import read_pickle, read_trajectories
from sb3_genpolicy.common.datasets.mappings import mapping_columns
from sb3_genpolicy.common.datasets.row_reader import READ_ERRORS
from sb3_genpolicy.common.transitions.transitions import Transitions

#: Reads a source at a path, called so in messages
Reader = Callable[[Path, Asked, str], EpisodeRows]


def _read_table_file(key: str) -> Reader:
    def read(path: Path, asked: Asked, label: str) -> EpisodeRows:
        return table.read_table(columns_of_file(path, key), asked.options, asked.known, label)

    return read


def _by_options(function: Callable[[Path, ColumnOptions, str], EpisodeRows]) -> Reader:
    return lambda path, asked, label: function(path, asked.options, label)


#: Key of a kind -> its reader
READERS: dict[str, Reader] = {
    **{key: _read_table_file(key) for key in ("csv", "parquet", "feather")},
    "robomimic": _by_options(read_robomimic),
    "d3rlpy": _by_options(read_d3rlpy),
    "d3rlpy_v1": _by_options(read_d3rlpy_v1),
    "tianshou": _by_options(read_tianshou),
    "torchrl": _by_options(read_torchrl),
    "sb2": _by_options(read_sb2),
    "imitation": _by_options(read_imitation),
    "imitation_npz": _by_options(read_imitation_npz),
    "step_files": _by_options(read_step_files),
    "dreamer_chunks": _by_options(read_dreamer_chunks),
    "lerobot": read_lerobot,
}


#: Keys of what has readers of its own beside these
OWN_KINDS = ("columns", "minari", "buffer")


def read_path(path: Path, kind: Kind, writer: ArrayWriter, asked: Asked) -> Transitions:
    """
    :param path: a file or folder
    :param kind: what it is
    :param writer: where the arrays go
    :param asked: what was told beside
    :return: the record, checked
    :raises ValueError: if it is damaged, is not read here, or does not hold a dataset
    """
    label = label_of_file(path, kind)
    # With options or changes, another dataset would come of the name alone
    name = os.fspath(path) if not asked.options.given and asked.relabel is None else None
    if kind.key == "pickle":
        return _read_pickle(path, writer, asked, label, name)
    if kind.key not in READERS:
        raise ValueError(f"{label} is not read here: {kind.way_on}.")
    try:
        rows = READERS[kind.key](path, asked, label)
    except READ_ERRORS as error:
        raise ValueError(f"{label} is damaged or cut off ({error}): fetch or write it again.") from error
    return read_rows(rows, writer, asked, label, name)


def _read_pickle(path: Path, writer: ArrayWriter, asked: Asked, label: str, name: str | None) -> Transitions:
    held = read_pickle(path, label)
    if isinstance(held, Mapping):
        asked.options.check_used(label, ())
        columns, known = mapping_columns(held, asked.known, asked.relabel, label)
        return read_flat(columns, writer, known, label, name)
    return read_rows(read_trajectories(held, asked.options, label), writer, asked, label, name)


def read_frame(frame: Any, writer: ArrayWriter, asked: Asked, label: str) -> Transitions:
    """
    :param frame: of pandas or polars
    :param writer: where the arrays go
    :param asked: what was told beside
    :param label: what it is called in messages
    :return: the record, checked
    """
    rows = table.read_table(columns_of_frame(frame), asked.options, asked.known, label)
    return read_rows(rows, writer, asked, label, None)


def read_list(sources: Sequence[Any], writer: ArrayWriter, asked: Asked) -> Transitions:
    """
    :param sources: trajectories or transitions, see :func:`read_trajectories`
    :param writer: where the arrays go
    :param asked: what was told beside
    :return: the record, checked
    """
    label = "The list"
    return read_rows(read_trajectories(sources, asked.options, label), writer, asked, label, None)


def read_rows(rows: EpisodeRows, writer: ArrayWriter, asked: Asked, label: str, name: str | None) -> Transitions:
    """
    :param rows: of episodes
    :param writer: where the arrays go
    :param asked: what was told beside
    :param label: what the source is called
    :param name: the name that it can be loaded by again
    :return: the record, checked
    """
    columns = as_columns(rows, label, asked.relabel, asked.options.success_at_end)
    return read_flat(columns, writer, rows.known(asked.known), label, name)
