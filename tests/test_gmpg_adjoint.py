"""
GMPG by adjoint matching: what its gradient is taken of, what it learns, and how far it goes.
"""

import math

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.utils import LinearSchedule

from examples.bandit_2d import CENTRES, make_data
from sb3_genpolicy import GMPG
from sb3_genpolicy.generative import DiscreteKL, PathKL
from sb3_genpolicy.generative.kl import Conditioned, Draws
from sb3_genpolicy.gmpg import gmpg as module
from tests.helpers.gmpg import small_batch, small_gmpg
from tests.test_gmpg import bandit, pretrained_bandit  # noqa: F401


def adjoint_gmpg(arrays, **options):
    return small_gmpg(arrays, **{"gradient_estimator": "adjoint", "pretraining_steps": 0, "critic": "iql", **options}).learn(1)


def seen_by_the_regression(model, monkeypatch):
    """What the loss gives to it: the rollout and the gradient."""
    seen, plain = [], module.adjoint_matching
    monkeypatch.setattr(module, "adjoint_matching", lambda *args: seen.append((args[2], args[3])) or plain(*args))
    model.generator.manual_seed(0)
    model.policy_loss(small_batch(model, th.float32))
    return seen[0]


def test_the_gradient_is_that_of_beta_q_at_the_clipped_action(arrays, monkeypatch):
    """Beyond the bounds it is that at the bounds, not the 0 of a clipped action."""
    model = adjoint_gmpg(arrays, beta=3.0)
    model.critics.critic.q_values = lambda observations, actions: (actions.pow(3).sum(dim=1) + observations[:, 0])[:, None]
    rollout = module.memoryless_rollout
    # Some of it beyond the bounds
    monkeypatch.setattr(module, "memoryless_rollout", lambda *args: 1.5 * rollout(*args))
    xs, gradient = seen_by_the_regression(model, monkeypatch)
    outside = xs[-1].abs() > 1.0
    assert outside.any() and not outside.all()
    expected = 3.0 * model.horizon_ratio * 3.0 * xs[-1].clamp(-1.0, 1.0) ** 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


def test_there_is_no_gradient_where_the_tilt_is_clamped(arrays, monkeypatch):
    """Of beta (Q - V), at the logarithm of 1.5."""
    model = adjoint_gmpg(arrays, beta=3.0, weight_clamp=1.5)
    model.critics.critic.q_values = lambda observations, actions: actions.sum(dim=1, keepdim=True)
    model.critics.value_net = lambda observations: th.full((len(observations), 1), 0.25)
    xs, gradient = seen_by_the_regression(model, monkeypatch)
    beta = 3.0 * model.horizon_ratio
    is_clamped = beta * (xs[-1].clamp(-1.0, 1.0).sum(dim=1) - 0.25) > np.log(1.5)
    assert is_clamped.any() and not is_clamped.all()
    np.testing.assert_allclose(gradient, np.where(is_clamped, 0.0, beta)[:, None].repeat(2, axis=1), rtol=1e-4)


def test_normalised_q_has_no_unit(arrays, monkeypatch):
    gradients = []
    for scale in (1.0, 100.0):
        model = adjoint_gmpg(arrays, normalize_q=True, beta=2.0)
        plain = model.q_values
        model.q_values = lambda *args, scale=scale, plain=plain: scale * plain(*args)
        with monkeypatch.context() as patch:
            gradients.append(seen_by_the_regression(model, patch)[1])
    np.testing.assert_allclose(*gradients, rtol=1e-4)


@pytest.mark.parametrize("options", [dict(adjoint="scalar"), dict(kl_estimator=PathKL(3, "uniform"), n_actions=2)], ids=str)
@pytest.mark.parametrize("policy", ["FlowPolicy", "DiffusionPolicy"])
def test_its_options_are_saved(arrays, tmp_path, policy, options):
    model = small_gmpg(arrays, policy, gradient_estimator="adjoint", policy_kwargs=dict(n_candidates=2), **options).learn(12)
    model.save(tmp_path / "model")
    loaded = GMPG.load(tmp_path / "model")
    assert (loaded.adjoint, loaded.kl_estimator) == (model.adjoint, model.kl_estimator)
    means = model.means.pop()
    assert all(np.isfinite(means[name].item()) for name in ("kl", "beta", "q_value", "policy_loss"))


@pytest.mark.parametrize("prediction", ["noise", "score", "data", "velocity"])
@pytest.mark.parametrize("path", ["vp", "cosine"])
def test_every_prediction_is_trained(arrays, path, prediction):
    options = dict(policy_kwargs=dict(path=path, prediction=prediction), target_kl=0.1)
    model = small_gmpg(arrays, "DiffusionPolicy", gradient_estimator="adjoint", **options).learn(14)
    assert all(np.isfinite(mean.item()) for mean in model.means.pop().values())


# What it learns


def divergence(model, n=4000):
    """KL of the samplers that act, by a route of its own."""
    conditions = th.zeros(n, 1)
    sides = []
    for actor in (model.actor, model.behaviour):
        sides.append(Conditioned(actor.model, actor.extract_features(conditions, actor.features_extractor)))
    noise = th.randn(n, model.actor.action_dim, generator=th.Generator().manual_seed(0))
    with th.no_grad():
        sample = DiscreteKL().of_samples(*sides, Draws(noise, model.actor.sampler))
    return (sample.log_ratio.sum() / sample.found.sum()).item()


def test_probability_moves_to_the_better_mode(pretrained_bandit):  # noqa: F811
    """To exp(2) / (1 + exp(2)) = 0.88, with critics that have learnt rewards of 0 and 1."""
    model = GMPG(
        "FlowPolicy",
        pretrained=pretrained_bandit,
        beta=2.0,
        policy_learning_rate=2e-3,
        seed=1,
        gradient_estimator="adjoint",
        batch_size=64,
    )
    model.learn(300, dataset=bandit())
    actions, _ = model.predict(np.zeros((4000, 1), np.float32))
    assert (actions > 0).mean() == pytest.approx(1.0 / (1.0 + math.exp(-2.0)), abs=0.05)


@pytest.mark.slow
def test_a_kl_target_is_realised(pretrained_bandit):  # noqa: F811
    """Within 10 %, by its own estimate and by that of the sampler that acts."""
    options = dict(beta=0.5, target_kl=0.3, policy_learning_rate=1e-3, gradient_estimator="adjoint", actor_tau=0.05)
    options.update(kl_estimator=PathKL(10))
    model = GMPG("FlowPolicy", pretrained=pretrained_bandit, seed=0, **options)
    model.learn(400, dataset=bandit())
    model.means.pop()
    model.learn(200, reset_num_timesteps=False)
    assert model.means.pop()["kl"].item() == pytest.approx(0.3, rel=0.1)
    assert divergence(model) == pytest.approx(0.3, rel=0.1)


@pytest.mark.slow
def test_six_modes_have_the_probabilities_of_the_optimum():
    """
    Within 0.03 of mu exp(beta Q) / Z, known from many actions of mu and the critic itself. The behaviour model is a small one,
    whose modes touch: between such as hardly do, few rows decide (docs/modules/gmpg.md).
    """
    data, states, beta = make_data(6000), np.zeros((10_000, 1), np.float32), 4.0
    options = dict(critic="iql", reward_transform=None, pretraining_steps=3000, learning_rate=LinearSchedule(2e-3, 0.0, 1.0))
    options["policy_kwargs"] = dict(net_arch=dict(pi=[128, 128], qf=[64, 64], vf=[8]))
    behaviour = GMPG("FlowPolicy", dataset=data, seed=0, actor_tau=0.01, **options).learn(3000)
    actions, _ = behaviour.predict(states)
    with th.no_grad():
        weights = (beta * behaviour.q_values(th.zeros(len(actions), 1), th.as_tensor(actions))).softmax(dim=0).numpy()
    wanted = np.bincount(nearest(actions), weights=weights, minlength=6)
    model = GMPG(
        "FlowPolicy",
        pretrained=behaviour,
        beta=beta,
        seed=0,
        gradient_estimator="adjoint",
        policy_learning_rate=LinearSchedule(2e-3, 0.0, 1.0),
        actor_tau=0.01,
    )
    found = np.bincount(nearest(model.learn(1000, dataset=data).predict(states)[0]), minlength=6) / len(states)
    assert wanted[0] > 0.5
    np.testing.assert_allclose(found, wanted, atol=0.03)


def nearest(actions):
    return np.linalg.norm(actions[:, None] - CENTRES, axis=2).argmin(axis=1)
