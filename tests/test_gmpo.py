"""
GMPO's mathematics against closed forms, and its learning loop against SB3's habits.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from sb3_genpolicy import GMPO, load_dataset
from sb3_genpolicy.common.algorithms.support import values_of
from sb3_genpolicy.common.policies.critics import Critics, IQLCritic
from sb3_genpolicy.common.policies.critics.losses import expectile_loss
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.common.updates.device_means import DeviceMeans
from sb3_genpolicy.common.updates.weights import effective_sample_size
from tests.helpers.arrays import SMALL, make_arrays, one_step_data


def small_gmpo(dataset, policy="FlowPolicy", **kwargs):
    return GMPO(policy, dataset=dataset, policy_kwargs={**SMALL, **kwargs.pop("policy_kwargs", {})}, seed=0, **kwargs)


def test_expectile_loss_is_minimal_at_the_expectile():
    targets = th.tensor(np.random.default_rng(0).gamma(2.0, size=4000))
    for expectile in (0.5, 0.7, 0.9):
        expected = stats.expectile(targets.numpy(), expectile)
        values = th.tensor([expected - 1e-3, expected, expected + 1e-3])
        losses = [expectile_loss(targets - value, expectile).mean() for value in values]
        assert losses[1] < losses[0] and losses[1] < losses[2]


class _Fixed(nn.Module):
    """A network that answers what it was given, by the first entry of the observation."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = answers

    def forward(self, obs, actions=None):
        outs = tuple(obs[:, :1] * 0 + answer(obs[:, :1]) for answer in self.answers)
        return outs if actions is not None else outs[0]

    def values(self, obs, actions):
        return th.stack(self(obs, actions))

    def q_values(self, obs, actions):
        return th.minimum(*self(obs, actions))


def test_iql_losses_by_hand():
    """Two rows, worked out on paper: the second one terminates, so its next state counts nothing."""

    samples = ReplayBufferSamples(
        observations=th.tensor([[1.0], [2.0]]),
        actions=th.zeros(2, 1),
        next_observations=th.tensor([[3.0], [4.0]]),
        dones=th.tensor([[0.0], [1.0]]),
        rewards=th.tensor([[0.5], [1.0]]),
    )
    value = _Fixed(lambda s: s)  # V(s) = s
    target = _Fixed(lambda s: s + 1.0, lambda s: 3.0 * s - 3.0)  # min: 0 and 3
    online = _Fixed(lambda s: 2.0 * s, lambda s: s - 1.0)  # 2, 4 and 0, 1
    policy = SimpleNamespace(critic=online, critic_target=target, value_net=value, critic_options=IQLCritic(expectile=0.7))
    critics, rows = Critics(policy, None), th.arange(2)
    losses = critics.losses(Batch.of(samples, rows), gamma=0.9)
    # u = 0 - 1 and 3 - 2: 0.3 * 1 and 0.7 * 1
    assert losses.value_loss.item() == pytest.approx(0.5)
    # targets 0.5 + 0.9 * 3 = 3.2 and 1.0; squared errors (1.2^2 + 3^2) / 2 and (3.2^2 + 0) / 2
    assert losses.critic_loss.item() == pytest.approx((1.44 + 9.0) / 2 + 10.24 / 2, rel=1e-5)
    np.testing.assert_allclose(losses.advantage[:, 0], [-1.0, 1.0])
    # Rewards of several steps bring their own discount: targets 0.5 + 0.1 * 3 = 0.8 and 1.0
    samples = samples._replace(discounts=th.tensor([[0.1], [0.1]]))
    losses = critics.losses(Batch.of(samples, rows), gamma=0.9)
    assert losses.critic_loss.item() == pytest.approx((1.44 + 9.0) / 2 + 0.64 / 2, rel=1e-5)


def test_weights_are_the_clamped_exponential_of_the_advantage():
    model = small_gmpo(make_arrays(), beta=2.0, weight_clamp=50.0)
    weights = model.advantage_weights(th.tensor([[-1.0], [0.0], [1.0], [3.0], [1e6]]))
    np.testing.assert_allclose(weights, [np.exp(-2), 1.0, np.exp(2), 50.0, 50.0], rtol=1e-5)
    np.testing.assert_allclose(small_gmpo(make_arrays(), beta=0.0).advantage_weights(th.randn(5, 1)), 1.0)


def test_where_beta_is_found_no_row_counts_more_than_ten_times():
    """In the paper, whose beta is given, a hundred times."""
    arrays = make_arrays()
    clamps = [GMPO("FlowPolicy", dataset=arrays, **options).weight_clamp for options in ({}, dict(beta=1.0))]
    assert clamps == [10.0, 100.0]


def test_effective_sample_size_counts_the_rows_that_count():
    assert effective_sample_size(th.full((8,), 3.0)).item() == pytest.approx(1.0)
    assert effective_sample_size(th.tensor([0.0, 5.0, 0.0, 0.0])).item() == pytest.approx(0.25)
    assert effective_sample_size(th.tensor([1.0, 1.0, 0.0, 0.0])).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("policy", "beta", "share", "coupling"),
    [
        ("FlowPolicy", 1.5, 0.818, "independent"),
        pytest.param("FlowPolicy", 1.5, 0.818, "optimal_transport", marks=pytest.mark.slow),
        ("DiffusionPolicy", 1.5, 0.818, "independent"),
        ("FlowPolicy", 0, 0.5, "independent"),
    ],
)
def test_modes_are_reweighted_by_the_exponential_of_their_reward(policy, beta, share, coupling):
    """
    One state, two modes of action, half the data each, rewards 0 and 1 at their end: advantages differ by 1,
    so that the better mode's odds are exp(beta) and its share exp(1.5) / (1 + exp(1.5)) = 0.818. Cloning keeps one half.
    """
    rng = np.random.default_rng(0)
    better = rng.random(4000) < 0.5
    actions = np.where(better, 0.6, -0.6)[:, None] + rng.normal(0, 0.1, (4000, 1))
    data = one_step_data(actions, better.astype(float))
    arch = dict(net_arch=dict(pi=[64, 64], qf=[32], vf=[8]), coupling=coupling)
    options = dict(beta=beta, critic="iql", reward_transform="none", learning_rate=LinearSchedule(1e-2, 0.0, 1.0))
    model = small_gmpo(data, policy, policy_kwargs=arch, batch_size=128, actor_tau=0.02, **options).learn(1000)
    drawn, _ = model.predict(np.zeros((4000, 1), np.float32))
    assert (drawn > 0).mean() == pytest.approx(share, abs=0.05)
    # Modes, not their mean
    assert (np.abs(np.abs(drawn) - 0.6) < 0.3).mean() > 0.75


@pytest.fixture(scope="module")
def pretrained_modes():
    """Modes at -0.6 and 0.6, half the data each, rewards 0 and 1: behaviour model and critics."""
    rng = np.random.default_rng(0)
    better = rng.random(3000) < 0.5
    data = one_step_data(np.where(better, 0.6, -0.6)[:, None] + rng.normal(0, 0.1, (3000, 1)), better.astype(float))
    arch = dict(net_arch=dict(pi=[64, 64], qf=[32, 32], vf=[8]))
    options = dict(critic="iql", reward_transform=None, learning_rate=LinearSchedule(1e-2, 0.0, 1.0), actor_tau=0.02)
    return data, small_gmpo(data, beta=0.0, policy_kwargs=arch, batch_size=128, **options).learn(600)


@pytest.mark.parametrize(
    ("redraw", "coupling"),
    [(True, "independent"), (False, "independent"), pytest.param(False, "optimal_transport", marks=pytest.mark.slow)],
)
def test_softmax_over_behaviour_actions_reweights_the_modes(pretrained_modes, redraw, coupling):
    """To the share that self-normalised weights over eight of the behaviour model's own actions give, worked out in numpy."""
    data, source = pretrained_modes
    actions, _ = source.predict(np.zeros((16_000, 1), np.float32))
    q_values = th.cat(source.critic(th.zeros(16_000, 1), th.tensor(actions)), dim=1).amin(dim=1).detach().numpy()
    weights = np.exp(1.5 * q_values).reshape(-1, 8)
    expected = ((weights * (actions > 0).reshape(-1, 8)).sum(1) / weights.sum(1)).mean()
    assert 0.7 < expected < 0.818  # an infinite number of actions would give exp(1.5) / (1 + exp(1.5))
    arch = {**SMALL, "net_arch": source.policy_kwargs["net_arch"], "coupling": coupling}
    options = dict(weighting="softmax", beta=1.5, redraw_actions=redraw, pretrained=source, n_actions=8)
    model = GMPO("FlowPolicy", policy_kwargs=arch, seed=1, batch_size=64, **options).learn(400, dataset=data)
    drawn, _ = model.predict(np.zeros((4000, 1), np.float32))
    assert (drawn > 0).mean() == pytest.approx(expected, abs=0.05)


def test_where_beta_is_found_rows_weigh_alike_at_first(arrays):
    """Three quarters of the first call are cloning, bit for bit; critics go on in the last one."""
    model, clone = small_gmpo(arrays), small_gmpo(arrays, beta=0.0).learn(9)
    seen = {}

    def look(*scopes):
        if model.num_timesteps in (9, 10):
            seen[model.num_timesteps] = copy.deepcopy([list(net.parameters()) for net in (model.actor, model.critics.critic)])
        return True

    model.learn(12, callback=look)
    assert model.pretraining_steps == 9 and not model.critics_are_frozen
    for mine, expected in zip(seen[9][0], clone.actor.parameters(), strict=True):
        assert th.equal(mine, expected)
    assert not all(map(th.equal, seen[10][1], model.critics.critic.parameters()))
    # It is the first call that says so
    assert model.learn(12, reset_num_timesteps=False).pretraining_steps == 9
    for given in (dict(beta=1.0), dict(pretraining_steps=0)):
        assert small_gmpo(arrays, **given).learn(4).pretraining_steps == 0


@pytest.mark.parametrize("redraw", [True, False])
def test_softmax_has_a_first_phase_of_its_own_and_resumes_in_it(arrays, tmp_path, redraw):
    def make():
        return small_gmpo(arrays, weighting="softmax", n_actions=3, redraw_actions=redraw)

    whole = make().learn(12)
    assert whole.pretraining_steps == 6
    for stop in (4, 9):
        make().learn(12, callback=lambda scope, _, stop=stop: scope["self"].num_timesteps < stop).save(tmp_path / "stopped")
        resumed = GMPO.load(tmp_path / "stopped").learn(12 - stop, reset_num_timesteps=False, dataset=arrays)
        np.testing.assert_array_equal(resumed.policy.parameters_to_vector(), whole.policy.parameters_to_vector())


def test_behaviour_actions_drawn_once_are_those_of_their_rows(arrays):
    """Actions of a row are the same at every draw, and their values its own: compared with the critic, one by one."""
    model = small_gmpo(arrays, weighting="softmax", n_actions=3, redraw_actions=False, pretraining_steps=1).learn(3)
    rows = th.tensor([5, 0, 5])
    batch = model.replay_buffer.rows(rows)
    drawn_for = Batch.of(batch, rows, model.generator)
    first, again = (model._support.draw("observations", drawn_for, model.replay_buffer, None) for _ in range(2))
    assert th.equal(first, again) and th.equal(first[0], first[2]) and not th.equal(first[0], first[1])
    values = values_of(model.critic, batch.observations, first)
    for k in range(3):
        q_values = th.cat(model.critic(batch.observations, first[:, k]), dim=1).mean(dim=1)
        np.testing.assert_allclose(values[:, k], q_values.detach(), rtol=1e-4)


@pytest.mark.parametrize(("terminal", "value"), [(1.0, 1.0), (0.0, 5.0)])
def test_truncated_rows_bootstrap_and_terminated_rows_do_not(terminal, value):
    """A state that leads to itself with reward 1: worth 1 if that ends it, 1 / (1 - gamma) = 5 if it was merely cut off."""
    data = one_step_data(np.zeros((50, 1)), np.ones(50), terminal)
    model = small_gmpo(data, gamma=0.8, tau=0.05, reward_transform=None, learning_rate=3e-3, batch_size=32)
    model.learn(700)
    q_value = model.critic(th.zeros(1, 1), th.zeros(1, 1))[0].item()
    assert q_value == pytest.approx(value, rel=0.05)


def test_same_seed_same_parameters_also_with_evaluations_in_between(arrays):
    class Interruption(BaseCallback):
        def _on_step(self):
            self.model.predict(np.zeros((5, 3), np.float32))
            th.rand(3)
            return True

    def vector(callback=None, seed=3):
        model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=seed).learn(20, callback=callback)
        return model.policy.parameters_to_vector()

    np.testing.assert_array_equal(vector(), vector(Interruption()))
    assert np.abs(vector() - vector(seed=4)).max() > 1e-3


def test_training_leaves_the_global_random_state_alone(arrays):
    model = small_gmpo(arrays).learn(1)
    state, np_state = th.get_rng_state(), np.random.get_state()[1].copy()
    model.learn(5)
    assert th.equal(th.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], np_state)


def test_one_gradient_step_is_one_timestep_and_one_callback(arrays):
    calls = []
    model = small_gmpo(arrays).learn(
        30, callback=lambda locals_, globals_: calls.append(locals_["self"].num_timesteps) is None
    )
    assert calls == list(range(1, 31)) and model.num_timesteps == model._n_updates == 30
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == 40
    model.learn(10)
    assert model.num_timesteps == 10 and model._n_updates == 50


def test_a_callback_that_says_false_stops(arrays):
    assert (
        small_gmpo(arrays).learn(30, callback=lambda locals_, globals_: locals_["self"].num_timesteps < 7).num_timesteps == 7
    )


def test_log_has_sb3s_keys_at_its_interval(arrays, tmp_path):
    model = small_gmpo(arrays, pretraining_steps=0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(30, log_interval=10)
    rows = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="")
    np.testing.assert_array_equal(rows["time/total_timesteps"], [10, 20, 30])
    for key in (
        "train/actor_loss",
        "train/critic_loss",
        "train/value_loss",
        "train/learning_rate",
        "time/fps",
        "train/n_updates",
    ):
        assert np.isfinite(rows[key]).all(), key


def test_logged_means_are_means_since_the_last_line():
    means = DeviceMeans()
    for value in (1.0, 2.0, 6.0):
        means.add(loss=th.tensor(value))
    assert means.pop() == {"loss": 3.0} and means.pop() == {}


def test_learning_rate_schedule_runs_from_first_to_last_step(arrays):
    rates = []
    model = small_gmpo(arrays, learning_rate=lambda remaining: remaining * 1e-3)
    for _ in range(2):
        model.learn(
            4, callback=lambda locals_, globals_: rates.append(locals_["self"].actor.optimizer.param_groups[0]["lr"]) is None
        )
    np.testing.assert_allclose(rates, np.tile([1e-3, 7.5e-4, 5e-4, 2.5e-4], 2))


def test_gradients_reach_only_the_networks_they_are_meant_for(arrays):
    """The policy's loss moves the actor alone, the target moves by Polyak averaging alone."""
    model = small_gmpo(arrays, tau=0.5)
    model.learn(1)
    before = [p.clone() for p in model.critic_target.parameters()]
    model.learn(1)
    for target, old, online in zip(model.critic_target.parameters(), before, model.critic.parameters(), strict=True):
        np.testing.assert_allclose(target.detach(), 0.5 * (old + online).detach(), atol=1e-6)
        assert target.grad is None


def test_tensorboard_name_and_progress_bar(arrays, tmp_path, capsys):
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, tensorboard_log=str(tmp_path))
    model.learn(5, progress_bar=True, log_interval=2)
    assert [path.name for path in tmp_path.iterdir()] == ["GMPO_1"]
    out = capsys.readouterr().out
    assert "5/5" in out and "policy" in out


def test_dataset_may_be_given_to_learn_and_replaced_there(arrays):
    env_less = small_gmpo(arrays)
    other = make_arrays(n_episodes=2, seed=1)
    env_less.learn(2)
    assert env_less.replay_buffer.size() == 26
    env_less.learn(2, dataset=other)
    assert env_less.replay_buffer.size() == 11
    # On the scale of rewards that the critics know
    assert env_less.replay_buffer.rewards[0].item() == pytest.approx(other["rewards"][0] * env_less.reward_function.scale)
    expected = 1000.0 / np.ptp(load_dataset(arrays).episode_returns())
    assert env_less.reward_function.scale == pytest.approx(expected, rel=1e-5)
    # Given rows stay until others are given
    env_less.learn(2)
    assert env_less.replay_buffer.size() == 11


def test_pendulum_from_the_front_door():
    """To the letter: GMPO("FlowPolicy", env).learn() with what the environment carries."""
    from sb3_genpolicy import make_offline_env

    model = GMPO("FlowPolicy", make_offline_env("pendulum-mixed"), policy_kwargs=SMALL, verbose=0).learn(3)
    assert model.replay_buffer.size() == 48_000 and model.reference_scores == (-1230.0, -150.0)
    np.testing.assert_allclose(
        model.policy.normalizer.parts[0].mean, load_dataset("pendulum-mixed").observations.mean(0), atol=1e-4
    )


def test_action_units_are_the_environments():
    """Bounds of all kinds: cloned actions come back in the units, shape and dtype of the space."""
    low, high = np.array([[-5.0, 0.0], [10.0, -1.0]], np.float32), np.array([[-3.0, 1.0], [110.0, 1.0]], np.float32)
    space = spaces.Box(low, high)
    target = low + 0.25 * (high - low)
    data = one_step_data(np.tile(target, (200, 1, 1)), np.zeros(200))
    model = small_gmpo({**data, "action_space": space}, beta=0.0, learning_rate=3e-3, batch_size=64).learn(700)
    action, _ = model.predict(np.zeros(1, np.float32), deterministic=True)
    assert action.shape == (2, 2) and space.contains(action.astype(np.float32))
    np.testing.assert_allclose((action - low) / (high - low), 0.25, atol=0.02)


def test_the_actor_that_acts_is_a_running_average(arrays):
    """Parameters averaged by hand at the documented rate; with actor_tau=1 the latest ones act."""
    model, average, rates = small_gmpo(arrays, actor_tau=0.3, pretraining_steps=0), [], []

    def follow(locals_, globals_):
        rates.append(max(0.3, 9 / (9 + len(rates) + 1)))
        for index, parameter in enumerate(model.actor.parameters()):
            average[index] = (1 - rates[-1]) * average[index] + rates[-1] * parameter.detach()
        # At every step: later ones forget how the first were averaged
        for mine, acting in zip(average, model.actor_ema.parameters(), strict=True):
            np.testing.assert_allclose(mine, acting.detach(), atol=1e-6)

    average = [parameter.detach().clone() for parameter in model.actor.parameters()]
    model.learn(40, callback=lambda *scopes: follow(*scopes) is None)
    assert rates[0] == 0.9 and rates[-1] == 0.3
    latest = small_gmpo(arrays, actor_tau=1.0).learn(5)
    for trained, acting in zip(latest.actor.parameters(), latest.actor_ema.parameters(), strict=True):
        assert th.equal(trained, acting)


@pytest.mark.parametrize("size", [0.0, 1e-44, 1e38, np.inf])
def test_paired_rows_are_drawn_by_weights_of_any_size(arrays, size):
    """Where all weights vanish nothing is learnt; where their sum overflows, rows without weight are still not drawn."""
    model = small_gmpo(arrays, policy_kwargs=dict(coupling="optimal_transport")).learn(1)
    batch = model.replay_buffer.sample(16)
    drawn = []
    model.actor.matching_loss = lambda observations, actions, generator: drawn.append(actions) or actions[:, 0]
    weights = th.full((16,), size)
    weights[1:12] = 0.0
    loss, _ = model.actor.weighted_matching_loss(batch.observations, batch.actions, weights)
    if size == 0.0:
        assert loss == 0.0
    elif size < 1.0:
        assert loss.isfinite()
    else:
        allowed = [batch.actions[k].tolist() for k in (0, *range(12, 16))]
        assert all(action.tolist() in allowed for action in drawn[0])


def test_training_goes_on_where_all_weights_vanish(arrays):
    model = small_gmpo(arrays, beta=1e6, batch_size=2, policy_kwargs=dict(coupling="optimal_transport")).learn(20)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
