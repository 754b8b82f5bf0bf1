"""
Vector environments that reset between two episodes leave rows that are no steps; other recordings have none.
"""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_genpolicy import load_dataset
from tests.helpers.data_formats import Episode, flat_columns, write_minari, write_npz

AFTER, SAME = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP
NAMES = ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts")
ENVS = {
    "Pendulum-v1": 20,
    "MountainCarContinuous-v0": 40,
    # Falls after a few steps: terminals, and cuts
    "InvertedPendulum-v5": 8,
}


def roll(env_id, mode, n_envs=1, n_steps=200, max_steps=None):
    """What a plain loop over a vector environment records, one copy after the other; and which rows followed a done."""
    env = gym.make_vec(
        env_id,
        num_envs=n_envs,
        vectorization_mode="sync",
        max_episode_steps=max_steps or ENVS[env_id],
        vector_kwargs=dict(autoreset_mode=mode),
    )
    env.action_space.seed(0)
    observations, _ = env.reset(seed=0)
    steps = []
    for _ in range(n_steps):
        actions = env.action_space.sample()
        following, *rest, _ = env.step(actions)
        steps.append((observations.copy(), following.copy(), actions, *(np.array(column) for column in rest)))
        observations = following
    columns = {
        name: np.concatenate([np.stack(column)[:, k] for k in range(n_envs)])
        for name, column in zip(NAMES, zip(*steps, strict=True), strict=True)
    }
    dones = (columns["terminals"] | columns["timeouts"]).reshape(n_envs, n_steps)
    after = np.insert(dones[:, :-1], 0, False, axis=1).reshape(-1)
    return {**columns, "action_space": env.single_action_space}, after


def without(columns, *keys):
    return {key: column for key, column in columns.items() if key not in keys}


def quietly(source, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(source, **options)
    return data, [str(warning.message) for warning in caught if "no flag ends an episode" not in str(warning.message)]


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("env_id", ENVS)
def test_resets_in_the_step_after_an_end_are_left_out(env_id, n_envs):
    columns, after = roll(env_id, AFTER, n_envs)
    data, (message,) = quietly(columns)
    assert f"{after.sum()} rows, first row {np.argmax(after)} (episode 1, step 0), are resets" in message
    for key in ("observations", "next_observations", "rewards", "terminals"):
        np.testing.assert_allclose(data[key], np.asarray(columns[key][~after], np.float32), err_msg=key)
    # No episode starts where another one ended
    starts = data.episode_starts[1:-1]
    assert not (data.observations[starts] == data.next_observations[starts - 1]).all(axis=1).any()
    assert (np.diff(data.episode_starts) <= ENVS[env_id]).all()


def test_few_episodes_suffice():
    """As the one who writes a first loop: 62 steps, two of them resets; and 42, the last of them one."""
    columns, _ = roll("Pendulum-v1", AFTER, n_steps=62)
    data, messages = quietly(columns)
    np.testing.assert_array_equal(np.diff(data.episode_starts), [20, 20, 20])
    assert len(messages) == 1
    columns, _ = roll("Pendulum-v1", AFTER, n_steps=42)
    data, messages = quietly(columns)
    np.testing.assert_array_equal(np.diff(data.episode_starts), [20, 20])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_rewards_that_are_mostly_zero(share):
    columns, after = roll("Pendulum-v1", AFTER, n_steps=400)
    rewards = (np.random.default_rng(0).random(400) < share) & ~after
    data, messages = quietly({**columns, "rewards": rewards.astype(float)})
    assert data.n_rows == (~after).sum() and len(messages) == 1


def test_dictionaries_files_and_minari(tmp_path, minari_root):
    columns, after = roll("Pendulum-v1", AFTER)
    split = dict(columns)
    for key in ("observations", "next_observations"):
        split[key] = {"angle": columns[key][:, :2], "speed": columns[key][:, 2:]}
    data, messages = quietly(split)
    assert data.n_rows == (~after).sum() and len(messages) == 1
    # Written to a file, whose rows stay there
    path = write_npz(tmp_path / "vector.npz", without(columns, "action_space"))
    bounds = columns["action_space"]
    data, messages = quietly(path, action_space=bounds)
    assert data.n_rows == (~after).sum() and data.name == str(path) and len(messages) == 1
    with pytest.raises(ValueError, match=r"9 rows, first row 20 .*are resets.*memory_map=False, or write"):
        load_dataset(path, action_space=bounds, memory_map=True)
    # Split at its flags, as Minari keeps episodes
    ends = np.flatnonzero(columns["timeouts"]) + 1
    episodes = [
        Episode(
            np.append(columns["observations"][a:b], columns["next_observations"][b - 1 : b], axis=0),
            columns["actions"][a:b] / 2,
            columns["rewards"][a:b].astype(np.float32),
            False,
        )
        for a, b in zip([0, *ends[:-1]], ends, strict=True)
    ]
    data, messages = quietly(write_minari(episodes))
    assert data.n_rows == 20 * len(ends) and len(messages) == 1


def test_a_replay_buffer_that_was_filled_in_such_a_loop():
    columns, after = roll("Pendulum-v1", AFTER, n_envs=2)
    arrays = {key: columns[key].reshape(2, 200, *columns[key].shape[1:]).swapaxes(0, 1) for key in NAMES}
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    buffer = ReplayBuffer(400, space, columns["action_space"], "cpu", n_envs=2)
    for t in range(200):
        row = {key: array[t] for key, array in arrays.items()}
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in row["timeouts"]]
        done = row["terminals"] | row["timeouts"]
        buffer.add(row["observations"], row["next_observations"], row["actions"] / 2, row["rewards"], done, infos)
    data, messages = quietly(buffer)
    assert data.n_rows == (~after).sum() and len(messages) == 1 and "The replay buffer: 18 rows" in messages[0]


@pytest.mark.parametrize("env_id", ENVS)
def test_without_successors_they_are_told_by_rewards_of_zero(env_id):
    """The step that leads to the last observation of a cut episode is still lost, as without a vector environment."""
    columns, after = roll(env_id, AFTER, n_steps=400)
    data, (message,) = quietly(without(columns, "next_observations"))
    assert f"{after.sum()} rows" in message and "are resets" in message
    lost = (columns["timeouts"] | after | (np.arange(400) == 399)) & ~columns["terminals"]
    np.testing.assert_allclose(data.rewards, columns["rewards"][~lost].astype(np.float32))


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_cut_episodes_whose_last_observation_was_replaced_lose_that_step(env_id, n_envs, tmp_path):
    columns, after = roll(env_id, SAME, n_envs)
    # Where a copy stops with an end, the row after it is another copy's: its successor is of the next episode all the same
    linked = columns["timeouts"] & np.append(after[1:], False)
    data, (message,) = quietly(columns)
    assert f"{linked.sum()} rows, first row {ENVS[env_id] - 1} (episode 0, step {ENVS[env_id] - 1}), end episodes" in message
    np.testing.assert_allclose(data.rewards, columns["rewards"][~linked].astype(np.float32))
    # What is bootstrapped from is the observation that follows within the episode
    before = np.flatnonzero(np.append(linked[1:], False)[~linked])
    np.testing.assert_array_equal(data.next_observations[before], columns["observations"][linked])
    assert data.timeouts[before].all() and data.ends[before].all()
    path = write_npz(tmp_path / "vector.npz", without(columns, "action_space"))
    with pytest.raises(ValueError, match="end episodes that were cut off but lead to the first observation of the next"):
        load_dataset(path, action_space=columns["action_space"], memory_map=True)


def test_terminals_may_lead_anywhere():
    """Nobody asks for what a terminal led to."""
    columns, _ = roll("InvertedPendulum-v5", SAME, max_steps=1000)
    assert not columns["timeouts"].any()
    data, messages = quietly(columns)
    assert data.n_rows == 200 and not any("reset" in message for message in messages)


# Others


def pieces(kind, rewards, n_rows=600, every=50):
    """One recording of a pendulum that goes on, flagged now and then without a reset."""
    env = gym.make("Pendulum-v1", max_episode_steps=10**6)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    steps = []
    for _ in range(n_rows):
        action = env.action_space.sample()
        following, reward, *_ = env.step(action)
        steps.append((observation, following, action, reward))
        observation = following
    columns = dict(zip(NAMES, map(np.array, zip(*steps, strict=True)), strict=False))
    flags = np.arange(n_rows) % every == every - 1
    columns["rewards"] = {
        "dense": columns["rewards"],
        "sparse": (np.random.default_rng(0).random(n_rows) < 0.02) * 1.0,
        "none after a flag": np.where(np.insert(flags[:-1], 0, False), 0.0, columns["rewards"]),
        "none": np.zeros(n_rows),
    }[rewards]
    columns.update(terminals=np.zeros(n_rows), timeouts=np.zeros(n_rows), action_space=env.action_space)
    columns[kind] = flags
    return columns


@pytest.mark.parametrize("every", [50, 250])
@pytest.mark.parametrize("rewards", ["dense", "sparse", "none after a flag", "none"])
@pytest.mark.parametrize("kind", ["timeouts", "terminals"])
def test_recordings_that_go_on_are_left_alone(kind, rewards, every):
    data, messages = quietly(pieces(kind, rewards, every=every))
    assert data.n_rows == 600 and not any("reset" in message for message in messages)


def independent(case, n_rows=1000, every=20, kind="timeouts"):
    rng = np.random.default_rng(0)
    chain = rng.normal(size=(n_rows + 1, 3))
    flags = np.arange(n_rows) % every == every - 1
    columns = dict(
        observations=chain[:-1],
        next_observations=chain[1:],
        actions=rng.uniform(-1, 1, (n_rows, 1)),
        rewards=rng.normal(size=n_rows),
        terminals=np.zeros(n_rows),
        timeouts=np.zeros(n_rows),
    )
    columns[kind] = flags
    first = np.arange(n_rows) % every == 0
    if case == "constant":
        columns["observations"] = columns["next_observations"] = np.zeros((n_rows, 3))
        columns["rewards"] = np.where(first, 0.0, columns["rewards"])
    elif case == "sparse":
        columns["rewards"] = (rng.random(n_rows) < 0.05) * 1.0
    elif case == "walks":
        walks = 0.1 * np.cumsum(rng.normal(size=(n_rows // every, every + 1, 3)), axis=1)
        columns["observations"], columns["next_observations"] = walks[:, :-1].reshape(-1, 3), walks[:, 1:].reshape(-1, 3)
        columns["rewards"] = np.where(first, 0.0, columns["rewards"])
    return columns


@pytest.mark.parametrize("every", [1, 2, 20])
@pytest.mark.parametrize("case", ["chained", "sparse", "constant", "walks"])
@pytest.mark.parametrize("kind", ["timeouts", "terminals"])
def test_random_constant_and_single_rows_are_left_alone(kind, case, every):
    """Bandits with an episode a row, observations that tell nothing, episodes whose first step earns nothing."""
    columns = independent(case, every=every, kind=kind)
    data, messages = quietly(columns)
    assert data.n_rows == 1000 and not any("reset" in message for message in messages)
    if every > 2:
        data, messages = quietly(without(columns, "next_observations"))
        assert not any("reset" in message for message in messages)


def test_single_rows_after_a_long_episode_are_left_alone():
    """A walk, then episodes of a row each that go far, earn nothing and start where the one before led to."""
    rng = np.random.default_rng(0)
    path = np.concatenate([0.1 * np.cumsum(rng.normal(size=(300, 3)), axis=0), 5 * rng.normal(size=(51, 3))])
    ends = np.arange(350) >= 299
    columns = dict(observations=path[:-1], next_observations=path[1:], actions=np.zeros((350, 1)))
    columns.update(rewards=np.where(ends, 0.0, 1.0), terminals=np.zeros(350), timeouts=ends)
    columns["rewards"][299] = 1.0
    _, messages = quietly(columns)
    assert not any("are resets" in message for message in messages)


def test_a_goal_that_changes_with_the_episode_tells_too():
    """All else is noise; the goal, which stays for an episode, changes in the step that leads to the next one."""
    columns = independent("chained", every=20)
    goals = np.repeat(np.random.default_rng(1).normal(size=(51, 1)), 20, axis=0)
    columns["observations"] = np.append(columns["observations"], goals[:1000], axis=1)
    columns["next_observations"] = np.append(columns["next_observations"], goals[1:1001], axis=1)
    data, (message,) = quietly(columns)
    assert "49 rows, first row 19 (episode 0, step 19), end episodes that were cut off" in message and data.n_rows == 951


def test_ordinary_episodes_beside_those_of_a_vector_environment():
    """A list of both: the one loses its resets, the other nothing."""
    vector, after = roll("Pendulum-v1", AFTER)
    ordinary = flat_columns(
        [
            Episode(np.cumsum(np.full((9, 3), 0.1), axis=0), np.zeros((8, 1)), np.linspace(-1, 0, 8), k % 2 == 0)
            for k in range(6)
        ]
    )
    ordinary["action_space"] = vector["action_space"]
    for sources in ([vector, ordinary], [dict(vector, extra=np.zeros(200)), ordinary]):
        data, messages = quietly(sources)
        assert data.n_rows == (~after).sum() + 48 and sum("are resets" in message for message in messages) == 1
