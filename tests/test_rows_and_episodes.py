"""
Where episodes end and what ends them: flags of every convention, and what is done to episodes afterwards.
"""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy import GMPO, BestEpisodes, dataset_info, load_dataset
from sb3_genpolicy.common.datasets import cache
from sb3_genpolicy.common.replay.row_store import n_step_returns
from sb3_genpolicy.common.replay.vec_normalize import discounted_returns_so_far
from sb3_genpolicy.common.transitions.transitions import Transitions
from tests.helpers.arrays import SMALL
from tests.helpers.data_formats import (
    fill_sb3_buffer,
    flat_columns,
    make_episodes,
    without,
    write_hdf5,
    write_minari,
    write_npz,
)

LENGTHS = (5, 6, 7, 8)


def goal_trajectories():
    """Episodes that are all cut off; in the second and third step of each a goal is reached, and the trajectory goes on."""
    episodes = [episode._replace(terminated=False) for episode in make_episodes(LENGTHS)]
    reached = np.concatenate([np.isin(np.arange(length), (1, 2)) for length in LENGTHS])
    return flat_columns(episodes), reached


def with_last_rows(columns):
    """OGBench's raw layout: the last observation of every trajectory is a row of its own."""
    ends = np.flatnonzero(columns["timeouts"])
    raw = {
        key: np.insert(columns[key], ends + 1, columns[key][ends], axis=0)
        for key in ("observations", "actions", "rewards", "masks")
    }
    rows = ends + 1 + np.arange(len(ends))
    raw["observations"][rows] = columns["next_observations"][ends]
    raw["terminals"] = np.isin(np.arange(len(raw["rewards"])), rows).astype(np.float32)
    return raw


def layouts():
    columns, reached = goal_trajectories()
    columns["masks"] = 1.0 - reached
    regular = dict(without(columns, "timeouts"), terminals=columns["timeouts"])
    raw = with_last_rows(columns)
    return {
        "regular": regular,
        "regular with dones": dict(without(regular, "terminals"), dones=regular["terminals"]),
        "with timeouts and terminals": dict(columns, terminals=columns["timeouts"]),
        "raw": raw,
        "raw with dones": dict(without(raw, "terminals"), dones=raw["terminals"]),
        "valids": dict(raw, valids=1.0 - raw["terminals"]),
    }


@pytest.mark.parametrize("layout", layouts())
def test_masks_say_where_to_bootstrap_and_end_no_trajectory(layout, tmp_path):
    columns, reached = goal_trajectories()
    for source in (layouts()[layout], write_npz(tmp_path / "goals.npz", layouts()[layout])):
        for memory_map in (False,) if isinstance(source, dict) else (False, True):
            data = load_dataset(source, memory_map=memory_map)
            np.testing.assert_array_equal(np.diff(data.episode_starts), LENGTHS)
            np.testing.assert_array_equal(data.terminals, reached)
            np.testing.assert_array_equal(data.timeouts, columns["timeouts"])
            np.testing.assert_array_equal(data.next_observations, columns["next_observations"])
            starts = np.cumsum((0, *LENGTHS[:-1]))
            np.testing.assert_allclose(data.episode_returns(), np.add.reduceat(columns["rewards"], starts), rtol=1e-5)
            assert data.inferred_cuts == 0


def test_a_goal_in_the_last_step_ends_the_trajectory_without_a_cut():
    columns, reached = goal_trajectories()
    reached[4] = True
    regular = dict(without(columns, "timeouts"), terminals=columns["timeouts"], masks=1.0 - reached)
    data = load_dataset(regular)
    assert data.n_episodes == 4 and data.terminals[4] == 1 and data.timeouts[4] == 0
    np.testing.assert_array_equal(dataset_info(data).terminated, [True, False, False, False])


@pytest.mark.parametrize("flags", [{}, {"terminals": np.zeros(26)}, {"dones": np.zeros(26)}])
def test_masks_end_episodes_where_nothing_else_does(flags):
    """The data sets of old: what is done is 1 - mask. Cuts are seen where a step leads elsewhere."""
    columns = flat_columns(make_episodes(LENGTHS))
    with pytest.warns(UserWarning, match=r"1 steps lead to another observation .* row 10 "):
        data = load_dataset(dict(without(columns, "terminals", "timeouts"), masks=1.0 - columns["terminals"], **flags))
    np.testing.assert_array_equal(np.diff(data.episode_starts), LENGTHS)
    np.testing.assert_array_equal(data.terminals, columns["terminals"])
    assert data.inferred_cuts == 1


@pytest.mark.parametrize("flags", [{}, {"dones": np.zeros(26)}, {"terminals": np.zeros(26)}])
def test_masks_end_episodes_also_where_nothing_leads_elsewhere(flags):
    columns = flat_columns([episode._replace(terminated=True) for episode in make_episodes(LENGTHS)])
    same = dict(observations=np.zeros((26, 3)), next_observations=np.zeros((26, 3)), masks=1.0 - columns["terminals"])
    data = load_dataset({**without(columns, "terminals", "timeouts"), **same, **flags})
    np.testing.assert_array_equal(np.diff(data.episode_starts), LENGTHS)


def test_a_masked_step_that_leads_elsewhere_is_an_end_and_no_cut():
    """Of four episodes, one end is flagged; the death in row 4 is told by its mask, the cut in row 10 by nothing."""
    columns = flat_columns(make_episodes(LENGTHS))
    flags = np.arange(26) == 17
    with pytest.warns(UserWarning, match="1 steps lead to another"):
        data = load_dataset(dict(without(columns, "timeouts"), terminals=flags, masks=1.0 - columns["terminals"]))
    np.testing.assert_array_equal(np.diff(data.episode_starts), LENGTHS)
    assert data.terminals[4] == 1 and data.timeouts[4] == 0 and data.inferred_cuts == 1


def test_whole_trajectories_are_chosen_and_trained_on():
    """BestEpisodes keeps trajectories with their goals; three-step returns stop at a goal and at an end."""
    source = layouts()["regular"]
    data = load_dataset(source)
    best = int(np.argmax(data.episode_returns()))
    model = GMPO(
        "FlowPolicy", dataset=source, transforms=[BestEpisodes(0.25)], policy_kwargs=SMALL, batch_size=8, device="cpu"
    ).learn(1)
    assert model.replay_buffer.size() == LENGTHS[best]
    chosen = data.select_episodes([best])
    assert chosen.n_episodes == 1 and chosen.terminals.sum() == 2
    returns = n_step_returns(data, data.rewards, 3, 0.5)
    r = data.rewards
    expected = {0: r[0] + 0.5 * r[1], 1: r[1], 2: r[2], 3: r[3] + 0.5 * r[4], 4: r[4], 5: r[5] + 0.5 * r[6]}
    for row, value in expected.items():
        assert returns.rewards[row] == pytest.approx(value, rel=1e-5), row
    np.testing.assert_array_equal(returns.dones[:6], [1, 1, 1, 0, 0, 1])


def test_discounted_returns_go_on_after_a_goal():
    data = load_dataset(layouts()["regular"])
    r, so_far = data.rewards.astype(float), discounted_returns_so_far(data, data.rewards, 0.5)
    assert so_far[4] == pytest.approx(sum(0.5 ** (4 - k) * r[k] for k in range(5)), rel=1e-5)
    assert so_far[5] == pytest.approx(r[5], rel=1e-5)


def test_joined_kept_and_mapped_records_have_the_same_ends(tmp_path):
    source = layouts()["regular"]
    path = write_npz(tmp_path / "goals.npz", source)
    columns = without(flat_columns(make_episodes(LENGTHS)), "timeouts")
    with pytest.warns(UserWarning, match="1 steps lead to another"):
        joined = load_dataset([load_dataset(source), load_dataset(columns)])
    np.testing.assert_array_equal(np.diff(joined.episode_starts), LENGTHS + LENGTHS)
    assert joined.inferred_cuts == 1
    entry = cache.CacheEntry([path], "test")
    entry.keep(joined)
    for memory_map in (False, True):
        back = entry.load(memory_map)
        np.testing.assert_array_equal(back.ends, joined.ends)
        assert back.inferred_cuts == 1 and back.ends.dtype == bool
    mapped = load_dataset([path, path], memory_map=True)
    np.testing.assert_array_equal(np.diff(mapped.episode_starts), LENGTHS + LENGTHS)


def test_flat_files_of_the_first_release_are_written_anew(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "goals.npz", layouts()["regular"])
    old = cache.CacheEntry([path], "test")
    monkeypatch.setattr(cache, "_VERSION", 1)
    assert cache.CacheEntry([path], "test").stamp != old.stamp


def record(**changes):
    data = load_dataset(flat_columns(make_episodes(LENGTHS)))
    return replace(data, **changes)


def test_a_record_made_by_hand_ends_where_its_flags_say():
    data = record()
    made = Transitions(
        data.states,
        data.next_rows,
        data.actions,
        data.rewards,
        np.zeros(26, np.float32),
        (np.arange(26) == 10).astype(np.float32),
        data.observation_space,
        data.action_space,
    )
    np.testing.assert_array_equal(made.episode_starts, [0, 11, 26])
    assert load_dataset(made).n_episodes == 2 and made.inferred_cuts == 0


@pytest.mark.parametrize("ends", [np.arange(26) == 25, np.isin(np.arange(26), (10, 17))])
def test_a_record_whose_ends_contradict_its_flags_is_refused(ends):
    with pytest.raises(ValueError, match=r"`ends` is not set in row \d+, where an episode ends: set it"):
        load_dataset(record(ends=ends))
    with pytest.raises(ValueError, match="arrays of different lengths: .*'ends': 3"):
        load_dataset(record(ends=np.ones(3, bool)))


def test_rows_can_be_left_out_anywhere():
    """Row 2 inside episode 0, row 5 at the beginning of episode 1, 16 and 17 at the end of episode 2, all of episode 3."""
    data = record()
    rows = np.setdiff1d(np.arange(18), [2, 5, 16, 17])
    some = data.select_rows(rows)
    np.testing.assert_array_equal(some.rewards, data.rewards[rows])
    np.testing.assert_array_equal(some.next_observations, data.next_observations[rows])
    np.testing.assert_array_equal(np.diff(some.episode_starts), [2, 2, 5, 5])
    np.testing.assert_array_equal(np.flatnonzero(some.timeouts), [1, 8, 13])
    np.testing.assert_array_equal(np.flatnonzero(some.terminals), [3])


def test_minari_and_buffers_say_their_ends(minari_root):
    episodes = make_episodes(LENGTHS)
    data = load_dataset(write_minari(episodes))
    np.testing.assert_array_equal(np.flatnonzero(data.ends), np.cumsum(LENGTHS) - 1)
    # A buffer in which a goal was met on the way: SB3's own flags are ends of episodes
    space, actions = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
    data = load_dataset(fill_sb3_buffer(episodes, ReplayBuffer(50, space, actions, "cpu")))
    np.testing.assert_array_equal(np.flatnonzero(data.ends), np.cumsum(LENGTHS) - 1)
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), [4, 17])


def test_antmaze_flags_inside_a_recording_still_end_episodes(tmp_path):
    columns = flat_columns([episode._replace(terminated=False) for episode in make_episodes(LENGTHS)])
    columns["terminals"][12] = 1.0
    with pytest.warns(UserWarning, match="1 steps are flagged as terminal inside an episode, first row 12 "):
        data = load_dataset(write_hdf5(tmp_path / "maze.hdf5", columns))
    np.testing.assert_array_equal(np.diff(data.episode_starts), [5, 6, 2, 5, 8])


def test_d4rl_without_successors_keeps_masked_steps():
    """Timeouts end trajectories; the row after a goal is what it led to."""
    columns, reached = goal_trajectories()
    source = dict(
        without(columns, "next_observations"), terminals=np.zeros(26), dones=columns["timeouts"], masks=1.0 - reached
    )
    data = load_dataset(source)
    np.testing.assert_array_equal(np.diff(data.episode_starts), [length - 1 for length in LENGTHS])
    kept = columns["timeouts"] == 0
    np.testing.assert_array_equal(data.terminals, reached[kept])
    np.testing.assert_array_equal(data.next_observations, columns["next_observations"][kept])


@pytest.mark.parametrize("unit", [1e-7, 1.0, 1e6])
@pytest.mark.filterwarnings("ignore:.*lead to another observation")
def test_breaks_are_seen_in_every_unit(unit):
    """Three recordings of eight steps, none of whose ends is flagged."""
    rng = np.random.default_rng(0)
    walks = [unit * rng.normal(size=(9, 2)).cumsum(axis=0) for _ in range(3)]
    rows = dict(
        observations=np.concatenate([walk[:-1] for walk in walks]),
        next_observations=np.concatenate([walk[1:] for walk in walks]).astype(np.float32).astype(np.float64),
        actions=rng.uniform(-1, 1, (24, 1)),
        rewards=rng.normal(size=24),
        terminals=np.zeros(24),
    )
    data = load_dataset(rows)
    np.testing.assert_array_equal(data.episode_starts, [0, 8, 16, 24])
    assert data.inferred_cuts == 2
