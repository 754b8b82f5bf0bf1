"""
A generative model is a path, a network and what the network predicts. To a solver every one is a velocity field.
"""

from typing import Literal

import torch as th
from torch import nn

from sb3_genpolicy.generative.paths import Path, PathCoefficients
from sb3_genpolicy.generative.solvers import odeint

Prediction = Literal["velocity", "noise"]
PREDICTIONS: tuple[Prediction, ...] = ("velocity", "noise")

# Smallest alpha and sigma that a noise prediction is divided by. The default VP path stays above, the cosine path does not
_ALPHA_FLOOR, _SIGMA_FLOOR = 5e-3, 1e-5


class GenerativeModel(nn.Module):
    """
    A model of p(x | condition) over points of a bounded box.

    :param network: module of (t, x, condition), see :class:`~sb3_genpolicy.generative.networks.ConditionalMLP`
    :param path: the path between noise and data
    :param prediction: what the network predicts: the ``velocity`` d_alpha x_1 + d_sigma x_0 (flow matching),
        or the ``noise`` x_0 (score matching)
    :param dim: dimension of the points
    :param data_bound: the data lie in [-data_bound, data_bound]. A noise prediction implies an estimate of the data,
        (x - sigma noise) / alpha, that blows up where alpha vanishes; it is clamped to this box,
        which an exact model never leaves.
    """

    def __init__(self, network: nn.Module, path: Path, prediction: Prediction, dim: int, data_bound: float = 1.0):
        super().__init__()
        self.network = network
        self.path = path
        self.prediction = prediction
        self.dim = dim
        self.data_bound = data_bound

    def velocity(self, t: th.Tensor, x: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """
        The velocity field of the probability flow.

        :param t: times in [0, 1], (batch_size, 1)
        :param x: points, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :return: velocity, (batch_size, dim)
        """
        output = self.network(t, x, condition)
        if self.prediction == "velocity":
            return output
        return self._velocity_from_noise(self.path(t), x, output)

    def _velocity_from_noise(self, coefficients: PathCoefficients, x: th.Tensor, noise: th.Tensor) -> th.Tensor:
        alpha, sigma, d_alpha, d_sigma = coefficients
        raw = (x - sigma * noise) / alpha.clamp(min=_ALPHA_FLOOR)
        data = raw.clamp(-self.data_bound, self.data_bound)
        # Where the clamp moved the data, the noise moves along, so that both still add up to x
        noise = noise + alpha * (raw - data) / sigma.clamp(min=_SIGMA_FLOOR)
        return d_alpha * data + d_sigma * noise

    def matching_loss(self, x1: th.Tensor, condition: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """
        Squared error of the prediction at a random point of the path (flow or score matching, by what the network predicts).

        :param x1: data, (batch_size, dim)
        :param condition: (batch_size, condition_dim)
        :param generator: source of the times and the noise; torch's global one by default
        :return: one loss per sample, (batch_size,)
        """
        t = th.rand((x1.shape[0], 1), generator=generator, device=x1.device, dtype=x1.dtype) * self.path.t_max
        x0 = th.randn(x1.shape, generator=generator, device=x1.device, dtype=x1.dtype)
        x, velocity = self.path.interpolate(t, x0, x1)
        target = velocity if self.prediction == "velocity" else x0
        return (self.network(t, x, condition) - target).square().sum(dim=1)

    def sample(self, condition: th.Tensor, noise: th.Tensor, solver: str = "euler", steps: int = 10) -> th.Tensor:
        """
        Carry noise to data; not clamped to the box. Steps are of equal length in the path's sampling time.

            :param condition: (batch_size, condition_dim)
            :param noise: standard normal draws, (batch_size, dim)
            :param solver: a name of :data:`~sb3_genpolicy.generative.solvers.SOLVERS`
            :param steps: number of steps
            :return: samples, (batch_size, dim)
        """

        def velocity(s: th.Tensor, x: th.Tensor) -> th.Tensor:
            t, dt_ds = self.path.sampling_time(s)
            return dt_ds * self.velocity(t, x, condition)

        return odeint(velocity, noise, solver, steps)
