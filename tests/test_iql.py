"""
IQL: the weighted likelihood of a Gaussian policy, and its critics.
"""

import numpy as np
import pytest
import torch as th
from scipy import optimize, stats

from sb3_genpolicy import BC, IQL, IQLCritic, OneStepCritic, learn_side_by_side
from sb3_genpolicy.common.updates.batch import Batch
from tests.helpers.arrays import SMALL, make_arrays, one_step_data


def options(**others):
    return dict(dict(policy_kwargs=SMALL, seed=0, batch_size=8, dataset=make_arrays()), **others)


def test_the_default_is_the_published_critic():
    model = IQL("GaussianPolicy", **options())
    assert model.critic_options == IQLCritic(expectile=0.7) and (model.beta, model.weight_clamp) == (3.0, 100.0)
    assert IQL("MlpPolicy", expectile=0.9, **options()).expectile == 0.9


def test_a_policy_converges_to_the_weighted_likelihood_s_optimum(monkeypatch):
    """With advantages that are known, by scipy's optimizer."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, size=(256, 1)).astype(np.float32)
    of_action = 1.0 - 6.0 * (actions - 0.3) ** 2
    weights = np.minimum(np.exp(1.5 * of_action), 1.0)
    assert (weights == 1.0).mean() > 0.3

    def loss(parameters):
        location, scale = np.tanh(parameters[0]), np.exp(parameters[1])
        ends = (-1.0 - location) / scale, (1.0 - location) / scale
        return -(weights * stats.truncnorm.logpdf(actions, *ends, loc=location, scale=scale)).mean()

    best = optimize.minimize(loss, [0.1, -0.5], method="Nelder-Mead")
    data = dict(one_step_data(actions, np.zeros(256)), action_space=make_arrays(action_dim=1)["action_space"])
    known = options(dataset=data, batch_size=256, learning_rate=3e-3, reward_transform=None)
    known["policy_kwargs"] = dict(SMALL, normalize_actions=False)
    model = IQL("GaussianPolicy", beta=1.5, weight_clamp=1.0, **known)
    losses = type(model.critics).losses

    def with_known_advantages(self, batch: Batch, gamma):
        return losses(self, batch, gamma)._replace(advantage=1.0 - 6.0 * (batch.actions - 0.3) ** 2)

    monkeypatch.setattr(type(model.critics), "losses", with_known_advantages)
    model.learn(500)
    ours = -model.policy.log_prob(np.zeros((256, 1), np.float32), actions).double().detach().numpy()
    assert (weights[:, 0] * ours).mean() == pytest.approx(best.fun, abs=0.02)
    assert model.predict(np.zeros(1, np.float32), deterministic=True)[0].item() == pytest.approx(np.tanh(best.x[0]), abs=0.05)
    assert model.actor_ema.deviation.item() == pytest.approx(np.exp(best.x[1]), rel=0.1)


def test_at_beta_zero_it_clones():
    clone, weighted = BC("GaussianPolicy", **options()).learn(5), IQL("GaussianPolicy", beta=0.0, **options()).learn(5)
    for mine, expected in zip(weighted.actor.parameters(), clone.actor.parameters(), strict=True):
        th.testing.assert_close(mine, expected)


def test_it_learns_which_action_pays():
    actions = np.random.default_rng(0).choice([-0.6, 0.6], size=(400, 1))
    data = one_step_data(actions, (actions[:, 0] > 0).astype(float))
    paid = options(dataset=data, batch_size=64, reward_transform=None, learning_rate=3e-3)
    modes = [
        IQL("GaussianPolicy", beta=beta, **paid).learn(300).predict(np.zeros(1, np.float32), deterministic=True)[0].item()
        for beta in (0.0, 10.0)
    ]
    assert abs(modes[0]) < 0.2 and modes[1] > 0.45


def test_files_resume_bit_for_bit(tmp_path):
    model = IQL("GaussianPolicy", beta=2.0, **options()).learn(4)
    model.save(tmp_path / "model")
    loaded = IQL.load(tmp_path / "model")
    assert loaded.beta == 2.0
    for goes_on in (model, loaded):
        goes_on.learn(4, reset_num_timesteps=False, dataset=make_arrays())
    for mine, expected in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(mine, expected)
    assert IQL.load(tmp_path / "model", expectile=0.9).expectile == 0.9


def test_side_by_side_it_is_what_it_is_alone():
    def models():
        return [IQL("GaussianPolicy", beta=beta, **options(seed=seed)) for seed, beta in ((0, 1.0), (1, 3.0))]

    together, alone = learn_side_by_side(models(), 5), [model.learn(5) for model in models()]
    for mine, expected in zip(together, alone, strict=True):
        for parameter, other in zip(mine.policy.parameters(), expected.policy.parameters(), strict=True):
            th.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-6)


def test_it_goes_on_online():
    model = IQL("GaussianPolicy", "Pendulum-v1", **options(dataset="pendulum-mixed")).learn(3).learn_online(12)
    assert model.num_timesteps == 15 and model.replay_buffer.n_added == 12


def test_other_critics_and_policies():
    assert IQL("GaussianPolicy", critic="onestep", **options()).learn(2).critic_options == OneStepCritic()
    with pytest.raises(
        ValueError, match="critic='policy' is of the policy's own actions, and IQL does not say what these are"
    ):
        IQL("GaussianPolicy", critic="policy", **options())
    with pytest.raises(ValueError, match="Policy 'FlowPolicy' is unknown."):
        IQL("FlowPolicy", **options())
