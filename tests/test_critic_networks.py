"""
Several critics in one product against networks of torch's own layers, and how their values become one against numpy.
"""

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_genpolicy.common.policies.critics import IQLCritic, OneStepCritic, PolicyCritic
from sb3_genpolicy.common.policies.critics.aggregation import aggregate
from sb3_genpolicy.common.policies.critics.layers import BatchedLayerNorm
from tests.helpers.critics import copy_into, make_q, make_v
from tests.helpers.tqc import update_tqc

# Fewer rows are computed by one product for all networks, more by one for each
ROWS = [1, 7, 3000]


def assert_close(ours, theirs):
    """Up to rounding, by products in another order."""
    th.testing.assert_close(ours, theirs, rtol=1e-4, atol=5e-5)


def plain_network(n_in, n_out=1, layer_norm=True, net_arch=(16, 8)):
    """Of torch's layers, with norms that scale and shift."""
    layers = []
    for width in net_arch:
        layers += [nn.Linear(n_in, width), nn.ReLU(), *([nn.LayerNorm(width)] if layer_norm else [])]
        n_in = width
    network = nn.Sequential(*layers, nn.Linear(n_in, n_out))
    for layer in network:
        if isinstance(layer, nn.LayerNorm):
            nn.init.normal_(layer.weight, 1.0, 0.5)
            nn.init.normal_(layer.bias)
    return network


def rows_of(n_rows, obs_dim=5, action_dim=2):
    return th.randn(n_rows, obs_dim), 2.0 * th.rand(n_rows, action_dim) - 1.0


def critic_and_networks(options, n_out=1, **kwargs):
    """An ensemble for 5 observations and 2 actions, and the networks that it holds."""
    th.manual_seed(0)
    networks = [plain_network(7, n_out, options.layer_norm, **kwargs) for _ in range(options.n_critics)]
    return copy_into(make_q(options, 5, 2, **kwargs), networks), networks


# Layers


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("n_critics", [1, 2, 5])
def test_critics_with_layer_norm_are_networks_of_torchs_layers(n_critics, n_rows):
    """Values, and the gradient of every parameter and of the actions."""
    critic, networks = critic_and_networks(OneStepCritic(relative_actions=False, advantage=False, n_critics=n_critics))
    assert len(critic.norms) == 2
    obs, actions = rows_of(n_rows)
    ours, theirs = (actions.clone().requires_grad_() for _ in range(2))
    values = critic.values(obs, ours)
    expected = th.stack([network(th.cat([obs, theirs], dim=1)) for network in networks])
    assert_close(values, expected)
    assert_close(th.stack(critic(obs, actions)), expected)
    weights = th.arange(1.0, n_critics + 1.0)[:, None, None]
    for each in (values, expected):
        (weights * each.square()).mean().backward()
    assert_close(ours.grad, theirs.grad)
    for member, network in enumerate(networks):
        for kind, batched in ((nn.Linear, critic.layers), (nn.LayerNorm, critic.norms)):
            for mine, layer in zip(batched, [each for each in network if isinstance(each, kind)], strict=True):
                assert_close(mine.weight.grad[member], layer.weight.grad.t().reshape(mine.weight[member].shape))
                assert_close(mine.bias.grad[member, 0], layer.bias.grad)


def test_a_new_norm_of_several_layers_only_normalises():
    x = 3.0 + 2.0 * th.randn(4, 6, 10)
    norm, expected = BatchedLayerNorm(4, 10), nn.LayerNorm(10)(x)
    assert_close(norm(x), expected)
    assert_close(th.stack([norm.of_one(member, x[member]) for member in range(4)]), expected)


@pytest.mark.parametrize("n_rows", ROWS)
def test_a_state_value_with_layer_norm_is_a_network_of_torchs_layers(n_rows):
    th.manual_seed(0)
    network = plain_network(5)
    value_net = make_v(OneStepCritic(relative_actions=False, advantage=False), 5)
    value_net.value_net.load_state_dict(network.state_dict())
    obs = rows_of(n_rows)[0]
    values, expected = value_net(obs), network(obs)
    assert values.shape == (n_rows, 1)
    assert_close(values, expected)
    for each in (values, expected):
        each.square().mean().backward()
    for mine, theirs in zip(value_net.value_net.parameters(), network.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad)


def test_published_critics_have_no_norms():
    critic, networks = critic_and_networks(IQLCritic())
    obs, actions = rows_of(9)
    assert_close(critic.values(obs, actions)[1], networks[1](th.cat([obs, actions], dim=1)))
    assert not any(isinstance(layer, nn.LayerNorm) for layer in make_v(IQLCritic(), 5).modules())


def test_critics_without_hidden_layers():
    critic, networks = critic_and_networks(OneStepCritic(relative_actions=False, advantage=False), net_arch=())
    obs, actions = rows_of(9)
    assert_close(critic.values(obs, actions)[1], networks[1](th.cat([obs, actions], dim=1)))
    assert make_v(OneStepCritic(relative_actions=False, advantage=False), 5, net_arch=())(obs).shape == (9, 1)


# Quantiles


@pytest.mark.parametrize("n_rows", ROWS)
def test_values_are_the_means_of_quantiles(n_rows):
    critic, networks = critic_and_networks(
        OneStepCritic(relative_actions=False, advantage=False, n_critics=3, n_quantiles=6), n_out=6
    )
    obs, actions = rows_of(n_rows)
    quantiles, values = critic.quantiles(obs, actions), critic.values(obs, actions)
    assert quantiles.shape == (3, n_rows, 6) and values.shape == (3, n_rows, 1)
    assert_close(quantiles, th.stack([network(th.cat([obs, actions], dim=1)) for network in networks]))
    np.testing.assert_allclose(values[..., 0].detach(), quantiles.detach().numpy().mean(axis=-1), rtol=1e-4, atol=1e-6)
    assert_close(critic.q1_forward(obs, actions), values[0])
    assert critic.pooled_quantiles(obs, actions).shape == (n_rows, 18)


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("dropped", [1, 3])
def test_the_largest_of_all_quantiles_are_left_out(dropped, n_rows):
    """Of all networks pooled: one network may lose all of its own, another none."""
    critic, _ = critic_and_networks(
        OneStepCritic(relative_actions=False, advantage=False, n_critics=3, n_quantiles=4, dropped_quantiles=dropped), n_out=4
    )
    critic.layers[-1].bias.data[1] += 0.5
    obs, actions = rows_of(n_rows)
    q_values = critic.q_values(obs, actions)
    quantiles = critic.quantiles(obs, actions).detach().numpy()
    for row in range(0, n_rows, max(1, n_rows // 50)):
        smallest = sorted(quantiles[:, row].flatten().tolist())[: 12 - 3 * dropped]
        assert q_values[row].item() == pytest.approx(np.mean(smallest), rel=1e-4, abs=1e-5)


def test_pooled_quantiles_are_those_that_tqc_bootstraps_from(monkeypatch):
    """Without rewards, ends and discount, they are TQC's targets."""
    update = update_tqc(monkeypatch, rewards=th.zeros(10), dones=th.zeros(10), gamma=1.0)
    options = PolicyCritic(n_critics=3, n_quantiles=5, dropped_quantiles=2, layer_norm=False)
    critic = copy_into(make_q(options, 3, 2), update.target_networks)
    ours = critic.pooled_quantiles(update.samples.next_observations, update.next_actions)
    assert ours.shape == (10, 9)
    assert_close(ours, update.targets)


# Several values to one


@pytest.mark.parametrize("shape", [(2, 6, 1), (5, 6, 1), (5, 3, 4)])
def test_several_values_become_one_as_numpy_has_it(shape):
    values = np.random.default_rng(0).normal(size=shape)
    expected = {
        "minimum": values.min(axis=0),
        "mean": np.mean(values, axis=0),
        "lower_bound": np.mean(values, axis=0) - 0.7 * np.std(values, axis=0),
    }
    for name, one in expected.items():
        np.testing.assert_allclose(aggregate(th.tensor(values), name, 0.7), one, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("n_rows", ROWS)
def test_q_is_aggregated_as_the_options_say(n_rows):
    obs, actions = rows_of(n_rows)
    for n_quantiles in (None, 4):
        options = dict(n_critics=4, n_quantiles=n_quantiles)
        for aggregation, by_numpy in (
            ("minimum", lambda values: values.min(axis=0)),
            ("mean", lambda values: values.mean(axis=0)),
            ("lower_bound", lambda values: values.mean(axis=0) - 2.0 * values.std(axis=0)),
        ):
            critic, _ = critic_and_networks(
                OneStepCritic(relative_actions=False, advantage=False, aggregation=aggregation, rho=2.0, **options),
                n_quantiles or 1,
            )
            expected = by_numpy(critic.values(obs, actions).detach().numpy())
            q_values = critic.q_values(obs, actions).detach()
            assert q_values.shape == (n_rows, 1)
            np.testing.assert_allclose(q_values, expected, rtol=1e-4, atol=1e-5)


def test_a_lower_bound_of_networks_that_agree_has_a_gradient():
    """Finite, and that of the mean: the networks are equal in two of three columns."""
    values = th.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 3.0]], requires_grad=True)
    bound = aggregate(values, "lower_bound", 1.0)
    np.testing.assert_allclose(bound.detach(), [1.0, 0.0, 1.0], atol=1e-5)
    bound.sum().backward()
    # Where they differ, the lower one of two lies one deviation below the mean
    np.testing.assert_allclose(values.grad, [[0.5, 0.5, 1.0], [0.5, 0.5, 0.0]], atol=1e-5)


# Precision


@pytest.mark.parametrize("n_rows", [7, 3000])
@pytest.mark.parametrize("n_quantiles", [None, 4])
def test_values_keep_their_digits_in_half_precision(n_quantiles, n_rows):
    options = OneStepCritic(
        relative_actions=False, advantage=False, n_critics=3, n_quantiles=n_quantiles, aggregation="lower_bound"
    )
    critic, _ = critic_and_networks(options, n_quantiles or 1)
    value_net = make_v(options, 5)
    obs, actions = rows_of(n_rows)
    functions = [critic.values, critic.quantiles, critic.q_values, critic.pooled_quantiles, lambda obs, _: value_net(obs)]
    for function in functions:
        exact = function(obs, actions)
        with th.autocast("cpu", th.bfloat16):
            rounded = function(obs, actions)
        assert rounded.dtype == th.float32 and rounded.shape == exact.shape
        assert not th.equal(rounded, exact)
        assert (rounded - exact).abs().mean() < 0.05 * exact.std()
        # The last layer is not computed in 8 bits
        assert not th.equal(rounded.bfloat16().float(), rounded)
