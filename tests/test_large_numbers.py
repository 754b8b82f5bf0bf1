"""
Observations that float32 would merge keep their numbers, from every source and through everything that is done to a record.
"""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets import cache, minari_episodes
from sb3_genpolicy.common.datasets import columns as columns_module
from sb3_genpolicy.common.datasets.fitting import fit_to_spaces
from sb3_genpolicy.common.datasets.value_ranges import ValueRanges
from tests.helpers.data_formats import (
    WHOLE_FORMATS,
    Episode,
    fill_sb3_buffer,
    flat_columns,
    make_episodes,
    trajectory_columns,
    without,
    write_npz,
)

WIDE = spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def far_away(offsets=(1.7e9, 0.0, -5e6), dtype=np.float64):
    """Unix time in seconds, an ordinary number, metres of a map; an episode is a minute of them."""
    episodes = []
    for number, episode in enumerate(make_episodes()):
        observations = episode.observations.astype(np.float64)
        observations[:, 0] = 10 * number + np.arange(episode.steps + 1)
        episodes.append(episode._replace(observations=(observations + offsets).astype(dtype)))
    return episodes


def assert_exact(data, episodes):
    expected = flat_columns(episodes)
    for key in ("observations", "next_observations"):
        rows = data[key]["state"] if isinstance(data[key], dict) else data[key]
        assert rows.dtype == np.float64
        np.testing.assert_array_equal(rows, expected[key])
    np.testing.assert_array_equal(np.diff(data.episode_starts), [5, 6, 7, 8])
    assert data.actions.dtype == data.rewards.dtype == np.float32


@pytest.fixture
def minari_of_float64(monkeypatch):
    monkeypatch.setattr("tests.helpers.data_formats.spaces_of", lambda episodes: (WIDE, ACTIONS))


@pytest.mark.parametrize("name", WHOLE_FORMATS)
def test_every_source_keeps_them(name, tmp_path, minari_root, minari_of_float64):
    pytest.importorskip("pyarrow")
    episodes = far_away()
    assert_exact(load_dataset(WHOLE_FORMATS[name](episodes, tmp_path)), episodes)


@pytest.mark.parametrize("name", ["npz", "OGBench, raw", "D4RL", "Minari, HDF5"])
def test_on_a_disk_and_in_flat_files(name, tmp_path, minari_root, minari_of_float64, cache_root):
    episodes = far_away()
    source = WHOLE_FORMATS[name](episodes, tmp_path)
    for _ in range(2):
        mapped = load_dataset(source, memory_map=True)
        assert mapped.memory_mapped
        assert_exact(mapped, episodes)
    assert_exact(load_dataset(source), episodes)
    # Nothing is left of the first reading
    folder = next(cache_root.iterdir())
    assert len(list(folder.glob("*observations*"))) == 1


def test_in_small_pieces(tmp_path, minari_root, minari_of_float64, monkeypatch):
    monkeypatch.setattr(columns_module, "_CHUNK_BYTES", 48)
    monkeypatch.setattr(minari_episodes, "_EPISODES", 2)
    for name in ("mapping", "npz", "OGBench, raw", "Minari, HDF5"):
        assert_exact(load_dataset(WHOLE_FORMATS[name](far_away(), tmp_path)), far_away())


def test_what_is_done_to_a_record_keeps_them(tmp_path):
    episodes = far_away()
    path = write_npz(tmp_path / "far.npz", flat_columns(episodes))
    data = load_dataset(path)
    assert_exact(fit_to_spaces(data, spaces.Box(-np.inf, np.inf, (3,), np.float32), ACTIONS), episodes)
    some = data.select_episodes([1, 3])
    np.testing.assert_array_equal(some.observations, flat_columns([episodes[1], episodes[3]])["observations"])
    entry = cache.CacheEntry([path], "test")
    entry.keep(data)
    assert_exact(entry.load(memory_map=False), episodes)
    # Beside others, which float32 would hold
    near = load_dataset(flat_columns(make_episodes(seed=1)))
    assert near.states.dtype == np.float32
    for parts in ([data, near], [near, data]):
        joined = load_dataset(parts)
        assert joined.states.dtype == np.float64
        np.testing.assert_array_equal(joined.observations, np.concatenate([part.observations for part in parts]))


def test_only_the_array_that_needs_it(tmp_path):
    columns = flat_columns(far_away())
    for key in ("observations", "next_observations"):
        far, near = columns[key], columns[key][:, 1].astype(np.float64)
        columns[key] = {"time": far[:, 0], "rest": near, "image": np.zeros((26, 36, 36, 3), np.uint8)}
    data = load_dataset(columns)
    assert {key: array.dtype for key, array in data.states.items()} == {
        "time": np.float64,
        "rest": np.float32,
        "image": np.uint8,
    }
    np.testing.assert_array_equal(data.observations["time"][:, 0], columns["observations"]["time"])


def counts(lowest, n=26, step=1, dtype=np.int64):
    columns = flat_columns(make_episodes((n,)))
    numbers = np.array([lowest + step * k for k in range(n + 1)]).astype(dtype)[:, None]
    return dict(columns, observations=numbers[:-1], next_observations=numbers[1:]), numbers[:-1]


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64, np.float64])
def test_counts_of_an_encoder(dtype):
    columns, numbers = counts(2**30, dtype=dtype)
    data = load_dataset(columns)
    assert data.states.dtype == np.float64
    np.testing.assert_array_equal(data.observations, numbers)


@pytest.mark.parametrize(
    ("lowest", "step", "dtype"),
    [
        # From zero on they are told apart, to a millionth of what they range over
        (0, 10**6, np.float64),
        (0, 1, np.int64),
        (-10, 1, np.int32),
        (1000, 100, np.float64),
        # Constant, also where it is large
        (1.7e9, 0, np.float64),
        (10**18, 0, np.int64),
        # Merged before they came here
        (1.7e9, 1, np.float32),
        (0, 1, np.int8),
    ],
)
def test_others_stay_float32(lowest, step, dtype):
    columns, numbers = counts(lowest, step=step, dtype=dtype)
    data = load_dataset(columns)
    assert data.states.dtype == np.float32
    np.testing.assert_array_equal(data.observations, numbers.astype(np.float32))


@pytest.mark.parametrize(("dtype", "lowest"), [(np.int64, 1_700_000_000_000_000_000), (np.uint64, 2**63 + 10)])
def test_integers_that_even_float64_merges_are_refused(dtype, lowest, tmp_path):
    """A clock of nanoseconds over some microseconds."""
    columns, _ = counts(lowest, step=100, dtype=dtype)
    for source in (columns, write_npz(tmp_path / "clock.npz", columns)):
        with pytest.raises(ValueError, match=r"observations has integers from \d+ to \d+ in entry 0, .* subtract an offset"):
            load_dataset(source)
    hours, numbers = counts(lowest, step=36 * 10**11, dtype=dtype) if dtype is np.int64 else counts(2**62, step=2**40)
    np.testing.assert_array_equal(load_dataset(hours).observations, numbers.astype(np.float64))


def test_the_whole_column_counts_also_what_steps_led_to():
    """The last observation alone reaches far: what looked narrow is not."""
    columns, _ = counts(100_000, dtype=np.float64)
    assert load_dataset(columns).states.dtype == np.float64
    columns["next_observations"] = columns["next_observations"].copy()
    columns["next_observations"][-1] = 0.0
    assert load_dataset(columns).states.dtype == np.float32
    # OGBench's last rows count too
    raw = trajectory_columns([Episode(np.append(np.arange(1e5, 1e5 + 5), 0)[:, None], np.zeros((5, 1)), np.zeros(5), False)])
    assert load_dataset(raw).states.dtype == np.float32


def test_breaks_are_seen_among_large_numbers():
    """A metre is a step on a map, also five thousand kilometres from its corner."""
    columns = without(flat_columns(far_away((5e6, 4e6, 5e6))), "timeouts")
    with pytest.warns(UserWarning, match="1 steps lead to another observation .* row 10 "):
        data = load_dataset(columns)
    assert data.n_episodes == 4 and data.inferred_cuts == 1
    rounded = dict(columns, next_observations=columns["next_observations"] + 1e-9)
    with pytest.warns(UserWarning, match="1 steps lead to another"):
        assert load_dataset(rounded).n_episodes == 4


def test_buffers_of_float64(minari_of_float64):
    episodes = far_away()
    assert_exact(load_dataset(fill_sb3_buffer(episodes, ReplayBuffer(50, WIDE, ACTIONS, "cpu"))), episodes)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (4000, 3), (5, 2000), (2049, 1)])
def test_ranges_are_those_of_numpy(shape):
    rows = np.random.default_rng(0).normal(size=shape)
    ranges = ValueRanges()
    for part in np.array_split(rows, min(3, len(rows))):
        ranges.see("x", part)
    np.testing.assert_allclose(ranges.width("x"), np.ptp(rows, axis=0), rtol=1e-12)


def test_a_record_by_hand_keeps_its_type():
    data = load_dataset(flat_columns(make_episodes()))
    assert load_dataset(replace(data, states=data.states.astype(np.float64))).states.dtype == np.float64
