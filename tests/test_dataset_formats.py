"""
Random episodes, written the way each source keeps them, come back as the same transitions, never one across an episode's end.
"""

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_genpolicy import load_dataset
from sb3_genpolicy.common.datasets import columns as columns_module
from sb3_genpolicy.common.datasets import minari_episodes
from sb3_genpolicy.common.transitions.transitions import KEYS
from tests.helpers.data_formats import (
    FILE_FORMATS,
    WHOLE_FORMATS,
    Episode,
    episode_buffer,
    fill_sb3_buffer,
    flat_columns,
    make_episodes,
    spaces_of,
    trajectory_columns,
    without,
    write_hdf5,
    write_minari,
    write_npz,
)

pytest.importorskip("pyarrow")
# Of few values, observations coincide
pytestmark = pytest.mark.filterwarnings("ignore:.*flagged as terminal inside an episode")

# Few values, so that observations coincide where they should not matter: across ends, and within an episode
VALUES = st.sampled_from([0.0, 1.0, -2.5, 1e-3, 3e7])


@st.composite
def episode_sets(draw):
    obs_dim, action_dim = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    few = np.array([draw(VALUES) for _ in range(3)], dtype=np.float32)
    return [
        Episode(
            numbers.choice(few, (length + 1, obs_dim)),
            numbers.uniform(-1, 1, (length, action_dim)).astype(np.float32),
            numbers.choice(few, length),
            draw(st.booleans()),
        )
        for length in lengths
    ]


class Place:
    """A folder for one example, with Minari's root and the flat files in it."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        variables = dict(MINARI_DATASETS_PATH=str(root / "minari"), SB3_GENPOLICY_CACHE=str(root / "cache"))
        self.patch = mock.patch.dict(os.environ, variables)
        self.patch.start()
        return root

    def __exit__(self, *error):
        self.patch.stop()
        self.folder.cleanup()


def rows_of(data, key):
    rows = data[key]
    return rows["state"] if isinstance(rows, dict) else rows


def assert_same_transitions(data, episodes):
    expected = flat_columns(episodes)
    for key in KEYS:
        np.testing.assert_array_equal(rows_of(data, key), expected[key].astype(np.float32), err_msg=key)
    np.testing.assert_array_equal(np.diff(data.episode_starts), [episode.steps for episode in episodes])


EXAMPLES = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", WHOLE_FORMATS)
@EXAMPLES
@given(episodes=episode_sets())
def test_every_format_gives_the_same_transitions_back(name, episodes):
    with Place() as folder:
        assert_same_transitions(load_dataset(WHOLE_FORMATS[name](episodes, folder)), episodes)


@pytest.mark.parametrize("name", FILE_FORMATS)
@settings(EXAMPLES, max_examples=8)
@given(episodes=episode_sets())
def test_rows_that_stay_on_disk_are_the_same(name, episodes):
    with Place() as folder:
        source = WHOLE_FORMATS[name](episodes, folder)
        for _ in range(2):  # written to flat files, then read from them
            data = load_dataset(source, memory_map=True)
            assert data.memory_mapped
            assert_same_transitions(data, episodes)
        # In memory the flat files are read too
        assert_same_transitions(load_dataset(source), episodes)


@EXAMPLES
@given(episodes=episode_sets())
def test_d4rl_without_next_observations_loses_the_step_whose_successor_nobody_recorded(episodes):
    """What the file tells: all steps but the last of a cut episode. The observation of that row ends the step before."""
    told = [
        (
            episode
            if episode.terminated
            else Episode(episode.observations[:-1], episode.actions[:-1], episode.rewards[:-1], False)
        )
        for episode in episodes
    ]
    told = [episode for episode in told if episode.steps]
    with Place() as folder:
        path = write_hdf5(folder / "d4rl.hdf5", without(flat_columns(episodes), "next_observations"))
        if not told:
            with pytest.raises(ValueError, match="has no steps"):
                load_dataset(path)
            return
        data, expected = load_dataset(path), flat_columns(told)
        for key in ("observations", "actions", "rewards", "terminals", "timeouts"):
            np.testing.assert_array_equal(data[key], expected[key], err_msg=key)
        # After a terminal step nothing is asked for
        counts = data.terminals == 0
        np.testing.assert_array_equal(data.next_observations[counts], expected["next_observations"][counts])


@EXAMPLES
@given(episodes=episode_sets(), seed=st.integers(0, 1000))
def test_chosen_episodes_are_the_chosen_ones(episodes, seed):
    chosen = np.random.default_rng(seed).random(len(episodes)) < 0.5
    if not chosen.any():
        chosen[0] = True
    for data in (load_dataset(flat_columns(episodes)), load_dataset(trajectory_columns(episodes))):
        some = data.select_episodes(chosen)
        assert_same_transitions(some, [episode for episode, keep in zip(episodes, chosen, strict=True) if keep])
        np.testing.assert_array_equal(some.rewards, data.rewards[data.rows_of(chosen)])


def test_an_observation_that_two_rows_share_is_stored_once():
    episodes = make_episodes()
    rows, ends = sum(episode.steps for episode in episodes), len(episodes)
    for source in (flat_columns(episodes), trajectory_columns(episodes)):
        assert load_dataset(source).states.shape == (rows + ends, 3)
    # Rows in any order share nothing, and lose nothing
    columns = flat_columns(episodes)
    order = np.random.default_rng(0).permutation(rows)
    shuffled = {key: column[order] for key, column in columns.items()}
    with pytest.warns(UserWarning, match="steps lead to another observation than the next row's though no flag ends"):
        data = load_dataset(shuffled)
    np.testing.assert_array_equal(data.next_observations, shuffled["next_observations"])
    np.testing.assert_array_equal(data.terminals, shuffled["terminals"])


def test_successors_that_differ_by_rounding_are_kept_and_end_no_episode():
    columns = flat_columns(make_episodes())
    columns["next_observations"] = columns["next_observations"] * np.float32(1 + 1e-6)
    data = load_dataset(columns)
    assert data.n_episodes == 4
    np.testing.assert_array_equal(data.next_observations, columns["next_observations"])


def test_d4rl_without_timeouts_gets_its_cuts_from_successors_that_do_not_follow(tmp_path):
    """Legacy files: a transition across an episode's end slips in where nobody looks."""
    episodes = make_episodes()
    columns = without(flat_columns(episodes), "timeouts")
    with pytest.warns(UserWarning, match=r"1 steps lead to another .* first at row 10 \(episode 1, step 5\)"):
        data = load_dataset(write_hdf5(tmp_path / "d4rl.hdf5", columns))
    assert_same_transitions(data, episodes)


def test_episodes_that_all_end_at_one_length_are_suspected_of_a_time_limit():
    episodes = [episode._replace(terminated=True) for episode in make_episodes((60, 60, 60))]
    with pytest.warns(UserWarning, match="all 3 episodes end after 60 steps, which looks like a time limit"):
        load_dataset(without(flat_columns(episodes), "timeouts"))


def test_a_buffer_that_cannot_tell_time_limits_is_suspected():
    """SB3's memory-saving buffers do not know what ended an episode."""
    space, actions = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
    buffer = ReplayBuffer(300, space, actions, "cpu", optimize_memory_usage=True, handle_timeout_termination=False)
    fill_sb3_buffer(make_episodes((60, 60, 60)), buffer)
    with pytest.warns(
        UserWarning, match="The replay buffer: all 3 episodes end after 60 steps, which looks like a time limit"
    ):
        assert load_dataset(buffer).n_episodes == 3


def test_ogbench_without_rewards_asks_for_a_task_and_takes_one(tmp_path):
    """The task: reach a positive second coordinate; its rewards are worked out by hand from the episodes."""
    episodes = make_episodes()
    path = write_npz(
        tmp_path / "maze.npz", {**without(trajectory_columns(episodes), "rewards", "masks"), "qpos": np.zeros(30)}
    )
    with pytest.raises(ValueError, match=r"maze.npz has no key 'rewards'.*OGBench .* pass `relabel=`"):
        load_dataset(path)

    def relabel(arrays):
        assert len(arrays["qpos"]) == 30
        reached = arrays["observations"][:, 1] > 0
        arrays["rewards"], arrays["masks"] = reached - 1.0, 1.0 - reached

    data = load_dataset(path, relabel=relabel)
    expected = np.concatenate([episode.observations[:-1, 1] > 0 for episode in episodes])
    np.testing.assert_array_equal(data.rewards, expected - 1.0)
    np.testing.assert_array_equal(data.terminals, expected)
    following = np.concatenate([episode.observations[1:] for episode in episodes])
    np.testing.assert_array_equal(data.next_observations, following)
    # A name by which other data would be loaded again is none
    assert data.name is None


def test_a_trajectory_that_the_file_breaks_off_ends_with_its_last_row(tmp_path):
    """OGBench's layout without a flag at the end: what is left of the trajectory has one observation more than steps."""
    columns = trajectory_columns(make_episodes())
    short = {key: column[:-2] for key, column in columns.items()}
    data = load_dataset(write_npz(tmp_path / "ogbench.npz", short))
    np.testing.assert_array_equal(np.diff(data.episode_starts), [5, 6, 7, 6])
    np.testing.assert_array_equal(data.next_observations[-1], columns["observations"][-3])


def test_many_batches_of_episodes_are_read_like_one(minari_root, monkeypatch):
    episodes = make_episodes((5, 6, 7, 8, 4, 3, 2))
    name = write_minari(episodes)
    monkeypatch.setattr(minari_episodes, "_EPISODES", 2)
    assert_same_transitions(load_dataset(name), episodes)
    monkeypatch.setattr(minari_episodes, "_EPISODES", 4)
    monkeypatch.setattr(minari_episodes, "_BYTES", 300)
    assert_same_transitions(load_dataset(name), episodes)


def test_columns_in_many_pieces_are_read_like_one(tmp_path, monkeypatch):
    """Pieces of two rows: ends, lost rows and successors lie at every place in them."""
    monkeypatch.setattr(columns_module, "_CHUNK_BYTES", 24)
    monkeypatch.setattr(columns_module.slices, "__defaults__", (2,))
    episodes = make_episodes((5, 6, 7, 8, 4, 3, 2, 1))
    for name, write in WHOLE_FORMATS.items():
        if "Minari" not in name:
            assert_same_transitions(load_dataset(write(episodes, tmp_path)), episodes)
    path = write_hdf5(tmp_path / "lost.hdf5", without(flat_columns(make_episodes()), "next_observations"))
    np.testing.assert_array_equal(np.diff(load_dataset(path).episode_starts), [5, 5, 7, 7])


def test_dictionaries_of_observations_in_files(tmp_path):
    columns = flat_columns(make_episodes())
    split = without(columns, "observations", "next_observations")
    for key in ("observations", "next_observations"):
        split[f"{key}/position"], split[f"{key}/rest"] = columns[key][:, :1], columns[key][:, 1:]
    for path in (write_hdf5(tmp_path / "dict.hdf5", split), write_npz(tmp_path / "dict.npz", split)):
        data = load_dataset(path)
        np.testing.assert_array_equal(data.next_observations["position"][:, 0], columns["next_observations"][:, 0])
        np.testing.assert_array_equal(data.observations["rest"], columns["observations"][:, 1:])
        assert data.n_episodes == 4


def test_images_stay_bytes_in_every_file(tmp_path, minari_root):
    rng = np.random.default_rng(0)
    episodes = [
        episode._replace(observations=rng.integers(0, 256, (episode.steps + 1, 36, 36, 3), dtype=np.uint8))
        for episode in make_episodes((3, 4))
    ]
    for source in (
        flat_columns(episodes),
        write_npz(tmp_path / "images.npz", flat_columns(episodes)),
        write_hdf5(tmp_path / "images.hdf5", flat_columns(episodes)),
    ):
        data = load_dataset(source)
        assert data.states.dtype == np.uint8 and data.observation_space == spaces.Box(0, 255, (36, 36, 3), np.uint8)
        np.testing.assert_array_equal(data.next_observations, flat_columns(episodes)["next_observations"])


def test_hindsight_buffers_give_what_happened_with_the_goals_that_were_meant():
    """Through SB3's own loop: the goal environment's rewards are those of its desired goals."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.envs import BitFlippingEnv

    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=3)
    agent = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=1000, seed=0).learn(30)
    assert isinstance(agent.get_env(), DummyVecEnv)
    data = load_dataset(agent.replay_buffer)
    assert data.n_rows == 30 and set(data.observations) == {"observation", "achieved_goal", "desired_goal"}
    reached = (data.next_observations["achieved_goal"] == data.observations["desired_goal"]).all(axis=1)
    np.testing.assert_array_equal(data.rewards, reached - 1.0)
    for start, end in zip(data.episode_starts, data.episode_starts[1:], strict=False):
        assert (
            end - start <= 3
            and (data.observations["desired_goal"][start:end] == data.observations["desired_goal"][start]).all()
        )


def test_a_pickled_hindsight_buffer_is_read_without_its_environment(tmp_path):
    from stable_baselines3 import SAC
    from stable_baselines3.common.envs import BitFlippingEnv

    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=3)
    agent = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=1000, seed=0).learn(20)
    agent.save_replay_buffer(tmp_path / "her.pkl")
    data, expected = load_dataset(tmp_path / "her.pkl"), load_dataset(agent.replay_buffer)
    for key in expected.observations:
        np.testing.assert_array_equal(data.next_observations[key], expected.next_observations[key])
    np.testing.assert_array_equal(data.rewards, expected.rewards)
    assert data.name == str(tmp_path / "her.pkl")


@pytest.mark.parametrize("jpeg", [True, False])
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_dictionaries_with_images_in_minari(data_format, jpeg, minari_root):
    """Smooth images, so that Minari's compression changes them little."""
    episodes = make_episodes((3, 4))
    ramp = np.broadcast_to(np.linspace(0, 200, 40)[:, None, None], (40, 36, 3))
    space = spaces.Dict({"image": spaces.Box(0, 255, (40, 36, 3), np.uint8), "state": spaces_of(episodes)[0]})
    images = [np.stack([(ramp + 10 * step).astype(np.uint8) for step in range(e.steps + 1)]) for e in episodes]
    buffers = [
        episode_buffer(episode, observations={"image": image, "state": episode.observations})
        for episode, image in zip(episodes, images, strict=True)
    ]
    minari.create_dataset_from_buffers(
        "test/images-v0",
        buffers,
        observation_space=space,
        action_space=spaces_of(episodes)[1],
        data_format=data_format,
        jpeg_encoding=jpeg,
    )
    for memory_map in (False, True):
        data = load_dataset("test/images-v0", memory_map=memory_map)
        expected = np.concatenate([image[1:] for image in images])
        difference = np.abs(data.next_observations["image"].astype(int) - expected)
        assert data.states["image"].dtype == np.uint8 and difference.max() <= (3 if jpeg else 0)
        np.testing.assert_array_equal(data.observations["state"], flat_columns(episodes)["observations"])


def test_lists_keep_names_scores_and_order(tmp_path, minari_root):
    episodes = make_episodes()
    first = write_minari(episodes[:2], reference_scores=(0.0, 10.0))
    second = write_minari(episodes[2:], reference_scores=(0.0, 10.0))
    data = load_dataset([first, second])
    assert_same_transitions(data, episodes)
    assert data.reference_scores == (0.0, 10.0) and data.name == f"{first} + {second}"
    # The name loads it again, on a disk too
    assert_same_transitions(load_dataset(data.name), episodes)
    mapped = load_dataset(data.name, memory_map=True)
    assert mapped.memory_mapped and mapped.name == data.name
    assert_same_transitions(mapped, episodes)
    # What the parts do not agree on is left out
    assert load_dataset([first, flat_columns(episodes[2:])]).reference_scores is None


def test_a_minari_folder_is_a_source(minari_root, tmp_path):
    episodes = make_episodes()
    name = write_minari(episodes)
    data = load_dataset(minari_root / name)
    assert_same_transitions(data, episodes)
    assert data.name == name
    # Elsewhere than in Minari's folder, its id would find another, or nothing
    elsewhere = shutil.copytree(minari_root / name, tmp_path / "elsewhere")
    assert load_dataset(elsewhere).name == str(elsewhere)
    assert_same_transitions(load_dataset(load_dataset(elsewhere).name), episodes)


def test_wrapped_replay_buffers_of_several_environments_stay_apart():
    """Two environments' steps in one ring that has gone round: each stream is in order, and cut where it stops."""
    space, actions = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
    buffer = ReplayBuffer(8, space, actions, device="cpu", n_envs=2)  # four slots each
    for step in range(6):
        now = np.array([[step], [100 + step]], dtype=np.float32)
        buffer.add(now, now + 1, np.zeros((2, 1)), np.array([step, 100 + step]), np.zeros(2), [{}, {}])
    data = load_dataset(buffer)
    np.testing.assert_array_equal(data.rewards, [2, 3, 4, 5, 102, 103, 104, 105])
    np.testing.assert_array_equal(data.next_observations[:, 0], data.rewards + 1)
    np.testing.assert_array_equal(data.timeouts, [0, 0, 0, 1, 0, 0, 0, 1])
