"""
Models whose every prediction is known in closed form, and other routes to the values that tests check.
"""

import math

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn


class GaussianMixture(nn.Module):
    """
    What a perfect network says when the data are a mixture of isotropic Gaussians.

    :param means: (n_components, dim)
    :param stds: (n_components,)
    """

    def __init__(self, path, prediction, means, stds, weights=None):
        super().__init__()
        self.path, self.prediction = path, prediction
        self.means, self.stds = (th.as_tensor(value, dtype=th.float64) for value in (means, stds))
        self.weights = th.ones(len(self.stds), dtype=th.float64) / len(self.stds) if weights is None else th.as_tensor(weights)

    def _log_components(self, x, scale, variances):
        squares = (x[:, None] - scale * self.means.to(x)).square().sum(dim=2)
        logs = -0.5 * squares / variances - 0.5 * x.shape[1] * th.log(2 * math.pi * variances)
        return logs + self.weights.to(x).log()

    def log_density(self, x):
        return th.logsumexp(self._log_components(x, 1.0, self.stds.to(x) ** 2), dim=1)

    def draw(self, n, generator=None):
        kinds = th.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = th.randn((n, self.means.shape[1]), generator=generator, dtype=th.float64)
        return self.means[kinds] + self.stds[kinds, None] * noise

    def forward(self, t, x, condition=None):
        alpha, sigma, d_alpha, d_sigma = self.path(t)
        stds, means = self.stds.to(x), self.means.to(x)
        variances = (alpha * stds) ** 2 + sigma**2
        shares = th.softmax(self._log_components(x, alpha[..., None], variances), dim=1)[:, :, None]
        from_means = (x[:, None] - alpha[..., None] * means) / variances[..., None]
        noise = (shares * sigma[..., None] * from_means).sum(dim=1)
        data = (shares * (means + alpha[..., None] * stds[:, None] ** 2 * from_means)).sum(dim=1)
        if self.prediction == "velocity":
            return d_alpha * data + d_sigma * noise
        score = -(shares * from_means).sum(dim=1)
        return {"noise": noise, "score": score, "data": data}[self.prediction]


def gaussian(path, prediction, mean=0.2, std=0.1, dim=1):
    """A perfect network for data of N(mean, std^2 I)."""
    return GaussianMixture(path, prediction, [[mean] * dim], [std])


def central_difference(function, x, h=1e-5):
    """
    Gradient of the sum of ``function`` in every entry of ``x``, by differences, in place of backpropagation.
    """
    gradient = th.zeros_like(x)
    with th.no_grad():
        for index in range(x.numel()):
            steps = []
            for sign in (1.0, -1.0):
                moved = x.detach().clone()
                moved.view(-1)[index] += sign * h
                steps.append(function(moved).sum())
            gradient.view(-1)[index] = (steps[0] - steps[1]) / (2 * h)
    return gradient


def assert_rows_are_pendulums(data, rows):
    """The environment, set to a row's state, gives the row's reward and next observation."""
    env = gym.make("Pendulum-v1").unwrapped
    next_observations = data.next_observations
    for row in rows:
        cos, sin, velocity = data.observations[row]
        env.reset()
        env.state = np.array([np.arctan2(sin, cos), velocity], dtype=np.float64)
        following, reward, *_ = env.step(data.actions[row])
        assert (np.abs(data.actions[row]) <= 2.0).all()
        np.testing.assert_allclose(data.rewards[row], reward, atol=1e-3)
        np.testing.assert_allclose(next_observations[row], following, atol=1e-4)


def directional_difference(function, parameter, direction, step=1e-5):
    values = []
    for sign in (1.0, -1.0):
        parameter.data.add_(sign * step * direction)
        values.append(function().item())
        parameter.data.sub_(sign * step * direction)
    return (values[0] - values[1]) / (2 * step)
