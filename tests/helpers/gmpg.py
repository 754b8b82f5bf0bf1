"""
Small GMPG models, and the linear-Gaussian problem, whose optimum is known.
"""

import torch as th
from torch import nn

from sb3_genpolicy import GMPG
from sb3_genpolicy.common.updates.batch import Batch
from sb3_genpolicy.generative import GenerativeModel, LinearPath
from sb3_genpolicy.generative.kl import Conditioned, Draws
from sb3_genpolicy.gmpg.losses import pathwise_loss
from tests.helpers.arrays import SMALL
from tests.helpers.closed_forms import GaussianMixture


def small_gmpg(dataset, policy="FlowPolicy", **kwargs):
    options = {"pretraining_steps": 10, **kwargs}
    return GMPG(policy, dataset=dataset, policy_kwargs={**SMALL, **options.pop("policy_kwargs", {})}, seed=0, **options)


def small_batch(model, dtype=th.float64):
    """Rows of three observations and two actions; further draws are the model's."""
    generator = th.Generator().manual_seed(1)
    observations = th.randn(5, 3, generator=generator, dtype=dtype)
    actions = th.rand(5, 2, generator=generator, dtype=dtype) - 0.5
    nothing = th.zeros(5, 1, dtype=dtype)
    return Batch(observations, actions, observations, nothing, nothing, None, th.arange(5), model.generator)


MEAN, STD = -0.466, 1.350


class LinearField(nn.Module):
    """The behaviour policy's field plus a correction that is linear in x, its coefficients linear in time between nodes."""

    def __init__(self, nodes=9):
        super().__init__()
        self.behaviour = GaussianMixture(LinearPath(), "velocity", [[MEAN]], [STD])
        self.coefficients = nn.Parameter(th.zeros(nodes, 2, dtype=th.float64))

    def forward(self, t, x, condition):
        at = t.reshape(-1) * (len(self.coefficients) - 1)
        left = at.long().clamp(max=len(self.coefficients) - 2)
        share = (at - left)[:, None]
        slope = (1 - share) * self.coefficients[left] + share * self.coefficients[left + 1]
        return self.behaviour(t, x, condition) + slope[:, :1] * x + slope[:, 1:]

    def begin_at(self, mean, std):
        """The field of N(mean, std^2) at the nodes."""
        t = th.linspace(0, 1, len(self.coefficients), dtype=th.float64)
        (slope, offset), (slope_before, offset_before) = (
            _gaussian_field(t, *moments) for moments in ((mean, std), (MEAN, STD))
        )
        self.coefficients.data = th.stack([slope - slope_before, offset - offset_before], dim=1)


def _gaussian_field(t, mean, std):
    """Slope and offset of the velocity on the linear path."""
    slope = (t * std**2 - (1 - t)) / ((t * std) ** 2 + (1 - t) ** 2)
    return slope, mean * (1 - t * slope)


def settle(estimator, beta, sampler, iterations=100, rows=31, start=(MEAN, STD)):
    """Where the pathwise loss with Q = -(a - 1)^2 / 2 settles, from N(start), by default the behaviour, on a grid of noise."""
    path = LinearPath()
    share = (th.arange(rows, dtype=th.float64) + 0.5) / rows
    noise = th.special.ndtri(share)[:, None]
    noise /= noise.std(correction=0)
    policy = GenerativeModel(LinearField(), path, "velocity", 1, data_bound=None)
    network = GaussianMixture(path, "velocity", [[MEAN]], [STD])
    behaviour = GenerativeModel(network, path, "velocity", 1, data_bound=None)
    nothing = th.zeros(rows, 0)
    policy.network.begin_at(*start)
    optimizer = th.optim.Adam(policy.parameters(), 0.05)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    generator = th.Generator().manual_seed(0)
    for _ in range(iterations):
        sample = estimator.of_samples(
            Conditioned(policy, nothing), Conditioned(behaviour, nothing), Draws(noise, sampler, generator)
        )
        loss = pathwise_loss(sample, -beta * (sample.x1[:, 0] - 1.0).square() / 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with th.no_grad():
        ends = policy.sample(th.zeros(2, 0), th.tensor([[0.0], [1.0]], dtype=th.float64), sampler)
    return ends[0].item(), (ends[1] - ends[0]).item()
