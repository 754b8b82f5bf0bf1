"""
Matching losses, networks and time features of a generative model.
"""

import math

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_genpolicy.generative import (
    MATCHING_LOSSES,
    NETWORKS,
    PATHS,
    TIME_FEATURES,
    ConditionalMLP,
    CosinePath,
    GaussianFourierTimeFeatures,
    GenerativeModel,
    LinearPath,
    OptimalTransportCoupling,
    Sampler,
    SinusoidalTimeFeatures,
    UShapedMLP,
    VPPath,
)
from tests.helpers.closed_forms import gaussian

PAIRS = [(name, prediction) for name in PATHS for prediction in PATHS[name].predictions]


@pytest.mark.parametrize("loss", [None, *MATCHING_LOSSES])
@pytest.mark.parametrize(("name", "prediction"), PAIRS)
def test_loss_of_a_perfect_network_vanishes_where_data_are_one_point(name, prediction, loss):
    """Nothing is left to guess then, whatever is predicted and compared; one loss comes per sample."""
    path = PATHS[name]()
    network = gaussian(path, prediction, 0.5, 1e-9, dim=2)
    model = GenerativeModel(network, path, prediction, dim=2, matching_loss=loss)
    losses = model.matching_loss(th.full((200, 2), 0.5, dtype=th.float64), th.zeros(200, 0))
    assert losses.shape == (200,)
    assert losses.max() < 1e-9


@pytest.mark.parametrize(("name", "prediction"), PAIRS)
def test_flow_loss_of_a_perfect_network_is_the_variance_that_x_leaves(name, prediction):
    """For data N(m, s^2): Var(velocity) - Cov(velocity, x)^2 / Var(x), averaged over t."""
    path, std, n = PATHS[name](), 0.5, 1_000_000
    model = GenerativeModel(gaussian(path, prediction, 0.2, std), path, prediction, dim=1, matching_loss="flow")
    generator = th.Generator().manual_seed(0)
    data = 0.2 + std * th.randn((n, 1), generator=generator, dtype=th.float64)
    t = (th.arange(1_000_000, dtype=th.float64) + 0.5) / 1_000_000 * path.t_max
    alpha, sigma, d_alpha, d_sigma = path(t)
    covariance = d_alpha * alpha * std**2 + d_sigma * sigma
    remaining = (d_alpha * std) ** 2 + d_sigma**2 - covariance**2 / ((alpha * std) ** 2 + sigma**2)
    losses = model.matching_loss(data, th.zeros(n, 0), generator)
    assert losses.mean().item() == pytest.approx(remaining.mean().item(), rel=0.05)


@pytest.mark.parametrize("name", ["cosine", "vp"])
def test_likelihood_weighting_makes_the_excess_loss_the_kl_divergence(name):
    """
    A model of N(0.5, 0.3^2) under data of N(0.2, 0.3^2): the mean loss exceeds that of the right model by their KL divergence,
    0.3^2 / (2 0.3^2) = 0.5 nats.
    """
    path, n = PATHS[name](), 200_000
    generator = th.Generator().manual_seed(0)
    data = 0.2 + 0.3 * th.randn((n, 1), generator=generator, dtype=th.float64)
    means = []
    for mean in (0.2, 0.5):
        network = gaussian(path, "noise", mean, 0.3)
        model = GenerativeModel(network, path, "noise", dim=1, matching_loss="likelihood")
        means.append(model.matching_loss(data, th.zeros(n, 0), th.Generator().manual_seed(1)).mean().item())
    assert means[1] - means[0] == pytest.approx(0.5, abs=0.02)


def test_matching_loss_draws_from_its_generator_alone():
    path = LinearPath()
    model = GenerativeModel(gaussian(path, "velocity", dim=2), path, "velocity", dim=2)

    def loss(seed):
        return model.matching_loss(th.zeros(8, 2), th.zeros(8, 0), th.Generator().manual_seed(seed))

    state = th.get_rng_state()
    first = loss(3)
    assert th.equal(th.get_rng_state(), state)
    assert th.equal(first, loss(3)) and not th.equal(first, loss(4))


def test_the_coupling_pairs_noise_in_the_loss():
    """Data so far apart that transport pairs noise with them in order: a network that says so has no loss left."""
    data = th.linspace(-1.0, 1.0, 64)[:, None]

    class Ordered(nn.Module):
        """Knows the noise by the rank of the point that it moves to."""

        def forward(self, t, x, condition):
            return data - self.noise

    network = Ordered()
    model = GenerativeModel(network, LinearPath(), "velocity", 1, coupling=OptimalTransportCoupling())
    generator = th.Generator().manual_seed(0)
    th.rand((64, 1), generator=generator)
    network.noise = th.randn((64, 1), generator=generator).sort(dim=0).values
    assert model.matching_loss(data, th.zeros(64, 0), th.Generator().manual_seed(0)).max() < 1e-10


def test_unknown_loss_is_named():
    with pytest.raises(ValueError, match="matching_loss='flwo' is unknown. Did you mean 'flow'"):
        GenerativeModel(nn.Identity(), LinearPath(), "velocity", 1, matching_loss="flwo")


@pytest.mark.parametrize(
    ("path", "prediction", "loss", "coupling"),
    [
        (LinearPath(), "velocity", None, None),
        (LinearPath(), "data", None, None),
        (LinearPath(), "velocity", None, OptimalTransportCoupling()),
        (CosinePath(), "score", None, None),
        (VPPath(), "noise", "likelihood", None),
    ],
)
def test_a_network_learns_two_points(path, prediction, loss, coupling):
    """Data are +0.6 and -0.6, told by the condition or not: trained, samples land near them, in equal shares."""
    th.manual_seed(0)
    model = GenerativeModel(ConditionalMLP(1, 1, [64, 64]), path, prediction, 1, matching_loss=loss, coupling=coupling)
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(2000):
        signs = th.randint(0, 2, (128, 1)).float() * 2.0 - 1.0
        # Half of the conditions are silent
        condition = signs * (th.rand(128, 1) < 0.5)
        loss_value = model.matching_loss(0.6 * signs + 0.02 * th.randn(128, 1), condition).mean()
        optimizer.zero_grad()
        loss_value.backward()
        optimizer.step()
    with th.no_grad():
        told = model.sample(th.ones(500, 1), th.randn(500, 1), Sampler("midpoint", 20))
        untold = model.sample(th.zeros(500, 1), th.randn(500, 1), Sampler("midpoint", 20))
    assert (told - 0.6).abs().median() < 0.1
    assert (untold.abs() - 0.6).abs().median() < 0.12 and 0.35 < (untold > 0).float().mean() < 0.65


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("features", TIME_FEATURES)
@pytest.mark.parametrize("condition_dim", [0, 5])
def test_networks_see_point_time_and_condition(name, features, condition_dim):
    network = NETWORKS[name](2, condition_dim, [32, 16], nn.SiLU, TIME_FEATURES[features]())
    t, x, condition = th.rand(4, 1), th.randn(4, 2), th.randn(4, condition_dim)
    output = network(t, x, condition)
    assert output.shape == (4, 2)
    assert not th.allclose(network(t + 0.3, x, condition), output) and not th.allclose(network(t, x + 0.3, condition), output)
    assert condition_dim == 0 or not th.allclose(network(t, x, condition + 0.3), output)
    # One time for all is as good as one for each
    shared = network(t[:1], x, condition)
    np.testing.assert_allclose(shared.detach(), network(t[:1].expand(4, 1), x, condition).detach(), atol=1e-6)


def test_the_papers_network_has_the_papers_size():
    """1.6 million parameters at 512-256-128 with 17 observations and 6 actions."""
    network = UShapedMLP(6, 17, list(UShapedMLP.default_net_arch))
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(1.6e6, rel=0.03)
    assert isinstance(network.time_features, GaussianFourierTimeFeatures) and network.time_features.dim == 32


def test_time_features_are_sines_and_cosines_of_their_frequencies():
    t = th.tensor([[0.3]])
    slow = SinusoidalTimeFeatures(dim=4, max_frequency=4.0)(t)[0]
    expected = [f(2 * math.pi * turns * 0.3) for f in (math.sin, math.cos) for turns in (0.25, 4.0)]
    np.testing.assert_allclose(slow, expected, atol=1e-5)
    th.manual_seed(0)
    drawn = GaussianFourierTimeFeatures(dim=4000, scale=30.0)
    assert drawn.frequencies.std().item() == pytest.approx(2 * math.pi * 30, rel=0.05)
    # Drawn frequencies belong to the model, computed ones do not
    assert "frequencies" in drawn.state_dict() and "frequencies" not in SinusoidalTimeFeatures().state_dict()
