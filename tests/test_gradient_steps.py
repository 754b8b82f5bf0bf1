"""
What a gradient step consists of gives the same numbers as the plain way to write it.
"""

import copy

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import polyak_update
from torch import nn

from sb3_genpolicy.common.policies.critics import CriticEnsemble, IQLCritic
from sb3_genpolicy.common.updates.averages import update_averages
from sb3_genpolicy.common.updates.device_means import DeviceMeans

OBSERVATIONS, ACTIONS = spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,))


# Twin critics


def make_critic(critic_class, seed, **kwargs):
    th.manual_seed(seed)
    extractor = FlattenExtractor(OBSERVATIONS)
    return critic_class(OBSERVATIONS, ACTIONS, [16, 8], extractor, 5, share_features_extractor=False, **kwargs)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("n_critics", [1, 2, 3])
@pytest.mark.parametrize("n_rows", [1, 7, 3000])
def test_a_batch_of_critics_is_sb3_s_critic_of_the_same_seed(activation, n_critics, n_rows):
    """Values, and the gradient of every parameter."""
    ours = make_critic(CriticEnsemble, 3, activation_fn=activation, options=IQLCritic(n_critics=n_critics))
    theirs = make_critic(ContinuousCritic, 3, activation_fn=activation, n_critics=n_critics)
    obs, actions = th.randn(n_rows, 5), th.randn(n_rows, 2)
    expected = theirs(obs, actions)
    th.testing.assert_close(ours(obs, actions), expected)
    th.testing.assert_close(ours.q1_forward(obs, actions), expected[0])
    th.testing.assert_close(ours.values(obs, actions), th.stack(expected))
    for values in (ours(obs, actions), expected):
        sum((n + 1) * value.square().mean() for n, value in enumerate(values)).backward()
    for n, q_network in enumerate(theirs.q_networks):
        for layer, linear in zip(ours.layers, q_network[::2], strict=True):
            th.testing.assert_close(layer.weight.grad[n].T, linear.weight.grad)
            th.testing.assert_close(layer.bias.grad[n, 0], linear.bias.grad)


# Averages


@pytest.mark.parametrize("rate", [0.0, 0.005, 0.3, 1.0])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_averages_follow_as_sb3_s_targets_do(rate, as_tensor):
    networks = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(2)]
    ours, theirs = (copy.deepcopy(networks) for _ in range(2))
    update_averages(list(ours[0].parameters()), list(ours[1].parameters()), th.tensor(rate) if as_tensor else rate)
    polyak_update(theirs[1].parameters(), theirs[0].parameters(), rate)
    for mine, expected in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        th.testing.assert_close(mine, expected)
    update_averages([], [], rate)


# Means for the log


def test_means_are_over_what_was_added_since_the_last_look():
    means = DeviceMeans()
    for value in (1.0, 3.0):
        means.add(loss=th.tensor(value), many=th.tensor([value, -value]))
    means.add(late=th.tensor(5.0))
    popped = means.pop()
    assert popped["loss"] == 2.0 and popped["many"].tolist() == [2.0, -2.0] and popped["late"] == 5.0
    assert means.pop() == {}
    means.add(loss=th.tensor(7.0))
    assert means.pop() == {"loss": 7.0}


def test_what_was_added_stays_as_it_was():
    """A sum begins as a copy: the first value may be overwritten by the next step."""
    means, value = DeviceMeans(), th.tensor(2.0)
    means.add(loss=value)
    means.add(loss=th.tensor(4.0))
    assert value == 2.0 and means.pop() == {"loss": 3.0}
