"""
Minari datasets, local and remote, in any storage.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from minari import MinariDataset
from minari.storage.datasets_root_dir import get_dataset_path
from tqdm import tqdm

from sb3_genpolicy.common.datasets.arrays import ArrayWriter
from sb3_genpolicy.common.datasets.checks import check_spaces, storage_dtype, stored_shape
from sb3_genpolicy.common.datasets.columns import PATIENCE
from sb3_genpolicy.common.datasets.env_specs import recorded_env_id, written_metadata
from sb3_genpolicy.common.datasets.minari_episodes import EpisodeReader
from sb3_genpolicy.common.datasets.names import Known
from sb3_genpolicy.common.datasets.resets import without_resets
from sb3_genpolicy.common.transitions.transitions import Transitions, check_reference_scores
from sb3_genpolicy.common.utils import space_items, tree_of


def read_minari(dataset: MinariDataset, writer: ArrayWriter, known: Known) -> Transitions:
    """
    Episodes follow each other; an episode has one observation more than steps, which only its last step leads to.

    :param dataset: the dataset
    :param writer: where the arrays go
    :param known: what is done to its actions; all else the dataset says itself
    :return: the record, checked
    :raises ValueError: if an episode is damaged, misshapen, empty, or holds what no episode may hold
    """
    reader = EpisodeReader(dataset, known)
    check_spaces(reader.observation_space, reader.action_space, reader.label)
    n_rows, n_episodes = dataset.total_steps, dataset.total_episodes
    if n_episodes == 0 or n_rows == 0:
        raise ValueError(f"{reader.label} is empty: it has no steps to learn from.")
    arrays = _read(reader, n_rows, n_episodes, writer)
    reader.ranges.refuse_merged("actions", reader.label)
    reader.finer = reader.ranges.finer(reader.label)
    if reader.finer:
        arrays = _read(reader, n_rows, n_episodes, writer)
    metadata = written_metadata(dataset)
    data = Transitions(
        **arrays,
        observation_space=reader.observation_space,
        action_space=reader.action_space,
        name=minari_name(dataset),
        env_id=recorded_env_id(metadata),
        reference_scores=_reference_scores(metadata, reader.label),
    )
    return without_resets(data, reader.label, data.where, writer)


def _read(reader: EpisodeReader, n_rows: int, n_episodes: int, writer: ArrayWriter) -> dict[str, Any]:
    """All arrays of the record, by the record's names."""
    parts = space_items(reader.observation_space, "observations")
    states = {}
    for name, space in parts:
        dtype = np.float64 if name in reader.finer else storage_dtype(space)
        states[name] = writer.allocate(name, (n_rows + n_episodes, *stored_shape(space)), dtype)
    actions = writer.allocate("actions", (n_rows, *reader.action_space.shape), np.float32)
    flat = ("rewards", "terminals", "timeouts")
    rewards, terminals, timeouts = (writer.allocate(key, (n_rows,), np.float32) for key in flat)
    ends = writer.allocate("ends", (n_rows,), bool)
    ends[:] = False
    next_rows = writer.allocate("next_rows", (n_rows,), np.int64)

    start, number = 0, 0
    bar = tqdm(desc=reader.label, total=n_episodes, delay=PATIENCE, leave=False)
    for episodes in reader.batches():
        rows, numbers = slice(start, start + episodes.n_steps), slice(number, number + len(episodes.lengths))
        if rows.stop > n_rows:
            raise ValueError(reader.miscounted())
        is_last = episodes.is_last_observation
        for name, array in episodes.observations.items():
            states[name][rows], states[name][n_rows + numbers.start : n_rows + numbers.stop] = array[~is_last], array[is_last]
        actions[rows], rewards[rows] = episodes.actions, episodes.rewards
        terminals[rows], timeouts[rows] = episodes.terminations, episodes.truncations
        next_rows[rows] = np.arange(rows.start + 1, rows.stop + 1)
        last = start + np.cumsum(episodes.lengths) - 1
        ends[last] = True
        next_rows[last] = n_rows + np.arange(numbers.start, numbers.stop)
        start, number = rows.stop, numbers.stop
        bar.update(len(episodes.lengths))
    bar.close()
    if start != n_rows:
        raise ValueError(reader.miscounted())
    return dict(
        states=tree_of(reader.observation_space, states.values()),
        next_rows=next_rows,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=timeouts,
        ends=ends,
    )


def _reference_scores(metadata: dict[str, Any], label: str) -> tuple[float, float] | None:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None:
        return None
    try:
        return check_reference_scores((low, high), f"{label}: what its metadata have as ref_min_score and ref_max_score")
    except ValueError as error:
        # Whoever loads it did not write it
        warnings.warn(f"{str(error).rstrip('.')}: it is read without reference scores.", stacklevel=2)
        return None


def minari_name(dataset: MinariDataset) -> str | None:
    """
    :param dataset: a dataset
    :return: what it can be loaded by again: its id, or its folder where that is not Minari's; None if some of its episodes
        were taken out
    """
    if not np.array_equal(dataset.episode_indices, np.arange(dataset.storage.total_episodes)):
        return None
    folder = Path(dataset.storage.data_path).resolve().parent
    return dataset.id if folder == Path(get_dataset_path(dataset.id)).resolve() else str(folder)
