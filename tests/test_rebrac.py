"""
ReBRAC: where its optimum lies, its critics' targets, and TD3+BC as a setting of it.
"""

import numpy as np
import pytest
import torch as th
from scipy import integrate, stats
from stable_baselines3 import TD3

from sb3_genpolicy import PolicyCritic, ReBRAC
from sb3_genpolicy.common.updates.batch import Batch
from tests.helpers.arrays import SMALL, make_arrays, one_step_data


class Quadratic(th.nn.Module):
    """Q(s, a) = -strength |a - best|^2, in place of a critic."""

    def __init__(self, strength, best):
        super().__init__()
        self.strength, self.best = strength, best

    def q_values(self, observations, actions):
        return -self.strength * (actions - self.best).square().sum(dim=1, keepdim=True)


def make_model(**options):
    given = dict(dataset=make_arrays(), policy_kwargs=SMALL, seed=0, batch_size=16)
    return ReBRAC("MlpPolicy", **{**given, **options})


def test_the_policy_ends_between_the_mean_action_and_the_best():
    """
    One state, penalty p E|pi - a|^2 + k (pi - b)^2: the minimum is at (p mean(a) + k b) / (p + k).
    """
    logged = np.random.default_rng(0).uniform(-0.9, 0.5, (400, 1))
    penalty, strength, best = 0.7, 0.4, 0.6
    options = dict(normalize_q=False, policy_kwargs=dict(net_arch=[8], normalize_actions=False))
    model = make_model(dataset=one_step_data(logged, np.zeros(400)), actor_penalty=penalty, **options)
    model.read_dataset()
    learnt, model.critics.critic = model.critics.critic, Quadratic(strength, best)
    model.critics.losses = lambda batch, gamma: NoLosses
    optimizer = th.optim.Adam(model.policy.actor.parameters(), 0.02)
    batch = Batch.of(model.replay_buffer.rows(th.arange(400)), th.arange(400))
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.02 * (1.0 - step / 200)
        optimizer.zero_grad()
        model.objective(batch).losses["actor_loss"].backward()
        optimizer.step()
    space = model.action_space
    rows = model.replay_buffer.rows(th.arange(400)).actions.mean().item()
    with th.no_grad():
        (action,) = model.policy.actor(th.zeros(1, 1)).flatten().tolist()
    assert action == pytest.approx((penalty * rows + strength * best) / (penalty + strength), abs=0.003)
    assert learnt is model.policy.critic and space.shape == (1,)


class NoLosses:
    """Critics that do not learn."""

    advantage = th.zeros(1)

    @staticmethod
    def objective(**means):
        from sb3_genpolicy import Objective

        return Objective({}, ())


def test_next_actions_are_smoothed_as_in_td3():
    """The noise's spread, clipped at 0.5, by quadrature."""
    model = make_model(target_noise=0.4)
    for parameter in model.policy.actor_ema.parameters():
        parameter.data.zero_()
    drawn = model.policy_actions(th.zeros(20_000, 3), th.Generator().manual_seed(0))
    inside, _ = integrate.quad(lambda z: z**2 * stats.norm.pdf(z, scale=0.4), -0.5, 0.5)
    expected = np.sqrt(inside + 2 * 0.25 * stats.norm.sf(0.5, scale=0.4))
    assert drawn.std().item() == pytest.approx(expected, rel=0.02) and drawn.abs().max() == 0.5


def test_both_penalties_have_their_place():
    """The target of every row, by numpy, with a target network that gives 2 a_0 - 1 and 5 a_1."""
    model = make_model(target_noise=0.0, gamma=0.9, critic=PolicyCritic(penalty=0.3, aggregation="minimum"))
    model.read_dataset()
    model.policy.critic_target.quantiles = lambda obs, actions: th.stack([2 * actions[:, :1] - 1, 5 * actions[:, 1:2]])
    rows = th.arange(model.replay_buffer.size())
    logged = model.replay_buffer.next_actions(rows)
    samples = model.replay_buffer.rows(rows)
    batch = Batch.of(samples, rows, th.Generator().manual_seed(0), next_actions=logged)
    targets = model.critics._targets(batch, 0.9).numpy()[:, 0]
    with th.no_grad():
        acted = model.policy.actor_ema(samples.next_observations).numpy()
    q = np.minimum(2 * acted[:, 0] - 1, 5 * acted[:, 1])
    away = np.nan_to_num(((acted - logged.numpy()) ** 2).sum(axis=1))
    dones, rewards = samples.dones.numpy()[:, 0], samples.rewards.numpy()[:, 0]
    np.testing.assert_allclose(targets, rewards + 0.9 * (1 - dones) * (q - 0.3 * away), rtol=1e-4, atol=1e-5)
    assert (away > 0).any() and np.isnan(logged.numpy()).any() and dones.any()


def test_published_networks():
    """Three layers of 256 each; layer norm in the critics alone."""
    model = ReBRAC("MlpPolicy", dataset=make_arrays())
    widths = [layer.weight.shape[-1] for layer in model.critic.layers]
    assert widths == [256, 256, 256, 1] and len(model.critic.norms) == 3 and model.critic.n_critics == 2
    kinds = [type(layer).__name__ for layer in model.actor.layers]
    assert kinds == ["Linear", "ReLU"] * 3 + ["Linear"]
    assert model.critic_options.aggregation == "minimum" and model.critic_options.follows_policy


def test_td3_bc_without_cloning_is_td3_s_policy():
    """The same parameters, the same action as SB3's TD3."""
    td3 = TD3("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[16, 16]), seed=0)
    options = dict(net_arch=[16, 16], normalize_observations=False, normalize_actions=False)
    ours = ReBRAC("MlpPolicy", "Pendulum-v1", policy_kwargs=options, dataset="pendulum-mixed")
    theirs = [p for p in td3.actor.parameters()]
    for mine, other in zip(ours.actor_ema.parameters(), theirs, strict=True):
        mine.data.copy_(other.data)
    rows = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    np.testing.assert_allclose(ours.predict(rows)[0], td3.predict(rows, deterministic=True)[0], atol=1e-6)


def test_exploration_is_as_large_as_was_asked():
    model = ReBRAC("MlpPolicy", "Pendulum-v1", dataset="pendulum-mixed", policy_kwargs=SMALL, exploration_noise=0.3)
    drawn = [model.action_noise()[0] for _ in range(2000)]
    assert np.std(drawn) == pytest.approx(0.3, rel=0.1)
    assert make_model(exploration_noise=0.0).action_noise is None
    with pytest.raises(ValueError, match="exploration_noise must be a number >= 0"):
        make_model(exploration_noise=-0.1)
