"""
LeRobot's folders, versions 2 and 3 (Cadene et al. 2024): frames in Parquet files, what they mean in ``meta/info.json``.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows
from sb3_genpolicy.common.datasets.formats.lerobot_images import decoded_images, decoded_videos
from sb3_genpolicy.common.datasets.formats.options import Asked, ColumnOptions, check_names, check_subset, names_of

USED = ("observations", "actions", "rewards", "terminals", "subset", "success_at_end")
#: What a frame's observation led to is written by `export_lerobot` alone
NEXT = "next."
_VERSION = re.compile(r"v(\d+)\.(\d+)")
_INDEX = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def read_lerobot(path: Path, asked: Asked, label: str) -> EpisodeRows:
    """
    A frame is what was seen and the action taken there. ``next.reward`` is mostly missing; ``next.done`` is the end of an
    episode by whatever cause, ``next.success`` a terminal one. Without it every episode was cut off. What the last frame led
    to is not recorded.

    :param path: the folder
    :param asked: of the options ``observations``, ``actions``, ``rewards``, ``terminals``, ``subset`` and
        ``success_at_end`` count
    :param label: what it is called
    :return: its episodes
    :raises ValueError: if files are missing or damaged, or it lacks what was asked for
    """
    options = asked.options
    options.check_used(label, USED)
    info = _info(path, label)
    frames = _Frames(path, info, label)
    keep = _subset(info, options, label)
    table = frames.table(keep)
    features = info["features"]
    keys = _observation_keys(features, options, label)
    order = np.lexsort((table.numbers("frame_index"), table.numbers("episode_index")))
    episodes = table.numbers("episode_index")[order]
    starts = np.flatnonzero(np.append(True, episodes[1:] != episodes[:-1]))
    frame = table.numbers("frame_index")[order]
    _check_frames(frame, episodes, label)

    def read(key: str) -> np.ndarray:
        kind = features[key]["dtype"]
        if kind == "video":
            return decoded_videos(path, info, key, episodes, frame, label)
        if kind == "image":
            return decoded_images(table.cells(key), tuple(features[key]["shape"]), path, f"{label}: {key}")[order]
        return table.numbers(key, tuple(features[key]["shape"]))[order]

    following = [f"{NEXT}{key}" for key in keys]
    actions = np.concatenate([_as_rows(read(key)) for key in _action_keys(features, options, label)], axis=1)
    rewards = None
    if not options.success_at_end:
        named = options.rewards or ("next.reward" if "next.reward" in features else None)
        if named is not None:
            check_names("rewards", [named], features, label)
            rewards = read(named).reshape(len(order))
    return EpisodeRows(
        observations=_tree(keys, [read(key) for key in keys]),
        actions=actions,
        rewards=rewards,
        terminals=_terminals(features, options, read, starts, len(order), label),
        starts=starts,
        next_observations=(
            _tree(keys, [read(key) for key in following]) if all(key in features for key in following) else None
        ),
        beside={key: read(key) for key in features if key not in keys and features[key]["dtype"] in _NUMBERS},
        place=lambda row: f"frame {frame[row]} of episode {episodes[row]}",
        action_space=_action_space(path, options, asked, actions, label),
    )


_NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


def _check_frames(frame: np.ndarray, episodes: np.ndarray, label: str) -> None:
    """Frames of an episode follow each other, none twice, none left out."""
    inside = episodes[1:] == episodes[:-1]
    wrong = inside & (frame[1:] != frame[:-1] + 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{label}: frame {frame[row]} of episode {episodes[row]} is followed by frame {frame[row + 1]}: frames are "
            "missing, or there twice. Fetch it whole, or leave the episode out."
        )


def _info(path: Path, label: str) -> dict[str, Any]:
    try:
        info = json.loads((path / "meta" / "info.json").read_text())
        version = _VERSION.fullmatch(str(info["codebase_version"]))
        features = info["features"]
        if not all({"dtype", "shape"} <= feature.keys() for feature in features.values()):
            raise KeyError("shape")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{label}: its meta/info.json is damaged or none of LeRobot's ({error}).") from error
    if version is None or version[1] not in ("2", "3"):
        raise ValueError(
            f"{label} is of version {info['codebase_version']}; versions 2 and 3 are read: bring it "
            "over by LeRobot's converter."
        )
    return info


def _subset(info: dict[str, Any], options: ColumnOptions, label: str) -> range | None:
    """The episodes of a split, as ``"train": "0:50"``."""
    if options.subset is None:
        return None
    splits = info.get("splits") or {}
    check_subset(options.subset, list(splits), label)
    try:
        first, last = map(int, str(splits[options.subset]).split(":"))
    except ValueError as error:
        raise ValueError(f"{label}: its split '{options.subset}' is {splits[options.subset]!r}, and no range.") from error
    return range(first, last)


class _Frames:
    """
    The Parquet files of a folder.

    :param path: the folder
    :param info: what ``info.json`` says
    :param label: what it is called
    """

    def __init__(self, path: Path, info: dict[str, Any], label: str):
        self.path, self.info, self.label = path, info, label

    def files(self, keep: range | None) -> list[Path]:
        """
        :param keep: episodes to read, all if None
        :return: the files that hold them: one an episode in version 2, many episodes a file in version 3
        """
        template = str(self.info.get("data_path", ""))
        if "episode_index" not in template:
            files = sorted((self.path / "data").glob("*/*.parquet"))
            if not files:
                raise ValueError(f"{self.label} has no Parquet files in its folder 'data': fetch it whole.")
            return files
        chunk = int(self.info.get("chunks_size") or 1000)
        wanted = range(int(self.info["total_episodes"])) if keep is None else keep
        files = []
        for episode in wanted:
            file = self.path / template.format(episode_chunk=episode // chunk, episode_index=episode)
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise ValueError(f"{self.label}: its data_path leads out of the folder, to {file}.")
            if not file.is_file():
                raise ValueError(f"{self.label} has no file of episode {episode}, {file}: fetch it whole.")
            files.append(file)
        return files

    def table(self, keep: range | None) -> "_Table":
        """
        :param keep: episodes to read, all if None
        :return: their frames
        """
        try:
            import pyarrow as pa
            import pyarrow.compute as pc
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ValueError(f"{self.label} needs pyarrow to be read: pip install pyarrow (the extra [tables]).") from error
        tables = []
        for file in self.files(keep):
            try:
                tables.append(pq.read_table(file))
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"File {file} is damaged or cut off ({error}): fetch it again.") from error
        table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
        told = self.info.get("total_frames")
        if keep is None and told is not None and table.num_rows != told:
            raise ValueError(
                f"{self.label} is not whole: its info.json says {told} frames, and its files have {table.num_rows}."
            )
        if keep is not None:
            table = table.filter(pc.is_in(table["episode_index"], pa.array(list(keep), pa.int64())))
        if table.num_rows == 0:
            raise ValueError(f"{self.label} is empty: it has no frames to learn from.")
        return _Table(table, self.label)


class _Table:
    """
    :param table: of pyarrow
    :param label: what it is called
    """

    def __init__(self, table: Any, label: str):
        self.table, self.label = table, label

    def cells(self, key: str) -> list[Any]:
        """
        :param key: of a feature
        :return: its cells
        """
        self._check(key)
        return self.table[key].to_pylist()

    def numbers(self, key: str, shape: tuple[int, ...] = ()) -> np.ndarray:
        """
        :param key: of a feature
        :param shape: of one frame of it
        :return: (n_frames, \\*shape)
        """
        self._check(key)
        column = self.table[key].combine_chunks()
        column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        if column.null_count:
            raise ValueError(f"{self.label}: {key} is empty in row {column.is_null().to_pylist().index(True)}.")
        while str(column.type).startswith(("list", "fixed_size_list", "large_list", "extension")):
            column = column.storage if str(column.type).startswith("extension") else column.flatten()
        flat = column.to_numpy(zero_copy_only=False)
        size = int(np.prod(shape, dtype=np.int64))
        if len(flat) != self.table.num_rows * size:
            raise ValueError(
                f"{self.label}: {key} has {len(flat)} numbers in {self.table.num_rows} frames, but its shape is {shape}."
            )
        return flat.reshape(self.table.num_rows, *shape)

    def _check(self, key: str) -> None:
        if key not in self.table.column_names:
            raise ValueError(f"{self.label} has no column '{key}', which its info.json names.")


def _observation_keys(features: dict[str, Any], options: ColumnOptions, label: str) -> list[str]:
    there = [key for key in features if not key.startswith((NEXT, "action")) and key not in _INDEX]
    asked = names_of(options.observations)
    if asked is not None:
        check_names("observations", asked, there, label)
        return asked
    observed = [key for key in there if key.startswith("observation")]
    numbers = [key for key in observed if features[key]["dtype"] in _NUMBERS]
    others = [key for key in observed if key not in numbers]
    if not observed:
        raise ValueError(f"{label} has no observations; it has {', '.join(features)}.")
    if others:
        what = ", ".join(f"{key} ({features[key]['dtype']})" for key in others)
        if not numbers:
            raise ValueError(f"{label} has no observations but {what}: choose by observations=[...].")
        warnings.warn(
            f"{label}: the observations {what} are left out; those that are read are {', '.join(numbers)}. Choose by "
            "observations=[...].",
            stacklevel=2,
        )
    return numbers


def _action_keys(features: dict[str, Any], options: ColumnOptions, label: str) -> list[str]:
    asked = names_of(options.actions)
    if asked is None:
        asked = ["action"] if "action" in features else [key for key in features if key.startswith("action.")]
        if not asked:
            raise ValueError(f"{label} has no feature 'action'; it has {', '.join(features)}.")
    check_names("actions", asked, features, label)
    return asked


def _terminals(features: Any, options: ColumnOptions, read: Any, starts: np.ndarray, n_rows: int, label: str) -> np.ndarray:
    terminals = np.zeros(n_rows, dtype=bool)
    if "next.done" in features and options.terminals is None:
        _warn_of_done_inside(read("next.done").reshape(n_rows) > 0, starts, label)
    if isinstance(options.terminals, str):
        check_names("terminals", [options.terminals], features, label)
        return read(options.terminals).reshape(n_rows) > 0
    if options.terminals is True:
        terminals[np.append(starts[1:], n_rows) - 1] = True
    if options.terminals is None:
        for key in ("next.success", "next.terminated"):
            if key in features:
                terminals |= read(key).reshape(n_rows) > 0
    return terminals


def _warn_of_done_inside(done: np.ndarray, starts: np.ndarray, label: str) -> None:
    inside = done.copy()
    inside[np.append(starts[1:], len(done)) - 1] = False
    if inside.any():
        warnings.warn(
            f"{label}: 'next.done' is set in {inside.sum()} frames that are not the last of their episode, first in row "
            f"{int(np.argmax(inside))}: episodes are taken by their 'episode_index'.",
            stacklevel=2,
        )


def _action_space(path: Path, options: ColumnOptions, asked: Asked, actions: np.ndarray, label: str) -> spaces.Box | None:
    """From the least to the largest action, as the statistics of the dataset say."""
    if asked.known.action_space is not None:
        return None
    keys = names_of(options.actions) or ["action"]
    stats = _stats(path)
    if all(key in stats for key in keys):
        low, high = (np.concatenate([np.ravel(stats[key][name]) for key in keys]) for name in ("min", "max"))
    else:
        low, high = actions.min(axis=0), actions.max(axis=0)
    if low.shape != actions.shape[1:] or not np.isfinite([low, high]).all():
        raise ValueError(f"{label}: its statistics of 'action' are not those of {actions.shape[1]} numbers.")
    # An entry that never changes
    still = high <= low
    low, high = np.where(still, low - 1.0, low), np.where(still, high + 1.0, high)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _stats(path: Path) -> dict[str, Any]:
    """Of the whole, or of every episode (version 2.1)."""
    try:
        if (path / "meta" / "stats.json").is_file():
            return json.loads((path / "meta" / "stats.json").read_text())
        lines = (path / "meta" / "episodes_stats.jsonl").read_text().splitlines()
        each = [json.loads(line)["stats"] for line in lines if line.strip()]
        return {
            key: {
                name: function([np.ravel(stats[key][name]) for stats in each], axis=0)
                for name, function in (("min", np.min), ("max", np.max))
            }
            for key in each[0]
            if key.startswith("action")
        }
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return {}


def _as_rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def _tree(keys: list[str], arrays: list[np.ndarray]) -> Any:
    return dict(zip(keys, arrays, strict=True)) if len(keys) > 1 else arrays[0]
