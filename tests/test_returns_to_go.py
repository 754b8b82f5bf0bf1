"""
What followed a row: returns until the episode's end, how well the critics' advantage foretells them, and the action that was
logged next. Against loops over the rows.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure

from sb3_genpolicy import GMPO, HeldOutEpisodes, NStepReturns, load_dataset
from sb3_genpolicy.common.algorithms.held_out import HeldOutRows
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.returns import returns_to_go
from sb3_genpolicy.common.transitions.rewards import AffineReward
from tests.helpers.arrays import SMALL, make_arrays, one_step_data
from tests.helpers.data_formats import write_npz
from tests.helpers.returns import by_hand, with_terminal_inside

GAMMA = 0.9
OPTIONS = dict(policy_kwargs=SMALL, batch_size=8, seed=0, device="cpu")


# Returns


@pytest.mark.parametrize("gamma", [0.9, 1.0, 0.0])
def test_returns_to_go_are_those_of_a_loop(gamma):
    data = with_terminal_inside()
    assert data.n_episodes == 5 and data.terminals[7] and not data.ends[7]
    ours = returns_to_go(data, data.rewards, gamma)
    for row in range(data.n_rows):
        total, last, discount = by_hand(data, row, gamma)
        assert ours.rewards[row] == pytest.approx(total, rel=1e-6, abs=1e-6), row
        assert ours.last_rows[row] == last and ours.discounts[row] == pytest.approx(discount), row
        assert ours.steps_left[row] == last - row + 1


def test_returns_are_of_the_rewards_that_are_given():
    data = with_terminal_inside()
    once, twice = (returns_to_go(data, rewards, GAMMA) for rewards in (data.rewards, 2.0 * data.rewards))
    np.testing.assert_allclose(twice.rewards, 2.0 * once.rewards)


# Correlation of the advantage


class _Table:
    """Values of observations by their first entry, which is one step's alone."""

    def __init__(self, observations, values):
        self.of = dict(zip(observations[:, 0].tolist(), values, strict=True))

    def __call__(self, observations, actions=None):
        return th.tensor([[self.of[float(entry)]] for entry in observations[:, 0]], dtype=th.float32)

    q_values = __call__


def held_out_of(data, rows, n_steps=1, reward=None):
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward() if reward is None else reward, n_steps=n_steps, gamma=GAMMA)
    return HeldOutRows(rows, data, buffer, None, GAMMA)


def tables(data, q, v, v_at_ends):
    """A policy with these Qs and Vs of the rows, and Vs of what episodes ended with."""
    ends = np.flatnonzero(data.ends)
    values = _Table(np.concatenate([data.observations, data.next_observations[ends]]), np.append(v, v_at_ends))
    return SimpleNamespace(critic_target=_Table(data.observations, q), value_net=values)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_correlation_is_that_of_numpy(n_steps):
    """Any Q and V, transformed rewards, and V where episodes were cut off; n-step returns of the critics change nothing."""
    data, rng = with_terminal_inside(), np.random.default_rng(0)
    q, v, v_at_ends = rng.normal(size=data.n_rows), rng.normal(size=data.n_rows), 3.0 * rng.normal(size=5)
    rows, episode = np.arange(2, data.n_rows), np.repeat(np.arange(5), np.diff(data.episode_starts))
    followed = []
    for row in rows:
        total, last, discount = by_hand(data, row, GAMMA)
        steps = last - row + 1
        total = 2.0 * total + 0.5 * sum(GAMMA**k for k in range(steps))
        followed.append(total + discount * v_at_ends[episode[row]])
    expected = np.corrcoef(q[rows] - v[rows], np.array(followed) - v[rows])[0, 1]
    held_out = held_out_of(data, rows, n_steps, AffineReward(scale=2.0, shift=0.5))
    assert held_out.advantage_correlation(tables(data, q, v, v_at_ends)).item() == pytest.approx(expected, abs=1e-5)
    # The ends of terminated episodes count nothing, those of others do
    for end, counts in enumerate([False, True, False, True, False]):
        moved = v_at_ends + 5.0 * (np.arange(5) == end)
        other = held_out.advantage_correlation(tables(data, q, v, moved)).item()
        assert (abs(other - expected) > 1e-3) == counts


def chain(n_episodes=20, steps=4):
    """Each episode starts at its own place. The first action decides on the reward, all else is the same for everyone."""
    rng = np.random.default_rng(0)
    observations = np.arange(n_episodes * (steps + 1), dtype=np.float32).reshape(n_episodes, steps + 1, 1)
    actions = rng.choice([-1.0, 1.0], size=(n_episodes, steps, 1)).astype(np.float32)
    rewards = np.ones((n_episodes, steps), np.float32)
    rewards[:, 0] = 3.0 * actions[:, 0, 0]
    is_last = np.tile(np.arange(steps) == steps - 1, (n_episodes, 1))
    return load_dataset(
        dict(
            observations=observations[:, :-1].reshape(-1, 1),
            next_observations=observations[:, 1:].reshape(-1, 1),
            actions=actions.reshape(-1, 1),
            rewards=rewards.reshape(-1),
            terminals=is_last.reshape(-1),
            timeouts=np.zeros(is_last.size),
        )
    )


def test_a_perfect_critic_foretells_all_where_there_is_no_chance():
    data, steps = chain(), 4
    first = np.arange(data.n_rows) % steps == 0
    # Worked out backwards: 1, 1 + 0.9, 1 + 0.9 + 0.81 to go, and -3 or 3 before that
    to_go = np.array([0.9 * 2.71, 2.71, 1.9, 1.0])
    v = np.tile(to_go, data.n_rows // steps)
    q = v + 3.0 * first * data.actions[:, 0]
    held_out, nothing = held_out_of(data, np.arange(data.n_rows)), np.zeros(data.n_episodes)
    assert held_out.advantage_correlation(tables(data, q, v, nothing)).item() == pytest.approx(1.0)
    assert held_out.advantage_correlation(tables(data, 2.0 * v - q, v, nothing)).item() == pytest.approx(-1.0)
    # One that knows the state alone, and one that knows nothing
    assert held_out.advantage_correlation(tables(data, v, v, nothing)) == 0.0
    constant = np.full(data.n_rows, 7.0)
    assert held_out.advantage_correlation(tables(data, constant, constant, nothing)) == 0.0


def logged(model, path, steps):
    """The log's lines, one for each step."""
    model.set_logger(configure(str(path), ["csv"]))
    model.learn(steps, log_interval=1)
    return np.genfromtxt(path / "progress.csv", delimiter=",", names=True, deletechars="", dtype=None, encoding=None)


def test_the_correlation_is_logged_of_held_out_episodes(arrays, tmp_path):
    without = logged(GMPO("FlowPolicy", dataset=arrays, **OPTIONS), tmp_path / "without", 2)
    assert not [name for name in without.dtype.names if name.startswith("validation/")]
    model = GMPO("FlowPolicy", dataset=arrays, transforms=[HeldOutEpisodes(0.5), NStepReturns(2)], **OPTIONS)
    log = logged(model, tmp_path / "with", 3)
    values = log["validation/advantage_correlation"]
    assert len(values) == 3 and np.all(np.abs(values) <= 1.0) and len(set(values)) == 3
    model.policy.set_training_mode(False)
    assert values[-1] == pytest.approx(model.held_out.advantage_correlation(model.policy).item(), abs=1e-6)


def test_the_correlation_stays_where_critics_are_frozen(arrays, tmp_path):
    options = dict(weighting="softmax", n_actions=2, pretraining_steps=2, transforms=[HeldOutEpisodes(0.5)], **OPTIONS)
    log = logged(GMPO("FlowPolicy", dataset=arrays, **options), tmp_path, 5)
    values = log["validation/advantage_correlation"]
    # The line after the last update of the first phase speaks of the next one
    assert [name.strip('"') for name in log["train/phase"]] == ["pretraining"] + ["policy"] * 4
    assert values[0] != values[1] and set(values[1:]) == {values[1]}


# Logged next actions


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_next_actions_are_those_of_the_row_some_steps_on(n_steps, memory_map, tmp_path):
    """Scaled between the bounds; not a number where the episode ended before and the next one starts elsewhere."""
    arrays = make_arrays(low=-2.0, high=6.0)
    columns = {key: column for key, column in arrays.items() if key != "action_space"}
    data = load_dataset(
        write_npz(tmp_path / "rows.npz", columns), memory_map=memory_map, action_space=spaces.Box(-2, 6, (2,), np.float32)
    )
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward(), n_steps=n_steps, gamma=GAMMA)
    assert buffer.streams == memory_map
    expected = np.full((26, 2), np.nan)
    for start, length in zip((0, 5, 11, 18), (5, 6, 7, 8), strict=True):
        for row in range(start, start + length - n_steps):
            expected[row] = (arrays["actions"][row + n_steps] + 2.0) / 4.0 - 1.0
    assert np.isnan(expected[:, 0]).sum() == 4 * n_steps
    rows = np.random.default_rng(0).permutation(26)
    np.testing.assert_allclose(buffer.next_actions(th.as_tensor(rows)), expected[rows], atol=1e-6)


def test_a_recording_that_goes_on_where_it_was_cut_off_has_next_actions():
    """A time limit of one step, without a reset: what was done next was logged, apart from the last row."""
    actions = np.linspace(-1.0, 1.0, 6)[:, None]
    data = load_dataset({**one_step_data(actions, np.ones(6), terminal=0.0), "action_space": spaces.Box(-1, 1, (1,))})
    assert data.ends.all()
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward())
    np.testing.assert_allclose(buffer.next_actions(th.arange(6))[:, 0], [*actions[1:, 0], np.nan], atol=1e-6)


@pytest.mark.parametrize("has_dataset", [True, False])
def test_added_rows_have_no_logged_next_action(arrays, has_dataset):
    buffer = OfflineReplayBuffer(10, spaces.Box(-np.inf, np.inf, (3,)), arrays["action_space"], device="cpu")
    if has_dataset:
        buffer.fill(load_dataset(arrays), AffineReward())
    for _ in range(3):
        buffer.add(np.zeros((1, 3)), np.ones((1, 3)), np.zeros((1, 2)), np.ones(1), np.array([False]), [{}])
    n_dataset = buffer.n_from_dataset
    rows = th.tensor([n_dataset, n_dataset + 2, 0, n_dataset + 1])
    known = ~buffer.next_actions(rows).isnan().any(dim=1)
    assert known.tolist() == [False, False, has_dataset, False]
