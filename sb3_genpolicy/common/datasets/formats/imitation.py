"""
imitation's trajectories: npz files of all of them, and folders that the library `datasets` saved, one row a trajectory.
"""

import base64
import io
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, join_episodes
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions
from sb3_genpolicy.common.files.plain_pickles import unpickle_plain

USED = ("success_at_end",)
_CUT = "TimeLimit.truncated"


def read_imitation_npz(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    ``terminal`` of a trajectory is 1 wherever the environment's wrapper was done, a time limit counted in; SB3's infos of the
    last step say which it was.

    :param path: the file
    :param options: ``success_at_end`` counts
    :param label: what it is called
    :return: its trajectories, each with its last observation
    """
    options.check_used(label, USED)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in ("obs", "acts", "rews", "indices", "terminal") if key in archive}
    infos = _infos_of_npz(path, label)
    indices = arrays["indices"].reshape(-1)
    n_episodes = len(arrays["terminal"].reshape(-1))
    # Where the next begins; files of some versions end with the number of all
    parts = indices[: n_episodes - 1]
    split = dict(
        observations=np.split(arrays["obs"], parts + np.arange(len(parts)) + 1),
        actions=np.split(arrays["acts"], parts),
    )
    if "rews" in arrays and not options.success_at_end:
        split["rewards"] = np.split(arrays["rews"], parts)
    ends = np.append(parts, len(arrays["acts"])) - 1
    cut = [None if infos is None else _says_cut(infos[int(end)]) for end in ends]
    return _joined(split, arrays["terminal"].reshape(-1) > 0, cut, label)


def _infos_of_npz(path: Path, label: str) -> Any:
    """An array of dictionaries, which numpy pickles; None where it is absent or holds more than plain values."""
    with zipfile.ZipFile(path) as archive:
        if "infos.npy" not in archive.namelist():
            return None
        stream = io.BytesIO(archive.read("infos.npy"))
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if not read(stream)[2].hasobject:
        return None
    try:
        return unpickle_plain(stream, label)
    except ValueError:
        return None


def read_imitation(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    :param path: a folder that imitation's ``serialize.save`` wrote
    :param options: as for :func:`read_imitation_npz`
    :param label: what it is called
    :return: its trajectories, each with its last observation
    """
    options.check_used(label, USED)
    rows = _arrow_rows(path, label)
    for key in ("obs", "acts", "terminal"):
        if key not in rows[0]:
            raise ValueError(f"{label} has no column '{key}'; it has {', '.join(rows[0])}.")
    split = dict(
        observations=[np.asarray(row["obs"]) for row in rows],
        actions=[np.asarray(row["acts"]) for row in rows],
    )
    if "rews" in rows[0] and not options.success_at_end:
        split["rewards"] = [np.asarray(row["rews"]) for row in rows]
    cut = [_says_cut(_plain_json(row["infos"][-1])) if row.get("infos") else None for row in rows]
    return _joined(split, np.array([bool(row["terminal"]) for row in rows]), cut, label)


def _arrow_rows(path: Path, label: str) -> list[dict[str, Any]]:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ValueError(f"{label} needs pyarrow to be read: pip install pyarrow (the extra [tables]).") from error
    state = json.loads((path / "state.json").read_text())
    rows: list[dict[str, Any]] = []
    for entry in state.get("_data_files", []):
        try:
            with pa.memory_map(str(path / Path(entry["filename"]).name)) as file:
                rows += pa.ipc.open_stream(file).read_all().to_pylist()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{label} is damaged or cut off ({error}): fetch or write it again.") from error
    if not rows:
        raise ValueError(f"{label} is empty: it has no trajectories to learn from.")
    return rows


def _plain_json(text: Any) -> Any:
    """What jsonpickle wrote, as plain JSON: nothing is made of it."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return None


def _says_cut(info: Any) -> bool | None:
    """Whether a time limit ended the trajectory; None where its infos do not say."""
    if not isinstance(info, dict) or _CUT not in info:
        return None
    cut = info[_CUT]
    return _numpy_flag(cut) if isinstance(cut, dict) else bool(cut)


def _numpy_flag(written: dict[str, Any]) -> bool | None:
    """A flag of numpy's: jsonpickle writes how it is made, and its bytes in base 64 at the end."""
    try:
        parts = written["py/reduce"][1]["py/tuple"]
        return any(base64.b64decode(parts[-1]["py/b64"]))
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _joined(
    split: Mapping[str, Sequence[np.ndarray]], terminal: np.ndarray, cut: list[bool | None], label: str
) -> EpisodeRows:
    episodes = []
    for number, (ended, by_clock) in enumerate(zip(terminal, cut, strict=True)):
        episode: dict[str, Any] = {key: parts[number] for key, parts in split.items()}
        episode["terminals"] = np.zeros(len(episode["actions"]), dtype=bool)
        episode["terminals"][-1:] = bool(ended) and not by_clock
        episodes.append(episode)
    unknown = sum(bool(ended) and by_clock is None for ended, by_clock in zip(terminal, cut, strict=True))
    if unknown:
        warnings.warn(
            f"{label}: {unknown} trajectories are flagged as ended and their infos do not say whether a time limit did it: "
            "they are taken for ended by the environment.",
            stacklevel=2,
        )
    return join_episodes(episodes, label, [f"trajectory {number}" for number in range(len(episodes))])
