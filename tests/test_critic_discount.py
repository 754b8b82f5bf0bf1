"""
The critics' own discount: how far rewards ask them to look ahead, what it becomes of the option, and that everything which
critics learn from uses it.
"""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats

from sb3_genpolicy import GMPG, GMPO, HeldOutEpisodes, IQLCritic, OneStepCritic, PolicyCritic, load_dataset
from sb3_genpolicy.common.algorithms.held_out import HeldOutRows
from sb3_genpolicy.common.transitions.returns import horizon_of
from sb3_genpolicy.common.transitions.rewards import AffineReward
from tests.helpers.arrays import make_arrays
from tests.helpers.returns import by_hand

OPTIONS = dict(policy_kwargs=dict(net_arch=[8]), batch_size=16, seed=0, device="cpu", reward_transform=None)


def model_of(arrays, critic, algorithm=GMPO, **options):
    return algorithm("FlowPolicy", dataset=arrays, critic=critic, **{**OPTIONS, **options})


# How far rewards ask to look ahead


@pytest.mark.parametrize("rewards", [stats.uniform(-3, 7), stats.norm(5, 2), stats.arcsine(0, 1), stats.bernoulli(0.5)])
def test_dense_rewards_ask_for_ten_steps(rewards):
    """Of a kurtosis up to 10; normal ones have 3."""
    assert rewards.stats(moments="k") <= 0.0
    if rewards.dist.name == "bernoulli":
        drawn = np.repeat([0.0, 1.0], 500)
    else:
        drawn = rewards.ppf((np.arange(1000) + 0.5) / 1000)
    assert horizon_of(drawn.astype(np.float32)) == pytest.approx(10.0, rel=1e-6)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05])
def test_rare_rewards_ask_for_as_many_steps_as_lie_between_them(share):
    """Where they are rarer than one in ten, whose kurtosis is 10."""
    rewards = (np.arange(10_000) < 10_000 * share).astype(np.float32)
    assert horizon_of(rewards) == pytest.approx(1.0 / share, rel=1e-5)
    # A step that is not rewarded may cost something, or be the one that is rare
    assert horizon_of(3.0 - 2.0 * rewards) == pytest.approx(1.0 / share, rel=1e-5)


def test_rewards_in_between_are_measured_by_their_kurtosis():
    """About the median: beside those of a rare event, everyday ones count little."""
    rng = np.random.default_rng(0)
    for rewards in (
        rng.standard_t(3.0, size=20_000),
        rng.normal(size=20_000) + 30.0 * (np.arange(20_000) < 200),
        rng.gamma(0.3, size=20_000),
    ):
        expected = stats.kurtosis(np.append(rewards, 2.0 * np.median(rewards) - rewards), fisher=False)
        assert horizon_of(rewards) == pytest.approx(expected, rel=1e-6) and expected > 15.0


@pytest.mark.parametrize("scale", [1e-30, 1e-3, -7.0, 1e30, 1e36])
def test_units_do_not_matter(scale):
    rewards = (np.random.default_rng(0).exponential(size=1000) ** 2).astype(np.float32)
    assert horizon_of(np.float32(scale) * rewards) == pytest.approx(horizon_of(rewards), rel=1e-4)
    assert horizon_of(rewards + np.float32(5.0)) == pytest.approx(horizon_of(rewards), rel=1e-4) and horizon_of(rewards) > 20.0


@pytest.mark.parametrize("reward", [0.0, 0.1, -1.0, 1e30])
def test_constant_rewards_tell_no_end(reward):
    assert horizon_of(np.full(26, reward, np.float32)) == np.inf


# What the option becomes


def with_rewards(rewards):
    arrays = make_arrays()
    arrays["rewards"] = np.asarray(rewards, np.float32)
    return arrays


def one_in(n):
    """Of 26 rewards, those of 26 / n are 1, and of the others 0."""
    return (np.arange(26) % n == 0).astype(np.float32)


def test_the_discount_is_the_option_s_or_the_algorithm_s(arrays):
    for critic in (IQLCritic(), PolicyCritic(), OneStepCritic(gamma=None)):
        assert model_of(arrays, critic, gamma=0.97).learn(0).critic_gamma == 0.97
    for critic in (IQLCritic(gamma=0.5), PolicyCritic(gamma=0.5), OneStepCritic(gamma=0.5)):
        # Also a larger one than the algorithm's, of which nothing is changed
        for gamma in (0.97, 0.3):
            model = model_of(arrays, critic, gamma=gamma).learn(0)
            assert model.critic_gamma == 0.5 and model.gamma == gamma
    assert model_of(arrays, OneStepCritic(gamma=0)).critic_gamma == 0.0
    assert OneStepCritic().gamma is IQLCritic().gamma is PolicyCritic().gamma is None


@pytest.mark.parametrize("n", [2, 13])
def test_auto_looks_as_far_ahead_as_the_rewards_ask_for(n):
    """Of transformed rewards: a scale and a shift change nothing."""
    expected = 1.0 - 1.0 / max(10.0, n)
    for transform in (None, AffineReward(300.0, -7.0), "locomotion"):
        model = model_of(with_rewards(one_in(n)), OneStepCritic(gamma="auto"), reward_transform=transform)
        assert model.critic_gamma == model.gamma == 0.99
        assert model.learn(0).critic_gamma == pytest.approx(expected, rel=1e-6)
        assert model.fitted_gamma == model.critic_gamma and model.gamma == 0.99
    # A function that makes rare rewards dense
    dense = model_of(
        with_rewards(one_in(n)),
        OneStepCritic(gamma="auto"),
        reward_transform=lambda rewards: np.arange(len(rewards), dtype=np.float32),
    )
    assert dense.learn(0).critic_gamma == pytest.approx(0.9)


@pytest.mark.filterwarnings("ignore:Q is")
def test_auto_never_looks_further_than_the_algorithm():
    for rewards in (one_in(26), np.zeros(26)):
        assert model_of(with_rewards(rewards), OneStepCritic(gamma="auto"), gamma=0.95).learn(0).critic_gamma == 0.95
    model = model_of(with_rewards(one_in(2)), OneStepCritic(gamma="auto"), gamma=0.95)
    assert model.learn(0).critic_gamma == pytest.approx(0.9)


@pytest.mark.parametrize("critic", [OneStepCritic, IQLCritic, PolicyCritic])
def test_other_discounts_are_answered_with_a_sentence(critic):
    with pytest.raises(ValueError, match=f"{critic.__name__}: gamma='automatic' is unknown. Did you mean 'auto'"):
        critic(gamma="automatic")
    for wrong in (1.5, -0.1):
        with pytest.raises(ValueError, match=rf"{critic.__name__}: gamma must be a number >= 0\.0 and <= 1\.0, not {wrong}"):
            critic(gamma=wrong)


# What uses it


def two_steps():
    """From the first state to the second, which pays 1 and ends it: either way."""
    states = np.tile(np.float32([[1.0, 0.0], [0.0, 1.0]]), (16, 1))
    return dict(
        observations=states,
        next_observations=np.roll(states, 1, axis=1) * (states[:, :1] == 1.0),
        actions=np.random.default_rng(0).uniform(-1, 1, (32, 1)).astype(np.float32),
        rewards=np.tile(np.float32([0.0, 1.0]), 16),
        terminals=np.tile(np.float32([0.0, 1.0]), 16),
        action_space=spaces.Box(-1, 1, (1,)),
    )


@pytest.mark.parametrize(
    ("critic", "expected"),
    [
        (OneStepCritic(gamma=0.5, return_lambda=0.0), 0.5),
        (OneStepCritic(gamma=0.5, return_lambda=1.0), 0.5),
        (OneStepCritic(advantage=False, gamma="auto", return_lambda=0.8), 0.9),
    ],
)
def test_a_reward_of_the_next_step_counts_as_much_as_the_discount(critic, expected):
    """Half of the rewards are 1, so that ten steps are looked ahead by default."""
    options = dict(learning_rate=lambda left: 0.04 * left, batch_size=32, tau=0.2, gamma=0.99, beta=0.0)
    model = model_of(two_steps(), critic, **options).learn(150, log_interval=None)
    states = th.eye(2)
    with th.no_grad():
        for action in (-0.5, 0.5):
            q_values = model.critic.q_values(states, th.full((2, 1), action))
            np.testing.assert_allclose(q_values[:, 0], [expected, 1.0], atol=0.03)
        np.testing.assert_allclose(model.value_net(states)[:, 0], [expected, 1.0], atol=0.03)


def test_returns_of_some_steps_are_discounted_by_it(arrays):
    data = load_dataset(arrays)
    model = model_of(arrays, OneStepCritic(gamma=0.5, n_steps=3), gamma=0.99)
    model.read_dataset()
    samples = model.replay_buffer.rows(th.arange(26))
    for row in range(26):
        n_steps = min(3, len([each for each in range(row, 26) if not data.ends[row:each].any()]))
        expected = sum(0.5**k * float(data.rewards[row + k]) for k in range(n_steps))
        assert samples.discounts[row].item() == pytest.approx(0.5**n_steps)
        assert samples.rewards[row].item() == pytest.approx(expected, abs=1e-5)
    # Rows that are collected beside them, too
    model.replay_buffer.add(np.zeros((1, 3)), np.ones((1, 3)), np.zeros((1, 2)), np.ones(1), np.zeros(1), [{}])
    assert model.replay_buffer.rows(th.tensor([26, 0])).discounts[0] == 0.5


def test_whole_returns_and_what_is_held_out_are_discounted_by_it(arrays):
    data = load_dataset(arrays)
    critic = OneStepCritic(gamma=0.5, return_lambda=0.8)
    model = model_of(arrays, critic, gamma=0.99, transforms=[HeldOutEpisodes(0.5)]).learn(3)
    expected = [by_hand(data, row, 0.5)[0] for row in range(26)]
    np.testing.assert_allclose(model.replay_buffer.store.to_go[:, 0], expected, atol=1e-5)
    model.policy.set_training_mode(False)
    ours = model.held_out.advantage_correlation(model.policy).item()
    with_half, with_others = (
        HeldOutRows(model.held_out.rows.numpy(), data, model.replay_buffer, None, gamma).advantage_correlation(model.policy)
        for gamma in (0.5, 0.99)
    )
    assert ours == with_half.item() != with_others.item()


# Files and further datasets


def test_it_is_fitted_to_the_first_dataset_alone(arrays, tmp_path):
    model = model_of(with_rewards(one_in(13)), OneStepCritic(gamma="auto", return_lambda=0.8))
    fitted = model.learn(0).critic_gamma
    assert fitted == pytest.approx(1.0 - 1.0 / (13.0))
    # Neither before nor after the first update
    for _ in range(2):
        assert model.learn(1, dataset=with_rewards(one_in(2))).critic_gamma == fitted
    model.save(tmp_path / "model")
    loaded = GMPO.load(tmp_path / "model", device="cpu")
    assert loaded.critic_gamma == loaded.fitted_gamma == fitted
    loaded.learn(1, dataset=with_rewards(one_in(2)))
    assert loaded.critic_gamma == fitted and loaded.replay_buffer.rows(th.arange(3)).discounts is None
    expected = [by_hand(load_dataset(with_rewards(one_in(2))), row, fitted)[0] for row in range(26)]
    np.testing.assert_allclose(loaded.replay_buffer.store.to_go[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_a_pretrained_critic_brings_its_discount(algorithm, tmp_path):
    pretrained = model_of(with_rewards(one_in(13)), OneStepCritic(gamma="auto"), algorithm=GMPG, pretraining_steps=2).learn(2)
    pretrained.save(tmp_path / "model")
    for source in (pretrained, tmp_path / "model"):
        model = algorithm("FlowPolicy", dataset=with_rewards(one_in(2)), pretrained=source, **OPTIONS)
        assert model.critic_gamma == pretrained.critic_gamma
        model.learn(1)
        assert model.critic_gamma == model.fitted_gamma == pretrained.fitted_gamma == pytest.approx(1.0 - 1.0 / 13.0)


def test_a_loaded_model_may_have_another(arrays, tmp_path):
    model_of(arrays, OneStepCritic(gamma=0.5)).learn(1).save(tmp_path / "model")
    assert GMPO.load(tmp_path / "model", device="cpu").critic_gamma == 0.5
    assert GMPO.load(tmp_path / "model", device="cpu", critic=OneStepCritic(gamma=0.7)).critic_gamma == 0.7
    auto = GMPO.load(tmp_path / "model", device="cpu", critic=OneStepCritic(gamma="auto"))
    assert auto.critic_gamma == min(0.99, 1.0 - 1.0 / horizon_of(arrays["rewards"]))


# Units of beta


@pytest.mark.parametrize(
    ("length", "gamma", "expected"), [(1, 0.99, 1.0), (3, 1.0, 3.0 / 2.71), (4, 0.99, None), (4, 0.8, 1.0)]
)
def test_beta_weighs_as_much_as_the_episodes_are_long(length, gamma, expected):
    """Steps that each discount counts, added up one by one; a single step counts once whatever the discount."""
    n_rows = 12 * length
    states = np.random.default_rng(0).normal(size=(n_rows, 2)).astype(np.float32)
    rewards = np.random.default_rng(1).uniform(size=n_rows).astype(np.float32)
    ends = np.arange(n_rows) % length == length - 1
    dataset = dict(
        observations=states, actions=np.tanh(states[:, :1]), rewards=rewards, terminals=ends, timeouts=np.zeros_like(ends)
    )
    options = dict(gamma=gamma, critic=OneStepCritic(gamma=0.9), policy_kwargs=dict(net_arch=[4]), device="cpu")
    model = GMPO("FlowPolicy", dataset=dataset, **options).learn(1)
    counted = [sum(each**k for k in range(length)) for each in (gamma, 0.9)]
    assert model.horizon_ratio == pytest.approx(max(1.0, counted[0] / counted[1]) if expected is None else expected)
    assert GMPO("FlowPolicy", dataset=dataset, **{**options, "critic": "iql"}).horizon_ratio == 1.0
