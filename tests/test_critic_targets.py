"""
What critics converge to, against dynamic programming, distributions of returns that are known, and sb3-contrib's TQC.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from scipy import stats
from torch import nn

from sb3_genpolicy import GMPO, HeldOutEpisodes, load_dataset
from sb3_genpolicy.common.algorithms.training_log import validation_losses
from sb3_genpolicy.common.policies.critics import Critics, IQLCritic, OneStepCritic, PolicyCritic
from sb3_genpolicy.common.replay.buffer import OfflineReplayBuffer
from sb3_genpolicy.common.transitions.rewards import AffineReward
from sb3_genpolicy.common.updates.batch import Batch
from tests.helpers import critics as chains
from tests.helpers.arrays import SMALL
from tests.helpers.tqc import update_tqc

GAMMA = 0.8
#: What the policy does in each state
CHOICES = np.array([-1, -1, 1])


def acts(observations):
    return th.as_tensor(CHOICES, dtype=th.float32)[observations.argmax(dim=1)][:, None]


def of_behaviour(q, rows, expectile=0.5):
    v = np.array([stats.expectile(values, expectile) for values in chains.q_over_faces(q)])
    return v[rows.next_states]


def of_policy(q, rows):
    return q[rows.next_states, chains.index_of(CHOICES[rows.next_states])]


# Fixed points


@pytest.fixture(scope="module")
def q_of_behaviour():
    return chains.dynamic_programming(chains.every_throw(), GAMMA, of_behaviour)


def test_one_step_critics_learn_q_of_the_behaviour(q_of_behaviour):
    rows = chains.every_throw()
    policy = chains.train_critics(OneStepCritic(advantage=False), rows.batch(), GAMMA)
    np.testing.assert_allclose(chains.learnt_q(policy.critic), [q_of_behaviour] * 2, atol=0.01)
    with th.no_grad():
        values = policy.value_net(th.as_tensor(chains.STATES))[:, 0]
    np.testing.assert_allclose(values, chains.q_over_faces(q_of_behaviour).mean(axis=1), atol=0.01)


def test_implicit_critics_learn_from_an_expectile_over_actions(q_of_behaviour):
    rows = chains.every_throw()
    expected = chains.dynamic_programming(rows, GAMMA, lambda q, rows: of_behaviour(q, rows, 0.9), sweeps=60)
    assert np.abs(expected - q_of_behaviour).max() > 1.0
    policy = chains.train_critics(IQLCritic(expectile=0.9), rows.batch(), GAMMA)
    np.testing.assert_allclose(chains.learnt_q(policy.critic), [expected] * 2, atol=0.01)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_critics_of_the_policy_learn_its_q(penalty, q_of_behaviour):
    """With ReBRAC's penalty, each of two logged next actions that differs costs 4 times as much; a third is unknown."""
    rows = chains.every_throw()
    unknown = rows._replace(next_actions=np.full(len(rows.states), np.nan))
    rows = chains.Rows(*(np.concatenate([one, one, other]) for one, other in zip(rows, unknown, strict=True)))
    differs = ~np.isnan(rows.next_actions) & (rows.next_actions != CHOICES[rows.next_states])
    assert 0.2 < differs.mean() < 0.6
    expected = chains.dynamic_programming(rows, GAMMA, lambda q, rows: of_policy(q, rows) - 4.0 * penalty * differs)
    without = chains.dynamic_programming(rows, GAMMA, of_policy)
    assert np.abs(without - q_of_behaviour).max() > 1.0 and (penalty == 0.0) == np.allclose(expected, without, atol=0.5)
    policy = chains.train_critics(PolicyCritic(penalty=penalty), rows.batch(), GAMMA, acts)
    np.testing.assert_allclose(chains.learnt_q(policy.critic), [expected] * 2, atol=0.01)


def test_returns_of_three_steps_have_the_fixed_point_of_one(q_of_behaviour):
    data = load_dataset(chains.every_episode(length=3))
    buffer = OfflineReplayBuffer(10, data.observation_space, data.action_space, device="cpu")
    buffer.fill(data, AffineReward(), n_steps=3, gamma=GAMMA)
    rows = th.arange(data.n_rows)
    batch = Batch.of(buffer.rows(rows), rows)
    assert {round(float(each), 3) for each in batch.discounts} == {0.8, 0.64, 0.512}
    policy = chains.train_critics(OneStepCritic(advantage=False, n_steps=3), batch, GAMMA)
    np.testing.assert_allclose(chains.learnt_q(policy.critic), [q_of_behaviour] * 2, atol=0.01)


# Distributions


def batch_of_rewards(states, rewards, next_states, dones):
    columns = [np.asarray(column) for column in (states, np.ones(len(states)), rewards, next_states, dones)]
    return chains.Rows(*columns, np.full(len(states), np.nan)).batch()


def test_quantiles_of_rewards():
    """Of one distribution in each state, all large beside 1, below which errors count squared."""
    distributions = [stats.uniform(-30, 60), stats.norm(5, 15), stats.expon(0, 12)]
    shares, midpoints = (np.arange(200) + 0.5) / 200, (np.arange(8) + 0.5) / 8
    rewards = [each.ppf(shares) for each in distributions]
    batch = batch_of_rewards(np.repeat(range(3), 200), np.concatenate(rewards), np.zeros(600, int), np.ones(600))
    options = OneStepCritic(advantage=False, n_critics=2, n_quantiles=8)
    policy = chains.train_critics(options, batch, GAMMA, steps=300, learning_rate=0.05)
    quantiles = policy.critic.quantiles(batch.observations[::200], batch.actions[::200]).detach()
    expected = [each.ppf(midpoints) for each in distributions]
    np.testing.assert_allclose(quantiles, [expected] * 2, atol=0.8)


def test_quantiles_of_a_sum_of_two_rewards():
    """Uniform ones, independent of each other and as large as each other after the discount: their sum is triangular."""
    rewards = np.linspace(-20.0, 20.0, 41)
    states = np.repeat([0, 1], 41)
    batch = batch_of_rewards(states, np.append(rewards, rewards / GAMMA), np.ones(82, int), states == 1)
    options = PolicyCritic(n_critics=2, n_quantiles=16)
    policy = chains.train_critics(options, batch, GAMMA, lambda obs: th.ones(len(obs), 1), 300, learning_rate=0.05)
    quantiles = policy.critic.quantiles(batch.observations[:1], batch.actions[:1])[:, 0].detach()
    expected = stats.triang(0.5, -40.0, 80.0).ppf((np.arange(16) + 0.5) / 16)
    np.testing.assert_allclose(quantiles, [expected] * 2, atol=0.5)


def test_losses_of_quantiles_are_those_of_tqc(monkeypatch):
    """TQC takes the mean over networks and quantiles, of which ours is the sum. Errors below and above 1."""
    th.manual_seed(0)
    rewards, dones = 5.0 * th.randn(12), (th.arange(12) % 3 == 0).float()
    update = update_tqc(monkeypatch, rewards, dones, gamma=0.9)
    options = PolicyCritic(n_critics=3, n_quantiles=5, dropped_quantiles=2, layer_norm=False)
    policy = chains.make_critics(options, 3, 2)
    chains.copy_into(policy.critic, update.networks)
    chains.copy_into(policy.critic_target, update.target_networks)
    seen = []

    def policy_actions(observations, generator):
        seen.append(observations)
        return update.next_actions

    critics = Critics(policy, SimpleNamespace(policy_actions=policy_actions))
    losses = critics.losses(Batch.of(update.samples, th.arange(12)), gamma=0.9)
    assert losses.critic_loss.item() == pytest.approx(3 * 5 * update.critic_loss.item(), rel=1e-5)
    assert len(seen) == 1 and th.equal(seen[0], update.samples.next_observations)


# Penalty of densities


class _Slopes(nn.Module):
    """Two networks, of which each has Q(s, a) = slope of the row times a."""

    def __init__(self, slopes):
        super().__init__()
        self.slopes = nn.Parameter(th.tensor([slopes, slopes]))

    def values(self, obs, actions):
        return self.slopes[:, obs.argmax(dim=1), None] * actions

    def q_values(self, obs, actions):
        return self.values(obs, actions).mean(dim=0)


def test_q_is_pushed_down_where_the_behaviour_would_hardly_act_so():
    """
    Four rows, worked out on paper. Densities of the policy's actions are 1/4, 3, 1/2 and 1 of those of logged ones, so that
    rows weigh 3/4, 0, 1/2 and 0. Q is right at the logged actions, so that nothing else moves it.
    """
    policy_actions = th.tensor([[1.0], [1.0], [-1.0], [1.0]])
    logged, ratios = th.full((4, 1), 0.5), th.tensor([0.25, 3.0, 0.5, 1.0])
    observations, ends = th.eye(4), th.ones(4, 1)
    batch = Batch(observations, logged, observations, ends, th.ones(4, 1), None, th.arange(4))
    critic = _Slopes([2.0, 2.0, 2.0, 2.0])
    policy = SimpleNamespace(critic=critic, critic_target=critic, value_net=lambda obs: obs.sum(dim=1, keepdim=True))
    log_density = {"policy": ratios.log() - 2.0, "logged": th.full((4,), -2.0)}

    def behaviour_log_prob(observations, actions):
        return log_density["logged" if th.equal(actions, logged) else "policy"]

    algorithm = SimpleNamespace(
        policy_actions=lambda observations, generator: policy_actions, behaviour_log_prob=behaviour_log_prob
    )
    policy.critic_options = PolicyCritic(density_penalty=0.8)
    losses = Critics(policy, algorithm).losses(batch, GAMMA)
    # Of each network: 0.8 times the mean of 3/4 * 2, 0, 1/2 * -2 and 0
    assert losses.critic_loss.item() == pytest.approx(2 * 0.1)
    assert losses.means["density_penalty"].item() == pytest.approx(2 * 0.1)
    losses.critic_loss.backward()
    np.testing.assert_allclose(critic.slopes.grad, [[0.15, 0.0, -0.1, 0.0]] * 2, atol=1e-6)
    before = critic.q_values(observations, policy_actions).detach()
    with th.no_grad():
        critic.slopes -= critic.slopes.grad
    change = (critic.q_values(observations, policy_actions).detach() - before)[:, 0]
    np.testing.assert_allclose(change, [-0.15, 0.0, -0.1, 0.0], atol=1e-6)
    # A behaviour model that acts so never, and one that is still cloned
    log_density["policy"] = th.full((4,), -np.inf)
    assert Critics(policy, algorithm).losses(batch, GAMMA).means["density_penalty"] > 0.5
    algorithm.behaviour_log_prob = lambda observations, actions: None
    assert Critics(policy, algorithm).losses(batch, GAMMA).means == {}


# In an algorithm


@pytest.mark.parametrize(
    ("critic", "asks"), [(PolicyCritic(penalty=0.1), True), (PolicyCritic(), False), (OneStepCritic(advantage=False), False)]
)
def test_critics_that_ask_for_logged_next_actions_get_those_of_their_rows(critic, asks, arrays):
    model = GMPO("FlowPolicy", dataset=arrays, critic=critic, policy_kwargs=SMALL, batch_size=64, seed=0).learn(1)
    batches, losses = [], model.critics.losses
    model.critics.losses = lambda batch, gamma: batches.append(batch) or losses(batch, gamma)
    model.learn(2)
    assert len(batches) == 2 and all((batch.next_actions is not None) == asks for batch in batches)
    if asks:
        following = np.full((26, 2), np.nan)
        going_on = np.flatnonzero(arrays["terminals"] + arrays["timeouts"] == 0)
        following[going_on] = model.policy.scale_action(arrays["actions"][going_on + 1])
        np.testing.assert_allclose(batches[1].next_actions, following[batches[1].rows], atol=1e-6)


def test_the_validation_loss_has_the_penalty_of_the_training(arrays):
    """By hand, of a policy that always does the same."""
    model = GMPO(
        "FlowPolicy",
        dataset=arrays,
        critic=PolicyCritic(penalty=0.5),
        transforms=[HeldOutEpisodes(0.5)],
        reward_transform=None,
        policy_kwargs=SMALL,
        seed=0,
    ).learn(1)
    model.policy_actions = lambda observations, generator: th.full((len(observations), 2), 0.25)
    samples, rows = model.held_out.samples, model.held_out.rows.numpy()
    with th.no_grad():
        q_next = model.critic_target.q_values(samples.next_observations, th.full((len(rows), 2), 0.25))[:, 0].numpy()
        values = model.critic.values(samples.observations, samples.actions)[..., 0].numpy()
    rewards, dones = samples.rewards[:, 0].numpy(), samples.dones[:, 0].numpy()
    targets = []
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1] != row + 1 or samples.observations[index + 1, 0] % 100 == 0
        cost = 0.0 if last else 0.5 * ((0.25 - samples.actions[index + 1].numpy()) ** 2).sum()
        targets.append(rewards[index] + model.gamma * (1.0 - dones[index]) * (q_next[index] - cost))
    expected = sum(np.mean((each - np.array(targets)) ** 2) for each in values)
    assert validation_losses(model)["critic_loss"].item() == pytest.approx(expected, rel=1e-4)
