"""
Every source of logged data becomes one :class:`~sb3_genpolicy.common.transitions.transitions.Transitions` record.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

import numpy as np
from gymnasium import spaces
from minari import MinariDataset
from minari.serialization import serialize_space
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy.common.datasets.arrays import ArrayWriter, MemoryWriter, NotWritten, machine_memory
from sb3_genpolicy.common.datasets.cache import CACHE_VARIABLE, CacheEntry, cache_root
from sb3_genpolicy.common.datasets.checks import (
    check_action_bounds,
    check_spaces,
    check_transitions,
    label_of,
    storage_dtype,
    stored_shape,
)
from sb3_genpolicy.common.datasets.concatenation import concatenate
from sb3_genpolicy.common.datasets.download import is_remote
from sb3_genpolicy.common.datasets.embedded import EMBEDDED, read_embedded
from sb3_genpolicy.common.datasets.files import Relabel, opened_columns, read_file
from sb3_genpolicy.common.datasets.fitting import in_action_space
from sb3_genpolicy.common.datasets.formats.options import Asked, ColumnOptions, Names
from sb3_genpolicy.common.datasets.formats.reading import OWN_KINDS, read_frame, read_list, read_path
from sb3_genpolicy.common.datasets.formats.signatures import Kind, describe, recognise
from sb3_genpolicy.common.datasets.formats.table_cells import is_frame
from sb3_genpolicy.common.datasets.formats.trajectories import are_trajectories, trajectories_by_name
from sb3_genpolicy.common.datasets.lists import merged_warnings
from sb3_genpolicy.common.datasets.mappings import mapping_columns, read_joined, read_mapping
from sb3_genpolicy.common.datasets.minari_opening import open_minari
from sb3_genpolicy.common.datasets.minari_source import minari_name, read_minari
from sb3_genpolicy.common.datasets.names import Columns, Known, infer_action_space, infer_observation_space, missing_key
from sb3_genpolicy.common.datasets.paths import FILE_SUFFIXES, HDF5_SUFFIXES, NPZ_SUFFIXES, PICKLE_SUFFIXES, ending
from sb3_genpolicy.common.datasets.sb3_source import load_buffer, read_buffer
from sb3_genpolicy.common.datasets.suites import suite_scores
from sb3_genpolicy.common.datasets.time_limits import suspect_time_limit
from sb3_genpolicy.common.transitions.transforms import ActionTransform
from sb3_genpolicy.common.transitions.transitions import Transitions, check_reference_scores
from sb3_genpolicy.common.utils import space_items, tree_items
from sb3_genpolicy.generative.checks import named_arguments

#: One source, see :func:`load_dataset`
OneSource = Union[str, os.PathLike[str], MinariDataset, ReplayBuffer, Mapping[str, Any], Transitions]  # noqa: UP007
#: What a dataset can be given as, see :func:`load_dataset`
DatasetSource = Union[OneSource, Sequence[OneSource]]  # noqa: UP007

#: Between the names of several sources that were loaded as one
JOINT = " + "
# Reading that takes longer, in seconds, is kept as flat files
_SLOW = 1.0
# A record of more than this share of the machine's memory stays on disk
_LARGE = 0.5


@named_arguments
def load_dataset(
    source: DatasetSource,
    *,
    download: bool = False,
    memory_map: bool | None = None,
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
    reference_scores: tuple[float, float] | None = None,
    relabel: Relabel | None = None,
    action_transforms: Sequence[ActionTransform] = (),
    episode: str | None = None,
    order: str | None = None,
    observations: Names | None = None,
    actions: Names | None = None,
    rewards: str | None = None,
    terminals: str | bool | None = None,
    timeouts: str | None = None,
    subset: str | None = None,
    success_at_end: bool = False,
) -> Transitions:
    """
    Read logged data, whatever holds them, and check them. The source is left as it is.

    :param source: one of

        - the id of a Minari dataset (``"mujoco/hopper/medium-v0"``), the folder of one, its remote address
          (``"hf://farama-minari/mujoco/hopper/medium-v0"``, fetched if it is not here), or a Minari dataset object;
        - the name of a dataset that ships with the package: ``"pendulum-mixed"``;
        - a path to an HDF5 file of D4RL's layout, or to an npz file (OGBench, RL Unplugged, or own arrays);
        - an SB3 ``ReplayBuffer``, ``DictReplayBuffer`` or ``HerReplayBuffer``, or the pickle of one (``.pkl``), whose scaled
          actions are brought back to the environment's units;
        - a mapping of arrays. ``observations``, ``actions``, ``rewards`` and ``terminals`` are needed, ``next_observations``
          and ``timeouts`` where they tell more; ``observation_space``, ``action_space``, ``env_id`` and ``reference_scores``
          may come with them. Other conventions' names (``obs``, ``dones``, ``masks``, ...) are understood;
        - a table, a row for each step: a frame of pandas or polars, a CSV, Parquet or Feather file, with ``observations=``,
          ``actions=``, ``rewards=``, ``terminals=`` and ``episode=`` naming its columns;
        - a file or folder of another tool, recognised by what is in it: LeRobot, robomimic, d3rlpy, Tianshou, TorchRL,
          imitation, Stable-Baselines2, Dreamer, DrQ-v2 and ExoRL; lists of trajectories or transitions (dictionaries of
          arrays), and their pickles;
        - a ``Transitions`` record;
        - a list of such sources of the same spaces, whose episodes follow each other.
    :param download: whether a Minari dataset that is not on this machine is fetched, by Minari
    :param memory_map: whether the rows stay on disk, in flat files, and are read as they are drawn. Default: where they would
        take more than half of the machine's memory.
    :param observation_space: space of the observations, for sources that do not say (files, mappings). Default: unbounded.
    :param action_space: space of the actions, for sources that do not say, or say no bounds. Default: from -1 to 1, if the
        actions fit. Where a source says another one, its actions are taken as they are, with a warning.
    :param reference_scores: returns that count as scores of 0 and 100, likewise; of tasks of the DeepMind Control suite 0 and
        1000 by default
    :param relabel: for files and mappings, a function of all arrays by name that changes some (OGBench's rewards of a task)
    :param action_transforms: what is done to the actions before their bounds are checked, see
        :mod:`sb3_genpolicy.common.transitions.transforms`
    :param episode: of tables, the column of the episodes' ids. Rows are put in the order in which ids first appear
    :param order: of tables, the column of numbers, times or dates that rows of an episode are sorted by. Default: as they
        stand, where an id that comes back after others is an error
    :param observations: of tables, columns (of numbers or of lists) that make up the observation; of robomimic, LeRobot and
        Dreamer, the observations to take. Default: all that are numbers
    :param actions: of tables, columns that make up the action, as a mapping with the lowest and the highest value of each,
        ``{"dose": (0, 5)}``. Without bounds: -1 to 1
    :param rewards: of tables, the column of rewards
    :param terminals: of tables, the column of flags of steps after which nothing is earned, or True if every episode ended
        by itself, False if none did; of sources that cannot tell such ends from time limits, True or False
    :param timeouts: of tables, the column of flags of steps after which the episode was cut off
    :param subset: of robomimic, a filter of its ``mask``, as ``"train"``; of LeRobot, a split of its ``info.json``
    :param success_at_end: whether every episode succeeded at its end, where nothing says what steps earned: its last step
        earns 1 and is terminal, all others earn 0
    :return: the record
    :raises ValueError: if there is no such dataset, or it is damaged, empty, misshapen, non-finite or has actions outside
        their bounds; the message says what was found, where, and what to do
    :raises TypeError: if the source is of no kind known
    """
    # A list where they come from a saved model
    scores = None if reference_scores is None else check_reference_scores(reference_scores)
    known = Known(observation_space, action_space, None, scores, tuple(action_transforms))
    asked = ColumnOptions(episode, order, observations, actions, rewards, terminals, timeouts, subset, success_at_end)
    options = _Options(download, memory_map, known, relabel, asked)
    if isinstance(source, str) and JOINT in source and not Path(source).exists():
        source = source.split(JOINT)
    parts: Sequence[Any] = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    data = in_action_space(_load_list(parts, options), known)
    if not all(isinstance(part, Transitions) for part in parts):
        # Of a record it was said when it was read
        suspect_time_limit(data, "The replay buffer" if isinstance(source, ReplayBuffer) else label_of(data))
    return data if data.reference_scores is not None else replace(data, reference_scores=suite_scores(data.env_id))


class _Options:
    """What :func:`load_dataset` was asked for beside the source."""

    def __init__(self, download: bool, memory_map: bool | None, known: Known, relabel: Relabel | None, columns: ColumnOptions):
        self.download, self.memory_map, self.known, self.relabel = download, memory_map, known, relabel
        self.columns = columns

    @property
    def asked(self) -> Asked:
        return Asked(self.columns, self.known, self.relabel)


def _load_list(sources: Sequence[Any], options: _Options) -> Transitions:
    if not sources:
        raise ValueError("The list of sources is empty: give at least one.")
    if are_trajectories(sources):
        return read_list(sources, MemoryWriter(), options.asked)
    if len(sources) == 1:
        return _load_one(sources[0], options)
    if options.memory_map is None:
        options.memory_map = _stays_on_disk(None, sum(_bytes_of(part, options.download) for part in sources)) or None
    if not options.memory_map and options.relabel is None and not options.columns.given:
        whole = read_joined(sources, options.known)
        if whole is not None:
            return whole
    with merged_warnings():
        parts = [_load_one(part, options, f" (number {number} of the list)") for number, part in enumerate(sources)]
    names = [part.name for part in parts]
    name = JOINT.join(str(name) for name in names) if all(names) else None
    if options.memory_map or any(part.memory_mapped for part in parts):
        if name is None:
            raise ValueError("Only sources with a name (ids and files) can be joined on disk: load the others in memory.")
        files = [file for part in parts for file in _files_of(str(part.name))]
        entry = CacheEntry(files, f"joined {name} {_in_words(options.known)}")
        return replace(_on_disk(entry, lambda writer: concatenate(parts, name, writer)), name=name)
    return concatenate(parts, name, MemoryWriter())


def _load_one(source: Any, options: _Options, place: str = "") -> Transitions:
    known, relabel = options.known, options.relabel
    if is_frame(source):
        return read_frame(source, MemoryWriter(), options.asked, f"The table{place}")
    if not isinstance(source, (str, os.PathLike)):
        options.columns.check_used(f"The source{place}", ())
    if isinstance(source, Transitions):
        return check_transitions(_with_transformed_actions(source, known))
    if isinstance(source, ReplayBuffer):
        return read_buffer(source, MemoryWriter(), known, f"The replay buffer{place}")
    if isinstance(source, MinariDataset):
        return _load_minari(source, options)
    if isinstance(source, Mapping):
        held = trajectories_by_name(source)
        if held is not None:
            return read_list(held, MemoryWriter(), options.asked)
        return read_mapping(source, known, relabel, f"The dataset{place}")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"A dataset cannot be a {type(source).__name__}: give a Minari id or dataset, a file (HDF5, npz, pkl), the name "
            f"of an embedded dataset ({', '.join(EMBEDDED)}), an SB3 replay buffer, a mapping of arrays, or a list of these."
        )
    name, path = os.fspath(source), Path(source).expanduser()
    kind = _other_kind(source)
    if kind is not None:
        return _load_other(path, kind, options)
    if options.columns.given and ending(path) not in FILE_SUFFIXES and path.is_file():
        raise ValueError(f"{describe(path)} Tables are known by .csv or .tsv, or by what is in them; others pandas reads.")
    options.columns.check_used(f"Dataset '{name}'", ())
    if name in EMBEDDED:
        return _with_transformed_actions(read_embedded(name), known)
    if ending(path) in FILE_SUFFIXES:
        if not path.is_file():
            raise ValueError(f"There is no file {path} (looked for in {Path.cwd()}).")
        if ending(path) in PICKLE_SUFFIXES:
            return replace(read_buffer(load_buffer(path), MemoryWriter(), known, f"File {path}"), name=name)
        return _load_file(path, options)
    return _load_minari(open_minari(source, options.download), options)


def _other_kind(source: str | os.PathLike[str]) -> Kind | None:
    """What a file or folder of another tool, or a table, is."""
    path = Path(source).expanduser()
    kind = recognise(path) if os.fspath(source) not in EMBEDDED and path.exists() else None
    return None if kind is None or kind.key in OWN_KINDS else kind


def _load_other(path: Path, kind: Kind, options: _Options) -> Transitions:
    """A file or folder of another tool, or a table."""

    def read(writer: ArrayWriter) -> Transitions:
        return read_path(path, kind, writer, options.asked)

    if not options.memory_map:
        return read(MemoryWriter())
    if options.relabel is not None:
        raise ValueError("relabel= holds all arrays in memory: leave out memory_map.")
    entry = CacheEntry(_all_files(path), f"{_in_words(options.known)} {options.columns}")
    return replace(_on_disk(entry, read), name=None if options.columns.given else os.fspath(path))


def _all_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]


def _with_transformed_actions(data: Transitions, known: Known) -> Transitions:
    if not known.action_transforms:
        return data
    space = known.space_for(data.action_space)
    assert isinstance(space, spaces.Box)
    actions = known.transformed(data.actions, space).astype(np.float32)
    check_action_bounds(actions, space, f"{label_of(data)}: actions", data.where)
    return replace(data, actions=actions, action_space=space)


def _load_file(path: Path, options: _Options) -> Transitions:
    known = options.known
    entry = CacheEntry([path], _in_words(known))

    def read(writer: ArrayWriter) -> Transitions:
        return read_file(path, writer, known, options.relabel)

    if options.relabel is not None:
        if options.memory_map:
            raise ValueError(
                "relabel= holds all arrays in memory: write what it makes to a file, and load that with memory_map."
            )
        return read(MemoryWriter())
    on_disk = _stays_on_disk(options.memory_map, _bytes_of(path))
    data = _on_disk(entry, read) if on_disk else _kept_if_slow(entry, read)
    # Flat files may have been written by another way to the same file
    return replace(data, name=str(path))


def _in_words(known: Known) -> str:
    # Spaces whole: printed, the bounds of a large one are cut short
    told = [None if space is None else serialize_space(space) for space in (known.observation_space, known.action_space)]
    return f"{told} {known.reference_scores} {known.action_transforms}"


def _load_minari(dataset: MinariDataset, options: _Options) -> Transitions:
    episodes = np.asarray(dataset.episode_indices).tolist()
    entry = CacheEntry(_minari_files(dataset), f"episodes {episodes} {_in_words(options.known)}")

    def read(writer: ArrayWriter) -> Transitions:
        return read_minari(dataset, writer, options.known)

    on_disk = _stays_on_disk(options.memory_map, _bytes_of(dataset))
    data = _on_disk(entry, read) if on_disk else _kept_if_slow(entry, read)
    return replace(data, name=minari_name(dataset))


def _bytes_of(source: Any, download: bool = False) -> int:
    """About what the observations of a source will take, 0 where they are in memory already."""
    if isinstance(source, (str, os.PathLike)) and os.fspath(source) not in EMBEDDED:
        path = Path(source).expanduser()
        if ending(path) in HDF5_SUFFIXES + NPZ_SUFFIXES and path.is_file() and _other_kind(source) is None:
            with opened_columns(path) as columns:
                arrays = tree_items(columns.get("observations", {}), "")
                return sum(math.prod(column.shape) * min(column.dtype.itemsize, 4) for _, column in arrays)
        if path.is_file() or ending(path) in FILE_SUFFIXES or _other_kind(source) is not None:
            # A pickle is in memory as soon as it is read; what cannot be read is said by who reads it
            return 0
        source = open_minari(source, download)
    if isinstance(source, MinariDataset):
        parts = [space for _, space in space_items(source.observation_space, "") if space.shape is not None]
        return source.total_steps * sum(math.prod(stored_shape(part)) * storage_dtype(part)().itemsize for part in parts)
    return 0


def _stays_on_disk(asked: bool | None, n_bytes: int) -> bool:
    if asked is not None:
        return asked
    return n_bytes > _LARGE * machine_memory()


def _on_disk(entry: CacheEntry, read: Callable[[ArrayWriter], Transitions]) -> Transitions:
    data = entry.load(memory_map=True)
    while data is None:
        try:
            entry.write(read)
        except NotWritten as error:
            raise ValueError(
                f"The rows cannot be written to {cache_root()} ({error}), from where they would be read as they are drawn: "
                f"make room, or name another folder in the environment variable {CACHE_VARIABLE}."
            ) from error
        # None where another process is putting its own in their place
        data = entry.load(memory_map=True)
    return data


def _kept_if_slow(entry: CacheEntry, read: Callable[[ArrayWriter], Transitions]) -> Transitions:
    data = entry.load(memory_map=False)
    if data is None:
        start = time.perf_counter()
        data = read(MemoryWriter())
        if time.perf_counter() - start > _SLOW:
            entry.keep(data)
    return data


def dataset_spaces(source: DatasetSource, check_actions: bool = True) -> tuple[spaces.Space, spaces.Space]:
    """
    The spaces of a dataset, without reading all rows.

    :param source: as for :func:`load_dataset`
    :param check_actions: whether actions beyond -1 and 1 are a fault where the source does not say their bounds
    :return: observation space and action space
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        if not source:
            raise ValueError("The list of sources is empty: give at least one.")
        return dataset_spaces(source[0], check_actions)
    if isinstance(source, str) and JOINT in source and not Path(source).exists():
        return dataset_spaces(source.split(JOINT)[0], check_actions)
    if isinstance(source, (str, os.PathLike)) and os.fspath(source) not in EMBEDDED and _other_kind(source) is None:
        path = Path(source).expanduser()
        if ending(path) in HDF5_SUFFIXES + NPZ_SUFFIXES and path.is_file():
            return _spaces_of_file(path, check_actions)
        if ending(path) not in FILE_SUFFIXES:
            source = open_minari(source, is_remote(os.fspath(source)))
    if isinstance(source, (MinariDataset, ReplayBuffer, Transitions)):
        return source.observation_space, source.action_space
    if isinstance(source, Mapping):
        columns, known = mapping_columns(source, Known(), None)
        return _spaces_of_columns(columns, known, "The dataset", check_actions)
    data = load_dataset(source)
    return data.observation_space, data.action_space


def _spaces_of_file(path: Path, check_actions: bool) -> tuple[spaces.Space, spaces.Space]:
    with opened_columns(path) as columns:
        return _spaces_of_columns(columns, Known(), f"File {path}", check_actions)


def _spaces_of_columns(columns: Columns, known: Known, label: str, check_actions: bool) -> tuple[spaces.Space, spaces.Space]:
    for key in ("observations", "actions"):
        if key not in columns:
            raise ValueError(missing_key(columns, label, key))
    observation_space = known.observation_space or infer_observation_space(columns["observations"])
    action_space = known.action_space or infer_action_space(columns["actions"], label, check_actions)
    check_spaces(observation_space, action_space, label)
    return observation_space, action_space


def _files_of(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if name in EMBEDDED:
        return []
    if _other_kind(name) is not None:
        return _all_files(path)
    return [path] if path.is_file() else _minari_files(open_minari(name))


def _minari_files(dataset: MinariDataset) -> list[Path]:
    return [path for path in Path(dataset.storage.data_path).rglob("*") if path.is_file()]
