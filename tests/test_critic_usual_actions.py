"""
What is usually done in a state: learnt from agents whose mean and noise are known, and what networks are given then.
"""

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO, IQLCritic, OneStepCritic, PolicyCritic
from sb3_genpolicy.common.policies.critics.usual_action import UsualAction
from tests.helpers.arrays import make_arrays
from tests.helpers.critics import make_q

DEVIATIONS = th.tensor([0.06, 0.4])


def logged(n_rows, generator):
    """Of an agent that plays a function of the state, with noise of its own in each dimension."""
    states = th.randn(n_rows, 3, generator=generator)
    mean = th.stack([states[:, 0].tanh(), 0.5 * states[:, 1] * states[:, 2]], dim=1)
    return states, mean, mean + DEVIATIONS * th.randn(n_rows, 2, generator=generator)


@pytest.fixture(scope="module")
def learnt():
    th.manual_seed(0)
    generator = th.Generator().manual_seed(1)
    network = UsualAction(3, 2, [64, 64], th.nn.ReLU, layer_norm=True)
    optimizer = th.optim.Adam(network.parameters(), 3e-3)
    for _ in range(1500):
        states, _, actions = logged(256, generator)
        optimizer.zero_grad()
        network.losses(network(states), actions).mean().backward()
        optimizer.step()
    return network


def test_it_is_the_mean_and_the_deviation_of_what_was_logged(learnt):
    states, mean, actions = logged(4000, th.Generator().manual_seed(2))
    with th.no_grad():
        assert (learnt(states) - mean).square().mean().sqrt() < 0.08
        # Errors of the mean are part of it
        np.testing.assert_allclose(learnt.deviation, DEVIATIONS, rtol=0.4)
        relative = learnt.relative(learnt(states), actions)
    assert relative.mean(dim=0).abs().max() < 0.5
    np.testing.assert_allclose(relative.std(dim=0), 1.0, atol=0.15)
    noise = (actions - mean) / DEVIATIONS
    assert np.corrcoef(relative[:, 0], noise[:, 0])[0, 1] > 0.7 and np.corrcoef(relative[:, 1], noise[:, 1])[0, 1] > 0.95


def test_deviations_of_an_agent_without_noise_stay_above_zero():
    network = UsualAction(3, 2, [], th.nn.ReLU, layer_norm=False)
    states = th.randn(64, 3, generator=th.Generator().manual_seed(0))
    with th.no_grad():
        actions = network(states)
    optimizer = th.optim.Adam([network.log_deviation], 1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        network.losses(network(states), actions).mean().backward()
        optimizer.step()
    np.testing.assert_allclose(network.deviation.detach(), 0.01, rtol=0.2)
    assert network.relative(network(states), actions).abs().max() == 0.0


def test_q_is_of_how_far_actions_are_from_the_usual_one():
    """By a copy of the networks that is given it, and its gradient by finite differences."""
    th.manual_seed(0)
    options = OneStepCritic(advantage=False, n_critics=3)
    critic, plain = make_q(options, 5, 2), make_q(OneStepCritic(advantage=False, n_critics=3, relative_actions=False), 5, 2)
    plain.load_state_dict({k: v for k, v in critic.state_dict().items() if not k.startswith("usual_action")})
    with th.no_grad():
        critic.usual_action.log_deviation.copy_(th.tensor([-0.2, 0.03]))
    obs, actions = th.randn(9, 5), (2.0 * th.rand(9, 2) - 1.0).requires_grad_()
    deviations = np.exp([-2.0, 0.3])
    with th.no_grad():
        given = (actions - critic.usual_action(obs)) / th.tensor(deviations, dtype=th.float32)
    values = critic.values(obs, actions)
    th.testing.assert_close(values, plain.values(obs, given))
    gradient = th.autograd.grad(values.sum(), actions)[0]
    # What guides a policy
    slopes = critic.slopes(critic.features_of(obs), actions)
    of_mean = th.autograd.grad(critic.q_values(obs, actions).sum(), actions)[0]
    th.testing.assert_close(slopes, of_mean)
    of_given = given.clone().requires_grad_()
    expected = th.autograd.grad(plain.values(obs, of_given).sum(), of_given)[0].numpy() / deviations
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


def test_q_s_own_loss_leaves_the_usual_action_alone():
    th.manual_seed(0)
    critic = make_q(OneStepCritic(advantage=False), 5, 2)
    obs, actions = th.randn(9, 5), th.rand(9, 2)
    critic.values(obs, actions).sum().backward()
    assert all(parameter.grad is None for parameter in critic.usual_action.parameters())
    features = critic.features_of(obs)
    usual = critic.usual_actions(features)
    critic.usual_action.losses(usual, actions).mean().backward()
    assert all(parameter.grad is not None for parameter in critic.usual_action.parameters())
    th.testing.assert_close(critic.preferences_of_members(features, actions, usual), critic.values(obs, actions))


@pytest.mark.parametrize(
    "critic", [IQLCritic(relative_actions=True), OneStepCritic(), PolicyCritic(relative_actions=True)], ids=str
)
@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_every_critic_learns_it(algorithm, critic):
    arrays = make_arrays()
    options = dict(policy_kwargs=dict(net_arch=[16]), seed=0, batch_size=16, learning_rate=1e-2, tau=0.05)
    if algorithm is GMPG:
        options.update(pretraining_steps=200)
    model = algorithm("FlowPolicy", dataset=arrays, critic=critic, **options)

    def error(network):
        observations = th.as_tensor(arrays["observations"], dtype=th.float32)
        scaled = th.as_tensor(model.policy.scale_action(arrays["actions"]), dtype=th.float32)
        with th.no_grad():
            return (network.usual_action(network.features_of(observations)) - scaled).square().mean().item()

    model.learn(1)
    before = [error(network) for network in (model.critic, model.policy.critic_target)]
    model.learn(150)
    after = [error(network) for network in (model.critic, model.policy.critic_target)]
    assert after[0] < 0.7 * before[0] and after[1] < 0.9 * before[1]
