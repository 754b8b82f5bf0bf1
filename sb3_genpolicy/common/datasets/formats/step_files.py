"""
Folders of npz files, an episode each, of dm_env's time steps: DrQ-v2, URLB and ExoRL, Dreamer 1 and 2. And DreamerV3's chunks.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sb3_genpolicy.common.datasets.columns import PATIENCE
from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, join_episodes, one_a_row
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions, check_names, names_of
from sb3_genpolicy.common.datasets.row_reader import READ_ERRORS

USED = ("observations",)
# Keys that are no observations
_OTHERS = re.compile(
    r"action|reward|discount|physics|reset|logprob|step_type|step|is_(first|last|terminal)|log_.*|stepid|consec|"
    r"(dyn|enc|dec|val|pol)/.*|(dyn|enc|dec)_.*|finetune|skill|meta"
)
_PART = re.compile(r"(\d+)")


def read_step_files(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    A row's action led to the row's own observation and reward; the first row of an episode is the reset's. So step t goes
    from row t to row t + 1 with the action and the reward of row t + 1. A ``discount`` of 0 or ``is_terminal`` is terminal.

    :param path: the folder
    :param options: ``observations`` counts. Default: ``observation`` where there is one, else all that are no images
    :param label: what it is called
    :return: its episodes, in the order of their files' numbers
    :raises ValueError: if a file is damaged, or an episode's first row has an action, as it would if it were taken there
    """
    options.check_used(label, USED)
    files = _sorted(path)
    keys: list[str] = []
    episodes = []
    for file in _with_progress(files, label):
        name = f"{label}: {file.name}"
        arrays = _load(file, name)
        keys = keys or _observation_keys(arrays, options, label)
        _check(arrays, keys, name)
        actions = arrays["action"]
        if actions[:1].any():
            raise ValueError(
                f"{name} has an action in its first row that is not zero, so that nobody can say whether a row's action led "
                "to its observation (dm_env, Dreamer) or was taken there: pass a list of trajectories in its place."
            )
        if len(actions) < 2:
            raise ValueError(f"{name} has no steps, only the reset's row: remove it.")
        episodes.append(
            dict(
                observations=_observations(arrays, keys),
                actions=actions[1:],
                rewards=one_a_row(arrays["reward"], f"{name}: reward")[1:],
                terminals=_terminal(arrays)[1:],
            )
        )
    _warn_of_no_flag(arrays, label)
    return join_episodes(episodes, label, [file.name for file in files])


def read_dreamer_chunks(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    DreamerV3 writes streams in chunks, whose names say which follows: a row holds what was seen, the reward that came with
    it, and the action that was taken there. So step t has the action of row t and the reward of row t + 1.

    :param path: the folder
    :param options: ``observations`` counts
    :param label: what it is called
    :return: the episodes of all streams
    :raises ValueError: if a file is damaged
    """
    options.check_used(label, USED)
    keys: list[str] = []
    episodes, names = [], []
    for stream in _streams(_sorted(path)):
        chunks = []
        for file in stream:
            chunk = _load(file, f"{label}: {file.name}")
            keys = keys or _observation_keys(chunk, options, label)
            _check(chunk, ["is_first", *keys], f"{label}: {file.name}")
            chunks.append(chunk)
        rows = {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}
        n_rows = len(rows["action"])
        first = rows["is_first"].reshape(n_rows) > 0
        first[0] = True
        starts = np.flatnonzero(first)
        for start, end in zip(starts, np.append(starts[1:], n_rows), strict=True):
            if end - start < 2:
                # The stream ends with a reset
                continue
            part = {key: array[start:end] for key, array in rows.items()}
            episodes.append(
                dict(
                    observations=_observations(part, keys),
                    actions=part["action"][:-1],
                    rewards=one_a_row(part["reward"], f"{label}: reward")[1:],
                    terminals=_terminal(part)[1:],
                )
            )
            names.append(f"row {start} on of the stream from {stream[0].name}")
    _warn_of_no_flag(rows, label)
    return join_episodes(episodes, label, names)


def _streams(files: list[Path]) -> list[list[Path]]:
    """Files by the chunk that each names as its successor."""
    by_id = {file.stem.split("-")[1]: file for file in files}
    follows = {file.stem.split("-")[1]: file.stem.split("-")[2] for file in files}
    heads = [name for name in by_id if name not in set(follows.values())]
    streams = []
    for head in heads:
        stream, name, seen = [], head, set[str]()
        while name in by_id and name not in seen:
            seen.add(name)
            stream.append(by_id[name])
            name = follows[name]
        streams.append(stream)
    return streams


def _sorted(path: Path) -> list[Path]:
    """By the numbers in their names, ``_10_`` after ``_9_``."""
    files = [file for file in path.glob("*.npz") if not file.name.startswith(".")]
    return sorted(files, key=lambda file: [int(part) if part.isdigit() else part for part in _PART.split(file.name)])


def _with_progress(files: list[Path], label: str) -> Any:
    return tqdm(files, label, delay=PATIENCE, leave=False)


def _load(file: Path, label: str) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: _plain(archive, key) for key in archive.files}
        return {key: array for key, array in arrays.items() if array is not None and array.shape}
    except (*READ_ERRORS, ValueError) as error:
        raise ValueError(f"{label} is damaged or cut off ({error}): fetch or write it again.") from error


def _plain(archive: Any, key: str) -> np.ndarray | None:
    try:
        return archive[key]
    except ValueError as error:
        if "Object arrays" in str(error):
            # They are of no use here, and would have to be unpickled
            return None
        raise


def _observation_keys(arrays: Mapping[str, np.ndarray], options: ColumnOptions, label: str) -> list[str]:
    asked = names_of(options.observations)
    if asked is not None:
        check_names("observations", asked, arrays, label)
        return asked
    if "observation" in arrays:
        return ["observation"]
    there = [key for key in arrays if not _OTHERS.fullmatch(key)]
    numbers = [key for key in there if arrays[key].ndim <= 2]
    if numbers and len(numbers) < len(there):
        warnings.warn(
            f"{label}: the observations {', '.join(key for key in there if key not in numbers)} (images) are left out; those "
            f"that are read are {', '.join(numbers)}. Choose by observations=[...].",
            stacklevel=2,
        )
    if not there:
        raise ValueError(f"{label} has no observations; it has {', '.join(arrays)}.")
    return numbers or there


def _check(arrays: Mapping[str, np.ndarray], keys: list[str], label: str) -> None:
    for key in ("action", "reward", *keys):
        if key not in arrays:
            raise ValueError(f"{label} has no '{key}'; it has {', '.join(arrays)}.")
        if len(arrays[key]) != len(arrays["action"]):
            raise ValueError(f"{label}: {key} has {len(arrays[key])} rows, but action has {len(arrays['action'])}.")


def _observations(arrays: Mapping[str, np.ndarray], keys: list[str]) -> Any:
    return {key: arrays[key] for key in keys} if len(keys) > 1 else arrays[keys[0]]


def _warn_of_no_flag(arrays: Mapping[str, np.ndarray], label: str) -> None:
    if not arrays.keys() & {"is_terminal", "discount"}:
        warnings.warn(
            f"{label} has neither 'is_terminal' nor 'discount': nothing says what ended episodes, and all count as cut off.",
            stacklevel=2,
        )


def _terminal(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    n_rows = len(arrays["action"])
    terminal = np.zeros(n_rows, dtype=bool)
    if "is_terminal" in arrays:
        terminal |= arrays["is_terminal"].reshape(n_rows) > 0
    elif "discount" in arrays:
        terminal |= arrays["discount"].reshape(n_rows) == 0
    return terminal
