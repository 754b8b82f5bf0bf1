"""
The linear-Gaussian problem by adjoint matching, without noise: every point and every target is linear in normal draws, so that
a few dozen draws of exactly mean 0 and covariance 1 stand for all, and the best fields for a rollout follow exactly.
"""

import math
from typing import NamedTuple

import numpy as np
import torch as th
from scipy.interpolate import CubicSpline
from torch import nn

from sb3_genpolicy.generative import GenerativeModel, PathKL, Sampler
from sb3_genpolicy.generative.adjoint_matching import adjoint_matching, memoryless_rollout
from sb3_genpolicy.generative.draws import Tape
from sb3_genpolicy.generative.kl import Conditioned, Draws
from sb3_genpolicy.generative.time_grids import TIME_GRIDS
from tests.helpers.closed_forms import GaussianMixture
from tests.helpers.gmpg import MEAN, STD

_ROWS = 64


def optimum(beta):
    """Mean and standard deviation of N(MEAN, STD^2) exp(-beta (x - 1)^2 / 2) / Z."""
    variance = 1.0 / (1.0 / STD**2 + beta)
    return variance * (MEAN / STD**2 + beta), math.sqrt(variance)


class LinearFields(nn.Module):
    """At each of some times another field that is linear in x, at first that of N(MEAN, STD^2)."""

    def __init__(self, path, times):
        super().__init__()
        self.times = times
        before = GaussianMixture(path, "velocity", [[MEAN]], [STD])
        at_0, at_1 = (before(times[:, None], th.full((len(times), 1), x).double()) for x in (0.0, 1.0))
        self.coefficients = th.cat([at_1 - at_0, at_0], dim=1)

    def forward(self, t, x, condition):
        slope, offset = self.coefficients[(t - self.times).abs().argmin(dim=1)].T[..., None]
        return slope * x + offset


def whitened(rows, columns):
    """Normal draws, (rows, columns), of exactly mean 0 and covariance 1."""
    draws = th.randn(rows, columns, generator=th.Generator().manual_seed(0), dtype=th.float64)
    return math.sqrt(rows) * th.linalg.qr(draws - draws.mean(dim=0)).Q


def moments(x):
    return x.mean().item(), x.std(correction=0).item()


def minimum(function, x):
    """Of a quadratic function of (n, 2), whose rows have nothing to do with each other: by three gradients."""
    shifts = th.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=x.dtype)
    gradient, *others = (th.autograd.functional.jacobian(function, x + shift) for shift in shifts)
    hessians = th.stack([other - gradient for other in others], dim=2)
    return x - th.linalg.solve(hessians, gradient)


class Settled(NamedTuple):
    """
    :param end: mean and standard deviation of the rollout's end
    :param action: those of what the policy's flow makes of noise
    :param kl: divergence along the rollout
    """

    end: tuple[float, float]
    action: tuple[float, float]
    kl: float


def flow_end(path, times, before, after, steps=400):
    """
    Mean and standard deviation at the end of the flow, of the behaviour's field and a change that is smooth between the times
    at which it is known, and nothing at t = 1: (n,), and coefficients (n, 2) of both.
    """

    def smooth_in(t):
        return path.angle(t) if path.smooth_in_angle else t

    # A difference of noise over alpha is smooth where one of velocities bends with the path's own pace
    moved = (after - before) / path(times).wronskian[:, None]
    ends = smooth_in(th.cat([times, th.ones(1).double()]))
    change = CubicSpline(ends, np.append(moved, [[0.0, 0.0]], axis=0))
    behaviour, mean, std, h = GaussianMixture(path, "velocity", [[MEAN]], [STD]), 0.0, 1.0, 1.0 / steps
    for k in range(steps):
        t = th.tensor([[(k + 0.5) * h]], dtype=th.float64)
        at_0, at_1 = (behaviour(t, th.full((1, 1), x).double()).item() for x in (0.0, 1.0))
        slope, offset = np.array([at_1 - at_0, at_0]) + path(t).wronskian.item() * change(smooth_in(t).item())
        grown = math.exp(slope * h)
        mean, std = grown * mean + offset * (grown - 1.0) / slope, grown * std
    return float(mean), float(std)


def fixed_point(path, steps, beta, time_grid="tapered", adjoint="lean"):
    """Where adjoint matching settles with Q = -(a - 1)^2 / 2."""
    layout, condition = PathKL(steps, time_grid), th.zeros(_ROWS, 0)
    knots = TIME_GRIDS[time_grid].times(path, TIME_GRIDS[time_grid].knots(steps))[0]
    fields = LinearFields(path, knots[:-1])
    behaviour = GaussianMixture(path, "velocity", [[MEAN]], [STD])
    policy, reference = (
        Conditioned(GenerativeModel(network, path, "velocity", 1, data_bound=None), condition)
        for network in (fields, behaviour)
    )
    noise, *increments = whitened(_ROWS, steps + 1).T[..., None]

    def rollout():
        return memoryless_rollout(policy, Draws(noise, Sampler(), Tape(ahead=[th.stack(increments)])), layout)

    def match(coefficients):
        fields.coefficients = coefficients
        return adjoint_matching(policy, reference, xs, -beta * (xs[-1] - 1.0), layout, adjoint)

    before = at = fields.coefficients
    for _ in range(60):
        fields.coefficients = at
        xs = rollout()
        best = minimum(lambda coefficients: match(coefficients).loss.mean(), at)
        if (best - at).abs().max() < 1e-4:
            actions = flow_end(path, fields.times, before, at.detach())
            return Settled(moments(xs[-1]), actions, match(at).kl.mean().item())
        # The whole way would be too far: the rollout moves too
        at = 0.5 * (at + best)
    raise AssertionError("The regression does not settle.")
