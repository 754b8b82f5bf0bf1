"""
Time limits that were logged as ends: said where several of the longest episodes stand out, and nowhere else.
"""

import warnings

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets import loading
from tests.helpers.data_formats import (
    fill_sb3_buffer,
    flat_columns,
    joined,
    make_episodes,
    sb3_buffer,
    trajectory_columns,
    without,
    write_hdf5,
    write_minari,
    write_npz,
)

SPACE, ACTIONS = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)


def all_terminal(lengths, n_cut=0):
    episodes = make_episodes(lengths)
    return [e._replace(terminated=k < len(episodes) - n_cut) for k, e in enumerate(episodes)]


def suspicions(source):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_dataset(source)
    return [str(warning.message) for warning in caught if "time limit" in str(warning.message)]


def memory_saving(episodes):
    buffer = ReplayBuffer(800, SPACE, ACTIONS, "cpu", optimize_memory_usage=True, handle_timeout_termination=False)
    return fill_sb3_buffer(episodes, buffer)


LAYOUTS = {
    "mapping": lambda e, folder: flat_columns(e),
    "dones": lambda e, folder: dict(without(flat_columns(e), "terminals", "timeouts"), dones=joined(e, lambda e: e.is_last)),
    "dones without successors": lambda e, folder: dict(
        without(flat_columns(e), "terminals", "timeouts", "next_observations"), dones=joined(e, lambda e: e.is_last)
    ),
    "timeouts of zeros, no successors": lambda e, folder: without(flat_columns(e), "next_observations"),
    "masks": lambda e, folder: dict(
        without(flat_columns(e), "terminals", "timeouts"), masks=1.0 - joined(e, lambda e: e.terminals)
    ),
    "OGBench": lambda e, folder: write_npz(folder / "ogbench.npz", trajectory_columns(e)),
    "npz": lambda e, folder: write_npz(folder / "own.npz", flat_columns(e)),
    "D4RL": lambda e, folder: write_hdf5(folder / "own.hdf5", flat_columns(e)),
    "Minari": lambda e, folder: write_minari(e),
    "buffer": lambda e, folder: sb3_buffer(e),
    "buffer that saves memory": lambda e, folder: memory_saving(e),
    "list": lambda e, folder: [flat_columns(e[:2]), write_npz(folder / "rest.npz", flat_columns(e[2:]))],
    "list of mappings": lambda e, folder: [flat_columns([episode]) for episode in e],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_are_suspected_in_every_layout(layout, tmp_path, minari_root):
    """Deaths of any length before, and four ends at 60."""
    episodes = all_terminal((20, 60, 33, 60, 41, 60, 60, 7))
    (message,) = suspicions(LAYOUTS[layout](episodes, tmp_path))
    assert "4 of 8 episodes end after 60 steps, which looks like a time limit" in message
    # Flagged as cut off, nothing is said
    told = [episode._replace(terminated=episode.steps != 60) for episode in episodes]
    if "dones" not in layout and "saves" not in layout:
        assert not suspicions(LAYOUTS[layout](told, tmp_path))


def test_flat_files_and_records_say_it_once(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "own.npz", flat_columns(all_terminal((60, 60, 60))))
    monkeypatch.setattr(loading, "_SLOW", 0.0)
    for _ in range(2):
        (message,) = suspicions(path)
        assert message.startswith(f"Dataset '{path}': all 3 episodes end after 60 steps")
    with pytest.warns(UserWarning, match="all 3 episodes"):
        data = load_dataset(path, memory_map=True)
    assert not suspicions(data)


@pytest.mark.parametrize(
    ("lengths", "n_cut", "said"),
    [
        ((1000,) * 10, 0, "all 10"),
        ((1000,) * 10 + (500,), 1, "10 of 11"),
        (tuple(np.random.default_rng(0).integers(50, 900, 30)) + (1000,) * 10, 0, "10 of 40"),
        ((1000,) * 10 + (1000,), 1, "10 of 11"),
        ((200,) * 3, 0, "all 3"),
        ((15,) * 6, 0, "all 6"),
        ((200,) * 2 + (50,), 0, None),
        # One that was cut off was as long, or longer
        ((200,) * 10 + (200, 30), 2, None),
        ((200,) * 10 + (201, 30), 2, None),
        # Short, one row each, and lengths that spread
        ((9,) * 50, 0, None),
        ((1,) * 500, 0, None),
        (tuple(range(100, 200)) * 3, 0, None),
    ],
)
def test_by_length(lengths, n_cut, said):
    messages = suspicions(flat_columns(all_terminal(lengths, n_cut)))
    assert len(messages) == (said is not None) and all(f"{said} episodes end after {max(lengths)}" in m for m in messages)


@pytest.mark.parametrize("p", [0.005, 0.05, 0.2, 0.5])
def test_ten_thousand_random_lengths(p):
    """Of thirty draws, none is taken for a limit; one with a limit is."""
    said = []
    for seed in range(30):
        lengths = np.random.default_rng(seed).geometric(p, 10_000 if p > 0.01 else 1_000)
        said += suspicions(of_lengths(lengths))
    assert not said
    limit = int(2 / p) if p < 0.5 else 12
    lengths = np.minimum(np.random.default_rng(0).geometric(p, 10_000 if p > 0.01 else 1_000), limit)
    assert (lengths == limit).sum() > 3 and len(suspicions(of_lengths(lengths))) == (limit >= 10 and p < 0.5)


def of_lengths(lengths):
    n_rows = int(lengths.sum())
    observations = np.arange(n_rows, dtype=np.float32)[:, None] / n_rows
    terminals = np.zeros(n_rows)
    terminals[np.cumsum(lengths) - 1] = 1
    return dict(
        observations=observations,
        actions=np.zeros((n_rows, 1)),
        rewards=np.ones(n_rows),
        terminals=terminals,
        timeouts=np.zeros(n_rows),
    )
