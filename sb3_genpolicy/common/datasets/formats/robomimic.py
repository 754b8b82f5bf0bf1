"""
robomimic's HDF5 files (Mandlekar et al. 2021): a group for each demonstration, observations by name, filters in ``mask``.
"""

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_genpolicy.common.datasets.formats.episode_rows import EpisodeRows, join_episodes, one_a_row
from sb3_genpolicy.common.datasets.formats.options import ColumnOptions, check_names, check_subset, names_of

if TYPE_CHECKING:
    import h5py

USED = ("observations", "subset", "terminals", "success_at_end")
# Numbers in names, by which they are sorted
_PART = re.compile(r"(\d+)")


def read_robomimic(path: Path, options: ColumnOptions, label: str) -> EpisodeRows:
    """
    ``dones`` are 1 in states of success, at the end of every demonstration, or in both, by the mode that the file was written
    in, which it does not say. What ended by the clock is no success: a ``done`` counts as terminal where the step earned
    something and rewards are sparse.

    :param path: the file
    :param options: ``observations``, ``subset`` and ``terminals`` count
    :param label: what it is called
    :return: its demonstrations, ``demo_10`` after ``demo_2``
    :raises ValueError: if it lacks what was asked for, or is misshapen
    """
    import h5py

    options.check_used(label, USED)
    with h5py.File(path, "r") as file:
        demos = _demos(file, options, label)
        keys = _observation_keys(file["data"][demos[0]], options, label)
        episodes = [_episode(file["data"][name], keys, f"{label}, {name}") for name in demos]
        env_id = _env_name(file["data"])
    if options.success_at_end:
        for episode in episodes:
            episode.pop("rewards", None)
    else:
        _set_terminals(episodes, options, label)
    rows = join_episodes(episodes, label, demos)
    rows.env_id = env_id
    return rows


def _demos(file: "h5py.File", options: ColumnOptions, label: str) -> list[str]:
    import h5py

    demos = [name for name, group in file["data"].items() if isinstance(group, h5py.Group) and "actions" in group]
    if options.subset is not None:
        filters = file.get("mask", {})
        check_subset(options.subset, list(filters), label)
        named = [name.decode() if isinstance(name, bytes) else str(name) for name in filters[options.subset][()]]
        lacking = sorted(set(named) - set(demos))
        if lacking:
            raise ValueError(
                f"{label}: its filter '{options.subset}' names {lacking[0]}, which is not among its demonstrations."
            )
        if not named:
            raise ValueError(f"{label}: its filter '{options.subset}' is empty.")
        demos = named
    return sorted(demos, key=lambda name: [int(part) if part.isdigit() else part for part in _PART.split(name)])


def _observation_keys(demo: "h5py.Group", options: ColumnOptions, label: str) -> list[str]:
    import h5py

    if "obs" not in demo:
        raise ValueError(
            f"{label} has no observations, only states of the simulator: make them by robomimic's `dataset_states_to_obs`."
        )
    there = {name: item for name, item in demo["obs"].items() if isinstance(item, h5py.Dataset)}
    asked = names_of(options.observations)
    if asked is not None:
        check_names("observations", asked, there, label)
        return asked
    numbers = [name for name, item in there.items() if item.ndim <= 2]
    images = [name for name in there if name not in numbers]
    if not numbers:
        return images
    if images:
        warnings.warn(
            f"{label}: the observations {', '.join(images)} (images) are left out; those that are read are "
            f"{', '.join(numbers)}. Choose by observations=[...].",
            stacklevel=2,
        )
    return numbers


def _episode(demo: "h5py.Group", keys: list[str], label: str) -> dict[str, Any]:
    episode: dict[str, Any] = {"actions": demo["actions"][()], "terminals": np.zeros(len(demo["actions"]), dtype=bool)}
    for name, group in (("observations", "obs"), ("next_observations", "next_obs")):
        if name == "next_observations" and (group not in demo or any(key not in demo[group] for key in keys)):
            continue
        lacking = [key for key in keys if key not in demo[group]]
        if lacking:
            raise ValueError(f"{label} has no observation '{lacking[0]}'.")
        arrays = {key: demo[group][key][()] for key in keys}
        episode[name] = arrays if len(keys) > 1 else arrays[keys[0]]
    if "rewards" in demo:
        episode["rewards"] = one_a_row(demo["rewards"][()], f"{label}: rewards")
    if "dones" in demo:
        episode["terminals"] = one_a_row(demo["dones"][()], f"{label}: dones") > 0
    return episode


def _set_terminals(episodes: list[dict[str, Any]], options: ColumnOptions, label: str) -> None:
    if isinstance(options.terminals, str):
        raise ValueError(f"{label}: terminals= is True or False here, whether a demonstration's `dones` are terminal.")
    if options.terminals is not None:
        for episode in episodes:
            episode["terminals"] = episode["terminals"] & options.terminals
        return
    if any("rewards" not in episode for episode in episodes):
        return
    dones = np.concatenate([episode["terminals"] for episode in episodes])
    rewards = np.concatenate([episode["rewards"] for episode in episodes])
    sparse = bool(np.isin(rewards, (rewards.min(), rewards.max())).all() and rewards.min() >= 0 and rewards.any())
    if sparse:
        by_clock = dones & (rewards <= 0)
        for episode in episodes:
            episode["terminals"] = episode["terminals"] & (episode["rewards"] > 0)
        if by_clock.any():
            warnings.warn(
                f"{label}: {by_clock.sum()} `dones` earn nothing, and only say that a demonstration ended: they are cuts.",
                stacklevel=2,
            )
        return
    at_ends = sum(int(episode["terminals"][-1]) for episode in episodes)
    if at_ends == len(episodes) and int(dones.sum()) == at_ends:
        warnings.warn(
            f"{label}: `dones` stand at the end of every demonstration and nowhere else, and rewards do not say which of them "
            "succeeded: they are taken for cuts; terminals=True takes them for ends after which nothing is earned.",
            stacklevel=2,
        )
        for episode in episodes:
            episode["terminals"] = np.zeros_like(episode["terminals"])


def _env_name(group: "h5py.Group") -> str | None:
    try:
        name = json.loads(group.attrs["env_args"])["env_name"]
    except (KeyError, TypeError, ValueError):
        return None
    return name if isinstance(name, str) else None
