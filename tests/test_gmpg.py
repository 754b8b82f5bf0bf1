"""
What GMPG learns, and that it stays stable.
"""

import copy
import math

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule

from sb3_genpolicy import GMPG
from tests.helpers.arrays import one_step_data
from tests.helpers.gmpg import small_gmpg
from tests.helpers.states import same_state

VARIANTS = ["pathwise", "adjoint", "reinforce", "reinforce_softmax", "matching", "detached"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("policy", ["FlowPolicy", "DiffusionPolicy"])
def test_every_variant_trains_saves_and_predicts(arrays, tmp_path, variant, policy):
    model = small_gmpg(arrays, policy, gradient_estimator=variant).learn(14)
    model.save(tmp_path / "model")
    loaded = GMPG.load(tmp_path / "model")
    assert loaded.gradient_estimator == variant and loaded.policy.prediction == "velocity"
    observations = np.zeros((4, 3), np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_dictionaries_and_several_actions_for_each_state(arrays):
    arrays["observations"], arrays["next_observations"] = ({"a": arrays[key]} for key in ("observations", "next_observations"))
    model = small_gmpg(arrays, "FlowMultiInputPolicy", n_actions=3).learn(12)
    assert model.predict({"a": np.zeros((2, 3), np.float32)})[0].shape == (2, 2)


# What it learns


def bandit(n=3000):
    """One state, actions around -0.5 and 0.5 alike, rewards 1 for the right ones."""
    rng = np.random.default_rng(0)
    right = rng.random(n) < 0.5
    actions = np.where(right, 0.5, -0.5)[:, None] + rng.normal(0, 0.15, (n, 1))
    return one_step_data(actions, right.astype(float))


@pytest.fixture(scope="module")
def pretrained_bandit():
    arch = dict(net_arch=dict(pi=[64, 64], qf=[32, 32], vf=[8]))
    options = dict(critic="iql", reward_transform=None, pretraining_steps=600, batch_size=128, actor_tau=0.02)
    falling = LinearSchedule(1e-2, 0.0, 1.0)
    return GMPG("FlowPolicy", dataset=bandit(), policy_kwargs=arch, seed=0, learning_rate=falling, **options).learn(600)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        pytest.param(dict(kl_estimator="discrete"), marks=pytest.mark.slow),
        pytest.param(dict(gradient_estimator="reinforce", kl_estimator="discrete"), marks=pytest.mark.slow),
        dict(gradient_estimator="reinforce"),
        dict(gradient_estimator="reinforce_softmax"),
    ],
    ids=str,
)
def test_probability_moves_to_the_better_mode(pretrained_bandit, options):
    """Rewards 0 and 1, half the data each: with beta = 2 the better mode's share is exp(2) / (1 + exp(2)) = 0.88."""
    model = GMPG(
        "FlowPolicy", pretrained=pretrained_bandit, beta=2.0, policy_learning_rate=2e-3, seed=1, batch_size=64, **options
    )
    model.learn(150, dataset=bandit())
    actions, before = (m.predict(np.zeros((2000, 1), np.float32))[0] for m in (model, pretrained_bandit))
    assert 0.75 < (actions > 0).mean() < 0.98
    # No wider than the modes were
    assert np.abs(np.abs(actions) - 0.5).mean() < np.abs(np.abs(before) - 0.5).mean() + 0.05


@pytest.mark.parametrize("estimator", ["pathwise", "adjoint"])
def test_a_tilt_is_clamped_as_a_weight_is(pretrained_bandit, estimator):
    """
    V is 0.7, the expectile of 0 and 1. With beta = 2 weights are exp(0.6) and exp(-1.4), the first clamped to 0.5: the better
    mode's share is 0.5 / (0.5 + exp(-1.4)) = 0.67, not 0.88.
    """
    options = dict(beta=2.0, weight_clamp=0.5, gradient_estimator=estimator, policy_learning_rate=2e-3, batch_size=64)
    model = GMPG("FlowPolicy", pretrained=pretrained_bandit, seed=1, **options).learn(150, dataset=bandit())
    actions, _ = model.predict(np.zeros((2000, 1), np.float32))
    assert 0.58 < (actions > 0).mean() < 0.76


@pytest.mark.parametrize(
    ("options", "clamp"),
    [
        (dict(), 10.0),
        (dict(target_kl=0.2), 10.0),
        (dict(beta=1.0), math.inf),
        (dict(beta=1.0, gradient_estimator="reinforce"), 100.0),
        (dict(beta=1.0, weight_clamp=3.0), 3.0),
        (dict(gradient_estimator="detached", beta=1.0), math.inf),
    ],
    ids=str,
)
def test_where_beta_is_found_no_action_counts_more_than_ten_times(arrays, options, clamp):
    assert small_gmpg(arrays, **options).weight_clamp == clamp


def test_beta_0_stays_at_the_behaviour_policy(pretrained_bandit):
    model = GMPG("FlowPolicy", pretrained=pretrained_bandit, beta=0.0, seed=1, kl_estimator="discrete", batch_size=64)
    model.learn(30, dataset=bandit())
    assert abs(model.means.pop()["kl"]) < 3e-3
    actions, _ = model.predict(np.zeros((2000, 1), np.float32))
    assert (actions > 0).mean() == pytest.approx(0.5, abs=0.06)


def test_a_kl_target_is_held_by_beta(pretrained_bandit):
    model = GMPG("FlowPolicy", pretrained=pretrained_bandit, beta=0.5, target_kl=0.3, policy_learning_rate=2e-3, batch_size=64)
    model.learn(250, dataset=bandit())
    model.means.pop()
    model.learn(100, reset_num_timesteps=False)
    means = model.means.pop()
    assert means["kl"] == pytest.approx(0.3, abs=0.1) and means["beta"] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "steps"), [("discrete", 1500), ("path", 4000)])
def test_no_estimate_falls_below_zero_in_a_long_run(pretrained_bandit, estimator, steps):
    """The quadrature's did, to -44 nats: a policy learns to exploit whatever error there is."""
    model = GMPG(
        "FlowPolicy", pretrained=pretrained_bandit, beta=4.0, policy_learning_rate=1e-3, kl_estimator=estimator, batch_size=64
    )
    lowest = []

    class Watch(BaseCallback):
        def _on_step(self):
            if self.num_timesteps % 50 == 0:
                lowest.append(self.model.means.pop()["kl"])
            return True

    model.learn(steps, callback=Watch(), dataset=bandit(), log_interval=None)
    assert len(lowest) == steps // 50 and min(lowest) > -0.05


# Stability


@pytest.mark.parametrize("estimator", ["reinforce", "reinforce_softmax"])
def test_a_density_ratio_that_overflows_lowers_beta(arrays, estimator, monkeypatch):
    """The loss of such a row may well be finite, as its weight is."""
    model = small_gmpg(arrays, gradient_estimator=estimator, n_actions=2, target_kl=0.5).learn(11)
    plain, beta = model._sample, model.log_beta.item()
    monkeypatch.setattr(model, "_sample", lambda *arguments: far_away(plain(*arguments)))
    model.learn(1, reset_num_timesteps=False)
    assert model.log_beta.item() == pytest.approx(beta - 0.01, abs=1e-6)


def far_away(sample):
    return sample._replace(log_ratio=sample.log_ratio + 100.0)


def test_gradients_are_clipped(arrays):
    model = small_gmpg(arrays, pretraining_steps=0, beta=1e4, max_grad_norm=0.5, kl_estimator="discrete")
    norms = []

    class Watch(BaseCallback):
        def _on_step(self):
            norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in self.model.actor.model.parameters())))
            return True

    model.learn(3, callback=Watch())
    np.testing.assert_allclose(norms, 0.5, rtol=1e-3)
    assert model.means.pop()["gradient_norm"] > 0.5


@pytest.mark.parametrize("phase", ["pretraining", "policy"])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_parameters(arrays, phase):
    # IQL's critics take rewards row by row
    model = small_gmpg(arrays, critic="iql", pretraining_steps=5 if phase == "pretraining" else 0).learn(3)
    before = copy.deepcopy(model.policy.state_dict())
    if phase == "pretraining":
        model.replay_buffer.rewards.fill_(math.nan)
        match = r"in gradient step 4, critic_loss = nan"
    else:
        model.q_values = lambda observations, actions: th.full((len(actions),), math.inf)
        match = r"in gradient step 4, policy_loss = nan, q_value = inf"
    with pytest.raises(FloatingPointError, match=match):
        model.learn(1, reset_num_timesteps=False)
    assert same_state(before, dict(model.policy.state_dict()))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(gradient_estimator="reinforce_softmx"), ValueError, "Did you mean 'reinforce_softmax'"),
        (dict(kl_estimator="discret"), ValueError, "Did you mean 'discrete'"),
        (dict(gradient_estimator="detached", kl_estimator="path"), ValueError, "belongs to kl_estimator='ode'"),
        (dict(gradient_estimator="adjoint", kl_estimator="discrete"), ValueError, "leave kl_estimator out, or give PathKL"),
        (dict(gradient_estimator="adjoint", adjoint="leen"), ValueError, "Did you mean 'lean'"),
        (dict(adjoint="scalar"), ValueError, "is an option of gradient_estimator='adjoint', and here it is 'pathwise'"),
        (dict(gradient_estimator="reinforce_softmax", n_actions=1), ValueError, "n_actions must be 2 or more"),
        (dict(target_kl=0.0), ValueError, "target_kl must be a number > 0"),
        (dict(target_kl=1.0, beta=0.0), ValueError, "must start above 0"),
        (dict(target_kl=1.0, gradient_estimator="matching"), ValueError, "has no KL divergence"),
        (dict(max_grad_norm=0.0), ValueError, "max_grad_norm must be a number > 0"),
        (dict(pretraining_steps=-1), ValueError, "pretraining_steps must be a number >= 0"),
        (dict(betta=1.0), TypeError, "GMPG has no option 'betta'. Did you mean 'beta'"),
    ],
)
def test_bad_options_are_named(arrays, kwargs, error, message):
    with pytest.raises(error, match=message):
        GMPG("FlowPolicy", dataset=arrays, **kwargs)
