"""
GMPO's beta where a divergence is asked for: that of normal advantages in closed form, and what training comes to.
"""

import math

import numpy as np
import pytest
import torch as th
from scipy.stats import entropy

from sb3_genpolicy import GMPO, IQLCritic
from sb3_genpolicy.common.updates.temperature import change_towards, changed
from sb3_genpolicy.common.updates.weights import effective_sample_size, exponential_weights, kl_from_uniform
from tests.helpers.arrays import make_arrays

TINY = dict(net_arch=[16])


def test_what_weights_take_from_the_data_is_a_relative_entropy():
    weights = th.rand(200, generator=th.Generator().manual_seed(0)) * 30.0
    shares = weights.numpy() / weights.numpy().sum()
    assert kl_from_uniform(weights).item() == pytest.approx(entropy(shares, np.full(200, 1 / 200)), rel=1e-4)
    # One that counts alone, rows that count nothing, and equal ones
    assert kl_from_uniform(th.tensor([0.0, 0.0, 5.0, 0.0])).item() == pytest.approx(math.log(4.0))
    assert kl_from_uniform(th.full((7,), 3.0)).item() == pytest.approx(0.0, abs=1e-6)
    # Where all weights vanish beta has to fall, and there are numbers to go on with
    nothing = th.zeros(4)
    assert kl_from_uniform(nothing) > math.log(4.0) and change_towards(0.5, kl_from_uniform(nothing)) < 0.0
    assert effective_sample_size(nothing) == 0.0


@pytest.mark.parametrize("deviation", [0.03, 1.0, 40.0])
@pytest.mark.parametrize("target", [0.1, 0.5])
def test_beta_finds_what_gives_normal_advantages_the_divergence(deviation, target):
    advantages = deviation * th.randn(200_000, generator=th.Generator().manual_seed(1))
    log_beta = th.zeros(())
    for _ in range(1500):
        rows = th.randint(len(advantages), (1024,))
        weights = exponential_weights(advantages[rows], log_beta.exp(), 1e6)
        changed(log_beta, change_towards(target, kl_from_uniform(weights)))
    assert log_beta.exp().item() == pytest.approx(math.sqrt(2.0 * target) / deviation, rel=0.12)


def test_beta_stays_finite_where_nothing_tells_actions_apart():
    log_beta = th.zeros(())
    for _ in range(5000):
        changed(log_beta, change_towards(0.5, kl_from_uniform(exponential_weights(th.zeros(8), log_beta.exp(), 100.0))))
    assert log_beta.item() == 20.0 and log_beta.exp().isfinite()


@pytest.fixture(scope="module")
def cloned():
    """With critics that are worth something, of a reward that is the action."""
    arrays = make_arrays()
    arrays["rewards"] = arrays["actions"][:, 0].astype(np.float32)
    options = dict(dataset=arrays, policy_kwargs=TINY, seed=0, batch_size=64, learning_rate=1e-2, reward_transform=None)
    return arrays, GMPO("FlowPolicy", beta=0.0, critic=IQLCritic(gamma=0.5), **options).learn(200)


def weights_of(model, arrays):
    observations = th.as_tensor(arrays["observations"], dtype=th.float32)
    actions = th.as_tensor(model.policy.scale_action(arrays["actions"]), dtype=th.float32)
    with th.no_grad():
        advantage = model.critic_target.q_values(observations, actions) - model.value_net(observations)
        return model.advantage_weights(model.horizon_ratio * advantage)


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_gmpo_holds_the_divergence_wherever_beta_starts(cloned, start):
    arrays, pretrained = cloned
    options = dict(dataset=arrays, policy_kwargs=TINY, seed=0, batch_size=64, reward_transform=None, pretrained=pretrained)
    model = GMPO("FlowPolicy", target_kl=0.4, beta=start, **options)
    means = []
    objective = model.objective
    model.objective = lambda batch: means.append(objective(batch)) or means[-1]
    model.learn(1200)
    kl = np.array([each.means["weight_kl"].item() for each in means])
    assert abs(kl[0] - 0.4) > 0.2 and kl[-300:].mean() == pytest.approx(0.4, rel=0.1)
    assert kl_from_uniform(weights_of(model, arrays)).item() == pytest.approx(0.4, rel=0.25)
    assert means[-1].means["beta"].item() == pytest.approx(model.current_beta.item(), rel=0.03)
    assert 0.2 < effective_sample_size(weights_of(model, arrays)).item() < 0.8


def test_where_beta_has_come_to_is_saved(cloned, tmp_path):
    arrays, pretrained = cloned
    options = dict(policy_kwargs=TINY, seed=0, batch_size=64, reward_transform=None)
    model = GMPO("FlowPolicy", target_kl=0.4, dataset=arrays, pretrained=pretrained, **options).learn(40)
    model.save(tmp_path / "model")
    again = GMPO.load(tmp_path / "model")
    assert again.target_kl == 0.4 and again.log_beta.item() == model.log_beta.item() != 0.0
    again.learn(20, dataset=arrays, reset_num_timesteps=False)
    model.learn(20, reset_num_timesteps=False)
    assert again.log_beta.item() == model.log_beta.item()


def test_a_softmax_over_actions_holds_it_too():
    arrays = make_arrays()
    options = dict(dataset=arrays, policy_kwargs=TINY, seed=0, batch_size=32, pretraining_steps=30, learning_rate=1e-2)
    model = GMPO("FlowPolicy", weighting="softmax", n_actions=4, target_kl=0.2, **options).learn(30)
    assert model.log_beta.item() == 0.0
    values = []
    objective = model.objective
    model.objective = lambda batch: values.append(objective(batch)) or values[-1]
    model.learn(1000, reset_num_timesteps=False)
    kl = np.array([each.means["weight_kl"].item() for each in values])
    assert kl[-200:].mean() == pytest.approx(0.2, rel=0.15) and model.log_beta.item() != 0.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(target_kl=0.0), "target_kl must be a number > 0"),
        (dict(target_kl=-1.0), "target_kl must be a number > 0"),
        (dict(target_kl=0.5, beta=0.0), "must start above 0"),
    ],
)
def test_a_divergence_that_cannot_be_held_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        GMPO("FlowPolicy", dataset=make_arrays(), **options)
