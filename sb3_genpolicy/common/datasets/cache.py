"""
A cache of flat files: a source that is slow to read is read only once, and one larger than memory is mapped from disk.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from minari.serialization import deserialize_space, serialize_space

from sb3_genpolicy.common.datasets.arrays import FileWriter, NotWritten, map_file, read_file
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import space_items, tree_items, tree_of

#: Environment variable: the folder of flat files
CACHE_VARIABLE = "SB3_GENPOLICY_CACHE"
# Files of another version of the layout are written anew
_VERSION = 2
_COLUMNS = ("actions", "rewards", "terminals", "timeouts", "ends", "next_rows")
# Arrays that are read as a whole, not row by row at random
_WHOLE = ("rewards", "terminals", "timeouts", "ends")


def cache_root() -> Path:
    """
    :return: the folder of flat files: what ``SB3_GENPOLICY_CACHE`` says, ``~/.cache/sb3_genpolicy`` by default
    """
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "sb3_genpolicy").expanduser()


class CacheEntry:
    """
    The flat files of one source. They count only as long as the source's files and what else it was read with are the same.

    :param source: the files that a record was read from
    :param settings: what else the record depends on, in words
    """

    def __init__(self, source: list[Path], settings: str):
        files = sorted(path.resolve() for path in source)
        place = hashlib.sha256("\n".join([*map(str, files), settings]).encode()).hexdigest()[:16]
        stats = [(path, path.stat()) for path in files]
        state = [_VERSION, *((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)]
        self.stamp = hashlib.sha256(json.dumps(state).encode()).hexdigest()
        self.folder = cache_root() / place

    def load(self, memory_map: bool) -> Transitions | None:
        """
        :param memory_map: whether the arrays are mapped, and read as they are looked at
        :return: the record, None where there is none of the source as it is now
        """
        try:
            record = json.loads((self.folder / "record.json").read_text())
            if record["stamp"] != self.stamp:
                return None
            return _load(self.folder, record, memory_map)
        except (OSError, ValueError, KeyError):
            # No files, or not as they were written: they are written again
            return None

    def write(self, read: Callable[[FileWriter], Transitions]) -> None:
        """
        Write a record's files; another process sees all of them or none.

        :param read: reads the source into a writer
        :raises NotWritten: if there is no room, or no right to write
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.part-", dir=self.folder.parent))
        except OSError as error:
            raise NotWritten(str(error)) from error
        try:
            writer = FileWriter(part)
            record = dict(_describe(read(writer)), arrays=writer.layout, stamp=self.stamp)
            self._put_in_place(part, json.dumps(record))
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _put_in_place(self, part: Path, record: str) -> None:
        try:
            (part / "record.json").write_text(record)
            shutil.rmtree(self.folder, ignore_errors=True)
            part.rename(self.folder)
        except OSError as error:
            # Another process, which read the same source, may have been first
            if not (self.folder / "record.json").exists():
                raise NotWritten(str(error)) from error

    def keep(self, data: Transitions) -> None:
        """
        Write what is in memory, if that can be done.

        :param data: a record of this source
        """
        try:
            self.write(lambda writer: _store(data, writer))
        except NotWritten:
            # The cache only saves time: go on without it
            pass


def _store(data: Transitions, writer: FileWriter) -> Transitions:
    for name, array in named_arrays(data):
        writer.store(name, array)
    return data


def named_arrays(data: Transitions) -> list[tuple[str, np.ndarray]]:
    """
    :param data: a record
    :return: its arrays, by the names that they are written under
    """
    return [*tree_items(data.states, "observations"), *((key, getattr(data, key)) for key in _COLUMNS)]


def _describe(data: Transitions) -> dict[str, Any]:
    return dict(
        observation_space=serialize_space(data.observation_space),
        action_space=serialize_space(data.action_space),
        name=data.name,
        env_id=data.env_id,
        reference_scores=data.reference_scores,
        inferred_cuts=data.inferred_cuts,
    )


def _load(folder: Path, record: dict[str, Any], memory_map: bool) -> Transitions:
    arrays = {}
    for name, entry in record["arrays"].items():
        place = folder / entry["file"], tuple(entry["shape"]), entry["dtype"]
        arrays[name] = map_file(*place, drawn=name not in _WHOLE) if memory_map else read_file(*place)
    observation_space = deserialize_space(record["observation_space"])
    parts = [arrays[name] for name, _ in space_items(observation_space, "observations")]
    scores = record["reference_scores"]
    return Transitions(
        states=tree_of(observation_space, parts),
        **{key: arrays[key] for key in _COLUMNS},
        observation_space=observation_space,
        action_space=deserialize_space(record["action_space"]),
        name=record["name"],
        env_id=record["env_id"],
        reference_scores=None if scores is None else tuple(scores),
        inferred_cuts=int(record["inferred_cuts"]),
        memory_mapped=memory_map,
    )
