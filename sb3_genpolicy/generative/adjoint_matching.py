"""
Adjoint matching: a model is trained towards ``reference exp(reward) / Z`` by a regression along its own diffusion, without
backpropagation through it (Domingo-Enrich et al., 2024, https://arxiv.org/abs/2409.08861).

As published it follows the memoryless diffusion of X and an adjoint a, whose coefficients are infinite where the signal's
scale alpha is 0. Here both are followed in other variables: ``Y = alpha X`` moves by ``dY = 2 alpha v dt + dW`` with variance
``2 alpha eta dt``, ``eta = sigma wronskian``, and ``b = a / alpha`` by ``db / dt = -2 J^T b``, J the Jacobian of the
reference's velocity, from minus the reward's gradient at t = 1. Nothing is singular at any time on any path, and the optimum
is a plain regression: ``v = v_reference - eta E[b | x]``.

Both equations take steps of Heun's method in which a slope is evaluated once, where a step is predicted to end, and serves
the next step too: order 2 for one evaluation a step. The step next to the data, whose end no field is asked for (where noise
is gone, predictions are divided by next to nothing), takes the slope at its start: it is one step, and leaves the order.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch as th

from sb3_genpolicy.generative.checks import check_choice
from sb3_genpolicy.generative.draws import Source, draw
from sb3_genpolicy.generative.kl import Conditioned, Draws, PathKL
from sb3_genpolicy.generative.paths import Path, PathCoefficients
from sb3_genpolicy.generative.schedules import TimePoint, kept
from sb3_genpolicy.generative.time_grids import TIME_GRIDS

Adjoint = Literal["lean", "scalar"]
ADJOINTS: tuple[Adjoint, ...] = ("lean", "scalar")

# Nodes of Gauss and Legendre in each step, for the variance of its noise
_NODES = 32


class AdjointMatch(NamedTuple):
    """
    :param loss: (batch_size,), with gradient in the model's parameters and its condition
    :param kl: estimate of KL(model || reference) over whole paths, in nats, (batch_size,)
    """

    loss: th.Tensor
    kl: th.Tensor


class Gains(NamedTuple):
    """
    By what slopes at the two ends of a step are multiplied, its length included.
    """

    start: float
    end: float


class Knots(NamedTuple):
    """
    The times at which K steps begin, and what is known of them beforehand.

    :param points: the times, each (1, 1)
    :param alphas: alpha there, and at the end of the last step
    :param stds: standard deviation of the noise of each step
    :param rollout: of each step, for the field in the equation of Y
    :param adjoint: of each step, for J^T b in that of b
    :param times: the times again, (K,)
    :param coefficients: the path's scalars there, each (K,)
    :param kl_weights: what a squared difference of two fields adds to their divergence, (K,)
    """

    points: tuple[TimePoint, ...]
    alphas: tuple[float, ...]
    stds: tuple[float, ...]
    rollout: tuple[Gains, ...]
    adjoint: tuple[Gains, ...]
    times: th.Tensor
    coefficients: PathCoefficients
    kl_weights: th.Tensor


def noise_variances(path: Path, steps: int, time_grid: str) -> tuple[th.Tensor, th.Tensor]:
    """
    :param path: the path
    :param steps: number of steps
    :param time_grid: where they are
    :return: the integral of ``2 alpha eta dt`` over every step, and that of it times the share of the step that is past, both
        (steps,), float64
    """
    nodes, weights = (th.from_numpy(values) for values in np.polynomial.legendre.leggauss(_NODES))
    grid = TIME_GRIDS[time_grid]
    knots = grid.knots(steps)
    half, past = 0.5 * knots.diff()[:, None], 0.5 * (nodes + 1.0)
    t, dt_ds = grid.times(path, knots[:-1, None] + 2.0 * half * past)
    coefficients = path(t)
    rate = 2.0 * coefficients.alpha * coefficients.sigma * coefficients.wronskian
    parts = half * weights * rate * dt_ds
    return parts.sum(dim=1), (past * parts).sum(dim=1)


@kept
def knots_between(path: Path, steps: int, time_grid: str, dtype: th.dtype, device: th.device) -> Knots:
    """
    :param path: the path
    :param steps: number of steps
    :param time_grid: where they are
    :param dtype: of the points
    :param device: of the points
    :return: the times at which they begin
    """
    grid = TIME_GRIDS[time_grid]
    s = grid.knots(steps)
    t, dt_ds = grid.times(path, s)
    coefficients = path(t)
    variances, at_ends = noise_variances(path, steps, time_grid)
    h = s.diff()
    last = steps - 1

    def gains(rate: th.Tensor) -> tuple[Gains, ...]:
        starts, ends = (h * rate[:-1]).tolist(), (h * rate[1:]).tolist()
        # The last step has its start's slope for both ends
        return (*map(Gains, starts[:last], ends[:last]), Gains(2.0 * starts[last], 0.0))

    times, *scalars = (value[:steps].to(device, dtype) for value in (t, *coefficients))
    points = (TimePoint(one[0], PathCoefficients(*one[1:])) for one in th.stack([times, *scalars]).T[..., None, None])
    return Knots(
        points=tuple(points),
        alphas=tuple(coefficients.alpha.tolist()),
        stds=tuple(variances.sqrt().tolist()),
        rollout=gains(2.0 * coefficients.alpha * dt_ds),
        adjoint=gains(2.0 * dt_ds),
        times=times,
        coefficients=PathCoefficients(*scalars),
        kl_weights=_kl_weights(coefficients, variances, at_ends).to(device, dtype),
    )


def _kl_weights(coefficients: PathCoefficients, variances: th.Tensor, at_ends: th.Tensor) -> th.Tensor:
    """
    Girsanov's theorem: half the integral of ``|difference / eta|^2`` over the variance of the noise. Between knots the square
    is taken as linear, in the last step as constant.
    """
    weights = variances - at_ends
    weights[1:] += at_ends[:-1]
    weights[-1] += at_ends[-1]
    return 0.5 * weights / (coefficients.sigma * coefficients.wronskian)[:-1].square()


def _knots_of(model: Conditioned, x: th.Tensor, layout: PathKL) -> Knots:
    return knots_between(model.model.path, layout.steps, layout.time_grid, x.dtype, x.device)


@th.no_grad()
def memoryless_rollout(model: Conditioned, draws: Draws, layout: PathKL) -> th.Tensor:
    """
    Follow the diffusion of the model whose end knows nothing of its start.

    :param model: the model
    :param draws: where it starts, and its further noise; by which sampler actions are drawn does not matter
    :param layout: number of steps, and where they are
    :return: X where steps begin and the last one ends, (steps + 1, batch_size, dim): these ends are samples of the model
    """
    x = model.model.path.prior_std * draws.noise
    knots = _knots_of(model, x, layout)
    increments = draw("normal", (layout.steps, *x.shape), x, draws.generator, rows_axis=1)
    xs, y = [x], knots.alphas[0] * x
    # On most paths Y begins at 0 whatever the field there
    slope = th.zeros_like(x) if knots.rollout[0].start == 0.0 else _velocity(model, knots.points[0], x)
    for k, gains in enumerate(knots.rollout):
        alpha = knots.alphas[k + 1]
        half = 0.5 * gains.start * slope
        y = y + half + knots.stds[k] * increments[k]
        if k + 1 < layout.steps:
            slope = _velocity(model, knots.points[k + 1], (y + half) / alpha)
            y = y + 0.5 * gains.end * slope
        xs.append(y / alpha)
    return th.stack(xs)


def _velocity(model: Conditioned, point: TimePoint, x: th.Tensor) -> th.Tensor:
    return model.model.velocity(point.t, x, model.condition, point.coefficients)


@th.no_grad()
def lean_adjoint(reference: Conditioned, xs: th.Tensor, gradient: th.Tensor, layout: PathKL) -> tuple[th.Tensor, th.Tensor]:
    """
    Follow b back from data to noise, by one vector-Jacobian product of the reference's field a step.

    :param reference: the reference
    :param xs: where the rollout was, (steps + 1, batch_size, dim)
    :param gradient: of the reward in the samples, (batch_size, dim)
    :param layout: number of steps, and where they are
    :return: b and the reference's field where steps begin, both (steps, batch_size, dim)
    """
    knots = _knots_of(reference, xs, layout)
    b, product = -gradient / knots.alphas[-1], th.zeros_like(gradient)
    bs, velocities = [], []
    for point, gains, x in reversed(list(zip(knots.points, knots.adjoint, xs[:-1], strict=True))):
        half = 0.5 * gains.end * product
        velocity, product = _pulled_back(reference, point, x, b + 2.0 * half)
        b = b + half + 0.5 * gains.start * product
        bs.append(b)
        velocities.append(velocity)
    return th.stack(bs[::-1]), th.stack(velocities[::-1])


def _pulled_back(model: Conditioned, point: TimePoint, x: th.Tensor, b: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """The field at x, and its Jacobian's transpose times b."""
    velocity, pull_back = th.func.vjp(lambda x: _velocity(model, point, x), x)  # type: ignore[misc]
    return velocity, pull_back(b)[0]


def adjoint_matching(
    model: Conditioned,
    reference: Conditioned,
    xs: th.Tensor,
    gradient: th.Tensor,
    layout: PathKL,
    adjoint: Adjoint = "lean",
    n_times: int | None = None,
    generator: Source = None,
) -> AdjointMatch:
    """
    The regression whose optimum is ``reference exp(reward) / Z``: of the model's field, at points of its own rollout, on
    ``v_reference - eta b``. Its error is taken in what the network predicts.

    :param model: the model
    :param reference: what it moves away from; no gradient reaches its parameters
    :param xs: the model's own rollout, (steps + 1, batch_size, dim)
    :param gradient: of the reward in its end, (batch_size, dim)
    :param layout: of the rollout
    :param adjoint: ``lean``; or ``scalar``, for which b is what it is at the end, as if the reference's field were the same
        everywhere. That saves the Jacobians and has another optimum. For a reference N(m, s^2) the factor that is left out is
        ``s^2 / (alpha^2 s^2 + sigma^2)``: the reward counts too much where data are narrow, as actions are, and too little
        where they are wide. None is left out only for N(m, 1) on a path with alpha^2 + sigma^2 = 1.
    :param n_times: at how many of the times of each row the error is taken, evenly spread. Default: all.
    :param generator: source of the times; torch's global one by default
    :return: loss and divergence of every row
    :raises ValueError: for an unknown adjoint
    """
    check_choice("adjoint", adjoint, ADJOINTS)
    knots = _knots_of(model, xs, layout)
    chosen = _choose_times(xs, n_times, generator)
    if adjoint == "lean":
        b, target = (_at(values, chosen) for values in lean_adjoint(reference, xs, gradient, layout))
    else:
        b = (-gradient / knots.alphas[-1]).expand(len(chosen), *gradient.shape)
        target = _fields(reference, knots, xs, chosen).detach()
    difference = _fields(model, knots, xs, chosen) - target
    sigma, wronskian = (value[chosen][..., None] for value in (knots.coefficients.sigma, knots.coefficients.wronskian))
    # An error of the velocity over the wronskian is one of the noise over alpha, on every path
    error = _in_prediction(model, knots, chosen) * (difference / wronskian + sigma * b)
    share = layout.steps / len(chosen)
    kl = share * (knots.kl_weights[chosen] * difference.detach().square().sum(dim=2)).sum(dim=0)
    return AdjointMatch(error.square().sum(dim=2).mean(dim=0), kl)


def _choose_times(xs: th.Tensor, n_times: int | None, generator: Source) -> th.Tensor:
    """Indices of times for every row, (n_times, batch_size), one from each of as many equal parts."""
    n_all, n_rows = len(xs) - 1, xs.shape[1]
    if n_times is None or n_times >= n_all:
        return th.arange(n_all, device=xs.device)[:, None].expand(n_all, n_rows)
    part = th.arange(n_times, device=xs.device)[:, None]
    shares = (draw("uniform", (n_rows,), xs, generator) + part) / n_times
    return (shares * n_all).long().clamp(max=n_all - 1)


def _at(values: th.Tensor, chosen: th.Tensor) -> th.Tensor:
    """
    :param values: (steps or more, batch_size, dim)
    :param chosen: indices of times, (n_times, batch_size)
    :return: (n_times, batch_size, dim)
    """
    return values.gather(0, chosen[..., None].expand(*chosen.shape, values.shape[2]))


def _fields(model: Conditioned, knots: Knots, xs: th.Tensor, chosen: th.Tensor) -> th.Tensor:
    """The field at chosen points of the rollout, in one evaluation, (n_times, batch_size, dim)."""
    points = _at(xs, chosen)
    t = knots.times[chosen].reshape(-1, 1)
    condition = model.condition.expand(len(chosen), *model.condition.shape).flatten(0, 1)
    return model.model.velocity(t, points.flatten(0, 1), condition).reshape(points.shape)


def _in_prediction(model: Conditioned, knots: Knots, chosen: th.Tensor) -> th.Tensor:
    """By what an error of the noise over alpha is multiplied; a score's error is taken in units of noise."""
    prediction, scalars = model.model.prediction, knots.coefficients
    sizes = {"velocity": th.ones_like(scalars.alpha), "data": scalars.sigma}
    return sizes.get(prediction, scalars.alpha)[chosen][..., None]
