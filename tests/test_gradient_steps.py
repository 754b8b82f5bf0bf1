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
from sb3_genpolicy.common.policies.normalization import ObservationNormalizer
from sb3_genpolicy.common.updates.averages import update_averages
from sb3_genpolicy.common.updates.device_means import DeviceMeans
from sb3_genpolicy.common.updates.joint_step import step_all

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


# Optimizers


def networks_and_optimizers(rates=(1e-3, 1e-3, 3e-3), optimizer_class=th.optim.Adam, **options):
    th.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, n_out)) for n_out in (1, 2, 5)]
    return networks, [
        optimizer_class(network.parameters(), lr=rate, **options) for network, rate in zip(networks, rates, strict=True)
    ]


def after_steps(step, n_steps=4, change=lambda optimizers, index: None, **options):
    networks, optimizers = networks_and_optimizers(**options)
    inputs = th.randn(n_steps, 7, 3, generator=th.Generator().manual_seed(1))
    for index, rows in enumerate(inputs):
        change(optimizers, index)
        for network in networks:
            network.zero_grad()
            network(rows).square().sum().backward()
        step(optimizers)
    return [parameter for network in networks for parameter in network.parameters()], [o.state_dict() for o in optimizers]


def one_by_one(optimizers):
    for optimizer in optimizers:
        optimizer.step()


def halve_the_last(optimizers, index):
    optimizers[-1].param_groups[0]["lr"] = 1e-3 * 0.5**index


ADAMS = [
    dict(fused=True),
    dict(fused=True, weight_decay=0.1, betas=(0.5, 0.9)),
    dict(fused=True, amsgrad=True),
    dict(fused=False),
    dict(optimizer_class=th.optim.AdamW, fused=True),
]


@pytest.mark.parametrize("options", ADAMS)
@pytest.mark.parametrize("change", [lambda optimizers, index: None, halve_the_last])
def test_a_joint_step_is_that_of_every_optimizer_bit_for_bit(options, change):
    ours, theirs = (after_steps(step, change=change, **options) for step in (step_all, one_by_one))
    assert all(map(th.equal, ours[0], theirs[0]))
    for our_state, their_state in zip(ours[1], theirs[1], strict=True):
        assert our_state["param_groups"] == their_state["param_groups"]
        for index, moments in their_state["state"].items():
            assert all(th.equal(our_state["state"][index][name], value) for name, value in moments.items())


def test_plain_adams_of_one_rate_are_stepped_by_one_call(monkeypatch):
    calls = []
    fused = th._fused_adam_
    monkeypatch.setattr(th, "_fused_adam_", lambda *args, **options: calls.append(len(args[0])) or fused(*args, **options))
    after_steps(step_all, n_steps=3, fused=True)
    # The first step, in which each makes its moments; then those of one rate together, and the third
    assert calls == [4, 4, 4] + 2 * [8, 4]


def test_who_listens_to_a_step_is_still_called():
    heard = []

    def listen(optimizers, index):
        if index == 0:
            optimizers[1].register_step_post_hook(lambda *_: heard.append("hook"))
            th.optim.lr_scheduler.StepLR(optimizers[0], 1)
            theirs = optimizers[0].step
            optimizers[0].step = lambda: heard.append("step") or theirs()

    after_steps(step_all, n_steps=3, change=listen, rates=3 * [1e-3], fused=True)
    assert sorted(heard) == 3 * ["hook"] + 3 * ["step"]


# Observations


def test_observations_are_normalised_once_and_anew_where_they_were_written_to():
    normalizer = ObservationNormalizer(OBSERVATIONS)
    normalizer.parts[0].mean.fill_(2.0)
    rows = th.randn(3, 5)
    with normalizer.once():
        first = normalizer(rows)
        assert normalizer(rows) is first and normalizer(rows.clone()) is not first
        rows += 1.0
        assert th.equal(normalizer(rows), rows - 2.0)
        # As an extractor may, whose first layer works in place
        normalizer(rows).zero_()
        assert th.equal(normalizer(rows), rows - 2.0)
        given = rows.clone().requires_grad_()
        assert normalizer(given).requires_grad
    assert normalizer(rows) is not normalizer(rows)
