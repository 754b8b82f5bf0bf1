"""
Returns of random length: their mean is the lambda-return of the backward recursion, and every draw a sum of rewards, whatever
the rows come from and however many models or processes learn from them.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from scipy import stats
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy import GMPG, GMPO, NStepReturns, learn_side_by_side, load_dataset
from sb3_genpolicy.common.algorithms.critic_hooks import rows_for_critics
from sb3_genpolicy.common.datasets.envs import SpacesVecEnv
from sb3_genpolicy.common.policies.critics import IQLCritic, OneStepCritic, PolicyCritic
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.rewards import AffineReward
from sb3_genpolicy.generative.draws import Share
from tests.helpers.data_formats import flat_columns, make_episodes, write_npz
from tests.helpers.returns import by_hand, with_terminal_inside
from tests.helpers.side_by_side import assert_same, assert_same_lines, build, learn_alone, with_lines

GAMMA = 0.9
TINY = dict(net_arch=[8])
OPTIONS = dict(policy_kwargs=TINY, batch_size=16, seed=0, device="cpu", critic=OneStepCritic(return_lambda=0.8))


def buffer_of(data, gamma=GAMMA):
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward(), gamma=gamma, return_lambda=0.8)
    return buffer


def drawn(buffer, rows, uniform, return_lambda=0.8, env=None):
    """What critics get, and the rows of the last steps."""
    rows = th.as_tensor(rows)
    uniform = th.as_tensor(uniform, dtype=th.float32)
    buffer.return_lambda = return_lambda
    return buffer.with_lambda_returns(rows, buffer.rows(rows, env), uniform, env)


def value_of(observations):
    return 2.0 * np.sin(np.asarray(observations) @ [0.0, 1.3, -0.7])


def by_recursion(data, gamma, return_lambda):
    """Backwards: ``G_t = r_t + gamma ((1 - lambda) V(s_t+1) + lambda G_t+1)``, with V alone after a cut-off."""
    returns, values = np.zeros(data.n_rows), value_of(data.next_observations)
    for row in reversed(range(data.n_rows)):
        rest = values[row]
        if data.terminals[row]:
            rest = 0.0
        elif not data.ends[row]:
            rest = (1.0 - return_lambda) * values[row] + return_lambda * returns[row + 1]
        returns[row] = data.rewards[row] + gamma * rest
    return returns


def by_steps(data, row, uniform, gamma, return_lambda):
    """Sum of rewards and last row: whether to go on is decided again after every step, with probability lambda."""
    total, discount, steps = 0.0, 1.0, 0
    while True:
        total += discount * float(data.rewards[row])
        discount, steps = gamma * discount, steps + 1
        if data.ends[row] or data.terminals[row] or uniform < 1.0 - return_lambda**steps:
            return total, row, discount
        row += 1


def one_episode(rewards):
    """Cut off at its end."""
    n_rows = len(rewards)
    observations = np.stack([np.arange(n_rows + 1.0), np.zeros(n_rows + 1)], axis=1).astype(np.float32)
    return load_dataset(
        dict(
            observations=observations[:-1],
            next_observations=observations[1:],
            actions=np.random.default_rng(0).uniform(-1, 1, (n_rows, 1)).astype(np.float32),
            rewards=np.asarray(rewards, np.float32),
            terminals=np.zeros(n_rows),
            timeouts=np.arange(n_rows) == n_rows - 1,
        )
    )


# The mean and every draw


@pytest.mark.parametrize("return_lambda", [0.3, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("gamma", [0.9, 1.0, 0.0])
def test_the_mean_over_draws_is_the_lambda_return(gamma, return_lambda):
    """Draws that are evenly spaced: the mean is exact, but for one of them at each step."""
    data, n_draws = with_terminal_inside(), 4000
    assert data.n_episodes == 5 and data.terminals[7] and not data.ends[7]
    uniform = np.tile((np.arange(n_draws) + 0.5) / n_draws, data.n_rows)
    samples, _ = drawn(buffer_of(data, gamma), np.repeat(np.arange(data.n_rows), n_draws), uniform, return_lambda)
    values = th.as_tensor(value_of(samples.next_observations))[:, None]
    returns = (samples.rewards + samples.discounts * (1.0 - samples.dones) * values).reshape(data.n_rows, n_draws)
    np.testing.assert_allclose(returns.mean(dim=1), by_recursion(data, gamma, return_lambda), atol=0.01)


@pytest.mark.parametrize("gamma", [0.9, 1.0, 0.0])
def test_every_draw_is_a_sum_of_rewards_and_what_it_led_to(gamma):
    data, rng = with_terminal_inside(), np.random.default_rng(0)
    rows, uniform = rng.permutation(np.repeat(np.arange(data.n_rows), 20)), rng.uniform(size=20 * data.n_rows)
    samples, last_rows = drawn(buffer_of(data, gamma), rows, uniform)
    for index, (row, each) in enumerate(zip(rows, uniform, strict=True)):
        total, last, discount = by_steps(data, row, each, gamma, 0.8)
        assert samples.rewards[index].item() == pytest.approx(total, abs=1e-5), (row, each)
        assert samples.discounts[index].item() == pytest.approx(discount, rel=1e-5)
        assert last_rows[index] == last and samples.dones[index] == data.terminals[last]
        np.testing.assert_array_equal(samples.next_observations[index], data.next_observations[last])
    # What they start from is what it was
    np.testing.assert_array_equal(samples.observations, data.observations[rows])
    np.testing.assert_array_equal(samples.actions, buffer_of(data).actions[rows])


def test_lambda_one_is_the_whole_return():
    data = with_terminal_inside()
    rows, uniform = np.arange(data.n_rows), np.random.default_rng(0).uniform(size=data.n_rows)
    samples, last_rows = drawn(buffer_of(data), rows, uniform, 1.0)
    for row in rows:
        total, last, discount = by_hand(data, row, GAMMA)
        assert samples.rewards[row].item() == pytest.approx(total, abs=1e-5) and last_rows[row] == last
        # Those that were cut off are bootstrapped
        assert (samples.discounts * (1.0 - samples.dones))[row].item() == pytest.approx(discount)


@pytest.mark.parametrize("source", ["uniform numbers", "a model's generator"])
def test_lengths_have_a_geometric_distribution_cut_at_the_episode_s_end(source):
    """As many draws from each of two rows: one with 30 steps to go, and one with 4."""
    data, n_draws = one_episode(np.zeros(30)), 5000
    rows = th.tensor([0, 26]).repeat_interleave(n_draws)
    if source == "uniform numbers":
        _, last_rows = drawn(buffer_of(data), rows, th.rand(len(rows), generator=th.Generator().manual_seed(0)))
        steps = last_rows - rows + 1
    else:
        model = GMPO(
            "FlowPolicy",
            dataset=data,
            reward_transform=None,
            **{**OPTIONS, "critic": OneStepCritic(gamma=GAMMA, return_lambda=0.8)}
        )
        model.read_dataset()
        before = model.generator.get_state()
        samples, _ = rows_for_critics(model, rows, model.replay_buffer.rows(rows), [model.generator])
        assert not th.equal(model.generator.get_state(), before)
        steps = (samples.discounts[:, 0].log() / np.log(GAMMA)).round().long()
    for drawn_steps, left in zip(steps.split(n_draws), (30, 4), strict=True):
        # 0.8 to go on from step to step
        shares = np.append(0.2 * 0.8 ** np.arange(left - 1), 0.8 ** (left - 1))
        counts = np.bincount(drawn_steps, minlength=left + 1)[1:]
        assert len(counts) == left and counts.sum() == n_draws and np.isclose(shares.sum(), 1.0)
        # Rare lengths together
        tail = min(left - 1, 18)
        counts, expected = (np.append(each[:tail], each[tail:].sum()) for each in (counts, n_draws * shares))
        assert stats.chisquare(counts, expected).pvalue > 0.01


def test_large_rewards_keep_float32_s_digits():
    """Of what the return until the episode's end is, over hundreds of steps, both of noise and beside a large offset."""
    rng, gamma = np.random.default_rng(0), 0.99
    for rewards in (1e6 * rng.normal(size=400), 1e6 + rng.normal(size=400)):
        data = one_episode(rewards)
        uniform = rng.uniform(size=400)
        samples, _ = drawn(buffer_of(data, gamma), np.arange(400), uniform, 0.95)
        expected = [by_steps(data, row, each, gamma, 0.95)[0] for row, each in enumerate(uniform)]
        largest = max(abs(by_hand(data, row, gamma)[0]) for row in range(400))
        assert np.abs(samples.rewards[:, 0].numpy() - expected).max() < 2**-22 * largest


# Other rows


def test_rows_that_were_added_stay_as_they_are():
    data = with_terminal_inside()
    buffer = buffer_of(data)
    for k in range(3):
        buffer.add(np.full((1, 3), k), np.full((1, 3), k + 1), np.zeros((1, 2)), np.array([7.0]), np.array([k == 1]), [{}])
    rows = th.tensor([2, 35, 0, 37, 36, 10])
    before, uniform = buffer.rows(rows), th.full((6,), 0.99)
    after, last_rows = buffer.with_lambda_returns(rows, before, uniform)
    for index, row in enumerate(rows.tolist()):
        if row >= 35:
            assert last_rows[index] == row and after.discounts[index].item() == pytest.approx(GAMMA)
            for name in ("observations", "actions", "next_observations", "dones", "rewards"):
                assert th.equal(getattr(after, name)[index], getattr(before, name)[index]), name
        else:
            assert last_rows[index] == by_hand(data, row, GAMMA)[1]
            assert after.rewards[index].item() == pytest.approx(by_hand(data, row, GAMMA)[0], abs=1e-5)
    assert after.dones[[1, 3, 4]].flatten().tolist() == [0.0, 0.0, 1.0]
    empty = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    empty.add(np.zeros((1, 3)), np.ones((1, 3)), np.zeros((1, 2)), np.ones(1), np.zeros(1), [{}])
    alone, (row,) = empty.rows(th.tensor([0])), th.tensor([[0]])
    assert empty.with_lambda_returns(row, alone, th.tensor([0.99])) == (alone, row)


def test_rows_on_a_disk_are_those_from_memory(tmp_path):
    path = write_npz(tmp_path / "own.npz", flat_columns(make_episodes()))
    streamed, held = (load_dataset(path, memory_map=mapped) for mapped in (True, False))
    rows, uniform = np.random.default_rng(0).integers(0, 26, 200), np.random.default_rng(1).uniform(size=200)
    (ours, last_rows), (theirs, expected_rows) = (drawn(buffer_of(data), rows, uniform) for data in (streamed, held))
    assert th.equal(last_rows, expected_rows) and (last_rows > th.as_tensor(rows)).any()
    assert all(th.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    models = [GMPO("FlowPolicy", dataset=data, **OPTIONS).learn(8) for data in (streamed, held)]
    assert [model.replay_buffer.streams for model in models] == [True, False]
    assert_same(*([model] for model in models), rtol=0.0, atol=0.0)


def test_vec_normalize_applies_to_every_step():
    """Its own arithmetic. Rewards of a step are clipped, and sums of many of them may be larger."""
    data = with_terminal_inside()
    data = replace(data, rewards=1.0 + np.abs(data.rewards))
    env = VecNormalize(SpacesVecEnv(data.observation_space, data.action_space), clip_obs=2.0)
    env.obs_rms.mean, env.obs_rms.var = np.array([100.0, 0.5, -0.5]), np.array([1e4, 2.0, 3.0])
    env.ret_rms.var = 4.0
    # No step's reward is clipped
    env.clip_reward = 1.001 * float(data.rewards.max()) / 2.0
    rows, uniform = np.arange(data.n_rows), np.full(data.n_rows, 0.9)
    for gamma in (0.9, 1.0, 0.0):
        samples, last_rows = drawn(buffer_of(data, gamma), rows, uniform, 0.8, env)
        normalized = replace(data, rewards=env.normalize_reward(data.rewards))
        expected = np.array([by_steps(normalized, row, 0.9, gamma, 0.8)[0] for row in rows])
        np.testing.assert_allclose(samples.rewards[:, 0], expected, rtol=1e-5)
        assert (expected.max() > 2.0 * env.clip_reward) == (gamma > 0.0)
        np.testing.assert_allclose(
            samples.next_observations, env.normalize_obs(data.next_observations[last_rows]), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(samples.observations, env.normalize_obs(data.observations), rtol=1e-4, atol=1e-5)
    # Rewards that are clipped, all of them
    env.clip_reward = 0.1
    for each in (0.0, 0.9):
        samples, _ = drawn(buffer_of(data, 0.9), rows, np.full(data.n_rows, each), 0.8, env)
        clipped = replace(data, rewards=np.full(data.n_rows, 0.1))
        expected = [by_steps(clipped, row, each, 0.9, 0.8)[0] for row in rows]
        np.testing.assert_allclose(samples.rewards[:, 0], expected, rtol=1e-5)


def test_penalties_are_of_what_was_logged_after_the_last_step(arrays):
    """Not after the first one."""
    critic = PolicyCritic(penalty=0.1, return_lambda=0.8, gamma=GAMMA)
    model = GMPO("FlowPolicy", dataset=arrays, **{**OPTIONS, "critic": critic})
    model.read_dataset()
    rows = th.arange(26).repeat(5)
    samples, next_actions = rows_for_critics(model, rows, model.replay_buffer.rows(rows), [model.generator])
    steps = (samples.discounts[:, 0].log() / np.log(GAMMA)).round().long()
    last, goes_on = rows + steps - 1, (arrays["terminals"] + arrays["timeouts"]) == 0
    assert (steps > 1).sum() > 40 and (last < 26).all()
    logged = model.policy.scale_action(arrays["actions"])
    expected = np.full((26, 2), np.nan)
    expected[goes_on] = logged[1:][goes_on[:-1]]
    np.testing.assert_allclose(next_actions, expected[last], atol=1e-6)


# Options


def test_lambda_is_the_class_s_unless_steps_are_given():
    traces = OneStepCritic(), OneStepCritic(n_steps=3), OneStepCritic(return_lambda=0.0), OneStepCritic(return_lambda=0.3)
    assert [each.trace for each in traces] == [0.95, 0.0, 0.0, 0.3]
    assert [IQLCritic().trace, PolicyCritic().trace, IQLCritic(return_lambda=1.0).trace] == [0.0, 0.0, 1.0]
    assert OneStepCritic(n_steps=3, return_lambda=0.0).trace == 0.0


def test_lambda_and_a_number_of_steps_do_not_go_together(arrays):
    with pytest.raises(ValueError, match=r"return_lambda=0\.5 takes the place of n_steps=3: leave one of them out"):
        IQLCritic(return_lambda=0.5, n_steps=3)
    with pytest.raises(ValueError, match=r"return_lambda must be a number >= 0\.0 and <= 1\.0, not 1\.1"):
        IQLCritic(return_lambda=1.1)
    options = {**OPTIONS, "critic": OneStepCritic(return_lambda=0.5)}
    model = GMPO("FlowPolicy", dataset=arrays, transforms=[NStepReturns(2)], **options)
    with pytest.raises(ValueError, match=r"lambda-returns, and transforms= for NStepReturns\(2\): leave out the transform"):
        model.learn(1)
    # A lambda that nobody asked for gives way
    model = GMPO("FlowPolicy", dataset=arrays, transforms=[NStepReturns(2)], **{**OPTIONS, "critic": OneStepCritic()}).learn(1)
    assert model.replay_buffer.return_lambda == 0.0 and model.replay_buffer.sample(3).discounts is not None


# Several models, several processes, several runs


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_side_by_side_each_model_draws_what_it_would_alone(algorithm, arrays):
    options = dict(critic=OneStepCritic(return_lambda=0.8), policy_kwargs=dict(net_arch=[16]), reward_transform=None)
    ours, alone = build(algorithm, arrays, **options), build(algorithm, arrays, **options)
    lines, expected_lines = with_lines(ours), with_lines(alone)
    learn_side_by_side(ours, 10, log_interval=5)
    learn_alone(alone, 10, log_interval=5)
    assert_same(ours, alone, rtol=1e-4)
    assert_same_lines(lines, expected_lines, rel=1e-3)
    assert not th.allclose(ours[0].value_net.value_net[0].weight, ours[1].value_net.value_net[0].weight, rtol=1e-3)


def test_a_resumed_run_draws_on(arrays, tmp_path):
    whole = GMPO("FlowPolicy", dataset=arrays, pretraining_steps=0, **OPTIONS).learn(9)
    GMPO("FlowPolicy", dataset=arrays, pretraining_steps=0, **OPTIONS).learn(4).save(tmp_path / "model")
    resumed = GMPO.load(tmp_path / "model", device="cpu").learn(5, reset_num_timesteps=False, dataset=arrays)
    assert resumed.critic_options == OneStepCritic(return_lambda=0.8)
    for name, value in whole.policy.state_dict().items():
        assert th.equal(resumed.policy.state_dict()[name], value), name
    assert th.equal(resumed.generator.get_state(), whole.generator.get_state())


def test_processes_draw_for_their_shares_of_a_batch(arrays):
    """What they come to together is in test_data_parallel."""
    model = GMPO("FlowPolicy", dataset=arrays, **OPTIONS)
    model.read_dataset()
    rows = th.randint(0, 26, (16,), generator=th.Generator().manual_seed(0))

    def of(part, source):
        return rows_for_critics(model, rows[part], model.replay_buffer.rows(rows[part]), [source])[0]

    whole = of(slice(None), th.Generator().manual_seed(5))
    halves = [of(slice(8 * k, 8 * k + 8), Share(th.Generator().manual_seed(5), k, 2)) for k in (0, 1)]
    for joint, *parts in zip(whole, *halves, strict=True):
        assert th.equal(joint, th.cat(parts))
    one_step = model.replay_buffer.rows(rows)
    assert not th.equal(whole.rewards, one_step.rewards)
