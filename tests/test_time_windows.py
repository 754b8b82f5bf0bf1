"""
What batches of a policy that looks back and plans ahead are made of: beside walks through each episode, and beside the frame
stacks of Stable-Baselines3 and of gymnasium.
"""

from collections import deque
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_genpolicy import GMPO, load_dataset
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.policies.critics import OneStepCritic, PolicyCritic
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.rewards import AffineReward
from sb3_genpolicy.common.transitions.time_windows import planned_space, stacked, stacked_space, with_stacks
from tests.helpers.data_formats import flat_columns, make_episodes, write_npz
from tests.helpers.returns import with_terminal_inside

GAMMA = 0.9
TINY = dict(net_arch=[8])


def episodes_of(data):
    """Every episode as lists of observations (one more than actions), actions, rewards and whether it ends in a terminal."""
    starts = data.episode_starts
    for first, end in pairwise(starts):
        # A terminal ends an episode as far as plans and returns go
        cuts = [row + 1 for row in range(first, end) if data.terminals[row]] or [end]
        for begin, stop in zip([first, *cuts], [*cuts, end], strict=False):
            if begin < stop:
                yield first, begin, stop


def by_walking(data, history, chunk_length, n_steps):
    """Stacks, plans, n-step returns and the stacks that they lead to, by lists."""
    rows = []
    for first, begin, stop in episodes_of(data):
        seen = [data.observations[row] for row in range(first, stop)]
        for row in range(begin, stop):
            frames = deque(maxlen=history)
            for frame in [seen[0]] * history + seen[: row - first + 1]:
                frames.append(frame)
            last = min(row + n_steps, stop) - 1
            next_frames = deque(maxlen=history)
            for frame in [seen[0]] * history + seen[: last - first + 1] + [data.next_observations[last]]:
                next_frames.append(frame)
            plan = [data.actions[min(row + step, stop - 1)] for step in range(chunk_length)]
            total = sum(GAMMA**step * data.rewards[row + step] for step in range(last - row + 1))
            done = data.terminals[last]
            rows.append(
                (
                    np.concatenate(frames),
                    np.concatenate(plan),
                    np.concatenate(next_frames),
                    total,
                    done,
                    GAMMA ** (last - row + 1),
                )
            )
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("terminal_inside", [False, True])
@pytest.mark.parametrize(("history", "chunk_length", "n_steps"), [(1, 3, 3), (3, 1, 1), (4, 6, 2), (2, 20, 20)])
def test_batches_are_what_a_walk_through_the_episodes_gives(history, chunk_length, n_steps, terminal_inside):
    data = with_terminal_inside() if terminal_inside else load_dataset(flat_columns(make_episodes()))
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward(), n_steps=n_steps, gamma=GAMMA, history=history, chunk_length=chunk_length)
    batch = buffer.rows(th.arange(data.n_rows))
    observations, actions, next_observations, rewards, dones, discounts = by_walking(data, history, chunk_length, n_steps)
    np.testing.assert_array_equal(batch.observations, observations.astype(np.float32))
    np.testing.assert_allclose(batch.actions, buffer.action_range.scale(th.as_tensor(actions)), atol=1e-6)
    np.testing.assert_allclose(batch.rewards[:, 0], rewards, rtol=1e-5)
    np.testing.assert_array_equal(batch.dones[:, 0], dones)
    if n_steps > 1:
        np.testing.assert_allclose(batch.discounts[:, 0], discounts, rtol=1e-5)
    goes_on = dones == 0
    np.testing.assert_array_equal(batch.next_observations[goes_on], next_observations[goes_on].astype(np.float32))


def test_rows_on_a_disk_give_the_same_batches(tmp_path):
    columns = flat_columns(make_episodes())
    write_npz(tmp_path / "data.npz", columns)
    options = dict(n_steps=2, gamma=GAMMA, history=3, chunk_length=4)
    batches = []
    for memory_map in (False, True):
        data = load_dataset(str(tmp_path / "data.npz"), memory_map=memory_map)
        assert data.memory_mapped == memory_map
        buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
        buffer.fill(data, AffineReward(), **options)
        batches.append(buffer.rows(th.arange(data.n_rows)))
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one, other)


def test_lambda_returns_of_plans_begin_after_what_is_executed():
    executed, return_lambda = 3, 0.7
    data = load_dataset(flat_columns(make_episodes()))
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward(), n_steps=executed, gamma=GAMMA, return_lambda=return_lambda, history=2, chunk_length=4)

    def value_of(observations):
        return 2.0 * np.sin(np.asarray(observations) @ np.linspace(-1.0, 1.3, observations.shape[1]))

    stacks = buffer.rows(th.arange(data.n_rows))
    values = value_of(stacks.next_observations)
    # Backwards: the lambda-return of every row, and what a plan adds to it
    returns, planned = np.zeros(data.n_rows), np.zeros(data.n_rows)
    last_of = np.repeat(data.episode_starts[1:] - 1, np.diff(data.episode_starts))
    for row in reversed(range(data.n_rows)):
        rest = values[row] * (1.0 - data.terminals[row])
        if row < last_of[row]:
            rest = (1.0 - return_lambda) * values[row] + return_lambda * returns[row + 1]
        returns[row] = data.rewards[row] + GAMMA * rest
    for row in range(data.n_rows):
        first = min(row + executed - 1, last_of[row])
        planned[row] = (
            sum(GAMMA ** (at - row) * data.rewards[at] for at in range(row, first)) + GAMMA ** (first - row) * returns[first]
        )
    # Every length by its probability
    uniform = (np.arange(2000) + 0.5) / 2000
    total = np.zeros(data.n_rows)
    for u in uniform:
        rows = th.arange(data.n_rows)
        samples, _ = buffer.with_lambda_returns(rows, stacks, th.full((data.n_rows,), u))
        goes_on = (1.0 - samples.dones[:, 0]).numpy()
        total += samples.rewards[:, 0].numpy() + samples.discounts[:, 0].numpy() * goes_on * value_of(
            samples.next_observations
        )
    np.testing.assert_allclose(total / len(uniform), planned, atol=2e-3)


def test_the_next_plan_of_a_penalty_is_what_was_done_from_there_on():
    data = load_dataset(flat_columns(make_episodes()))
    critic = PolicyCritic(penalty=0.1)
    options = dict(critic=critic, policy_kwargs=dict(**TINY, chunk_length=3, execute_length=2), device="cpu", seed=0)
    model = GMPO("FlowPolicy", None, dataset=data, **options)
    model.read_dataset()
    rows = th.arange(data.n_rows)
    planned, following = model.replay_buffer.rows(rows).actions, model.replay_buffer.next_actions(rows)
    starts = data.episode_starts
    for first, end in pairwise(starts):
        for row in range(first, end):
            if row + 2 < end:
                np.testing.assert_array_equal(following[row], planned[row + 2])
            else:
                assert following[row].isnan().all()


# Beside other libraries


class Counting(gym.Env):
    """Observations that are all different."""

    def __init__(self, space):
        self.observation_space, self.action_space = space, spaces.Box(-1.0, 1.0, (1,))
        self._n = 0

    def _observation(self):
        self._n += 1
        return np.full(self.observation_space.shape, self._n, dtype=self.observation_space.dtype)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        return self._observation(), 0.0, False, False, {}


@pytest.mark.parametrize(
    "space", [spaces.Box(-99.0, 99.0, (3,)), spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Box(-99.0, 99.0, (2, 5))]
)
def test_stacks_are_gymnasium_s_with_the_frames_along_the_first_axis(space):
    env = FrameStackObservation(Counting(space), 4, padding_type="reset")
    frames, seen = [], [env.reset()[0]]
    frames = [seen[0][-1]]
    for _ in range(6):
        observation, *_ = env.step(np.zeros(1))
        seen.append(observation)
        frames.append(observation[-1])
    for step, expected in enumerate(seen):
        own = [frames[max(0, step - back)] for back in (3, 2, 1, 0)]
        stack = stacked(np.stack(own)[None])[0]
        np.testing.assert_array_equal(stack, np.concatenate(list(expected), axis=0))
        assert stacked_space(space, 4).contains(stack)


@pytest.mark.parametrize("space", [spaces.Box(-99.0, 99.0, (3,)), spaces.Box(0, 255, (3, 36, 36), np.uint8)])
def test_stacked_spaces_are_stable_baselines_s(space):
    assert (
        stacked_space(space, 4)
        == StackedObservations(1, 4, space, "first" if len(space.shape) > 1 else None).stacked_observation_space
    )


def test_spaces_of_stacks_contain_stacks_of_what_they_contain():
    parts = dict(
        box=spaces.Box(np.array([-1.0, 0.0]), np.array([2.0, np.inf])),
        scalar=spaces.Box(-1.0, 1.0, ()),
        one=spaces.Discrete(5),
        several=spaces.MultiDiscrete([3, 4]),
        bits=spaces.MultiBinary(6),
    )
    space = spaces.Dict(parts)
    space.seed(0)
    several = stacked_space(space, 3)
    for _ in range(20):
        drawn = [space.sample() for _ in range(3)]
        frames = {key: np.stack([one[key] for one in drawn])[None] for key in parts}
        assert several.contains({key: stack[0].astype(several[key].dtype) for key, stack in stacked(frames).items()})
    assert stacked_space(space, 1) is space
    with pytest.raises(ValueError, match="history=2 cannot stack"):
        stacked_space(spaces.Discrete(3, start=1), 2)
    with pytest.raises(ValueError, match="history=2 cannot stack"):
        stacked_space(spaces.Text(3), 2)


def test_the_space_of_plans_has_the_bounds_of_every_step():
    space = spaces.Box(np.array([-1.0, 0.0]), np.array([2.0, 5.0]))
    plans = planned_space(space, 3)
    assert plans.shape == (3, 2)
    assert all(spaces.Box(low, high) == space for low, high in zip(plans.low, plans.high, strict=True))
    assert planned_space(space, 1) is space


def test_vec_normalize_applies_to_every_frame():
    data = load_dataset(flat_columns(make_episodes()))
    env = VecNormalize(SpacesVecEnv(data.observation_space, data.action_space))
    model = GMPO("FlowPolicy", env, dataset=data, policy_kwargs=dict(**TINY, history=3), critic=OneStepCritic(), device="cpu")
    model.read_dataset()
    # Its statistics are of single observations
    np.testing.assert_allclose(env.obs_rms.mean, data.observations.mean(axis=0), atol=1e-3)
    raw = model.replay_buffer.rows(th.arange(data.n_rows)).observations.numpy()
    seen = model.replay_buffer.rows(th.arange(data.n_rows), env).observations.numpy()
    for frame in range(3):
        part = slice(3 * frame, 3 * frame + 3)
        np.testing.assert_allclose(seen[:, part], env.normalize_obs(raw[:, part]), atol=1e-5)


def test_a_record_of_stacks_has_those_of_the_batches():
    data = load_dataset(flat_columns(make_episodes()))
    record = with_stacks(data, 3)
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward(), history=3)
    batch = buffer.rows(th.arange(data.n_rows))
    np.testing.assert_array_equal(record.observations, batch.observations)
    np.testing.assert_array_equal(record.next_observations, batch.next_observations)
    assert record.observation_space == stacked_space(data.observation_space, 3)
