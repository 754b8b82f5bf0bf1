"""
Solvers carry noise along a velocity field to data, or back: a plain loop over the steps of a time grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch as th

from sb3_genpolicy.generative.checks import check_choice, check_number, with_named_options
from sb3_genpolicy.generative.paths import LinearPath, Path, PathCoefficients
from sb3_genpolicy.generative.predictions import to_parts
from sb3_genpolicy.generative.schedules import TABLEAUS, Stage, TimePoint, dpm_steps, kept, knots_of, runge_kutta_steps
from sb3_genpolicy.generative.time_grids import TIME_GRIDS

#: ``velocity(t, x)``: t broadcasts against x, which is (batch_size, dim), as is the answer
Velocity = Callable[[th.Tensor, th.Tensor], th.Tensor]
#: The same, told the path's scalars beside the time, which are known beforehand
Field = Callable[[TimePoint, th.Tensor], th.Tensor]


#: Fixed-step Runge-Kutta methods, DPM-Solver++(2M), adaptive Dormand-Prince, and Euler-Maruyama for the reverse SDE
SOLVERS: tuple[str, ...] = (*TABLEAUS, "dpm++", "dopri5", "sde")

# What torchdiffeq calls ours
_TORCHDIFFEQ_METHODS = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2", "dopri5": "dopri5"}


@with_named_options
@dataclass(frozen=True)
class Sampler:
    """
    How a sampler goes from noise to data.

    :param solver: ``euler``, ``midpoint``, ``heun`` or ``rk4`` (orders 1, 2, 2, 4; 1, 2, 2, 4 evaluations a step);
        ``dpm++``, DPM-Solver++(2M) (order 2 with one evaluation a step, https://arxiv.org/abs/2211.01095);
        ``dopri5``, adaptive steps to a tolerance; ``sde``, Euler-Maruyama steps of the reverse diffusion
    :param steps: number of steps, positive; ``dopri5`` chooses its own
    :param time_grid: where the steps are: ``tapered``, the default, shortens them towards the data; steps of equal time
        (``uniform``), equal ``angle`` atan(alpha / sigma) or equal ``log_snr``,
        see :mod:`~sb3_genpolicy.generative.time_grids`
    :param rtol: relative tolerance of ``dopri5``
    :param atol: absolute tolerance of ``dopri5``, in the units of x
    :raises ValueError: for an unknown name or a number out of range
    """

    solver: str = "midpoint"
    steps: int = 5
    time_grid: str = "tapered"
    rtol: float = 1e-4
    atol: float = 1e-4

    def __post_init__(self) -> None:
        check_choice("solver", self.solver, SOLVERS)
        check_number("number of solver steps", self.steps, low=1, whole=True)
        check_choice("time_grid", self.time_grid, TIME_GRIDS)
        check_number("rtol", self.rtol, low=0.0, low_open=True)
        check_number("atol", self.atol, low=0.0, low_open=True)

    @property
    def evaluations(self) -> int:
        """Evaluations of the network in one step; those of ``dopri5`` cannot be known."""
        return len(TABLEAUS[self.solver].nodes) if self.solver in TABLEAUS else 1

    def times(self, path: Path, s: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param path: a path
        :param s: shares of the way, in [0, 1], any shape
        :return: the times t(s) and dt / ds, of the same shape
        """
        return TIME_GRIDS[self.time_grid].times(path, s)


def odeint(velocity: Velocity, x: th.Tensor, sampler: Sampler, path: Path | None = None, reverse: bool = False) -> th.Tensor:
    """
    Integrate a velocity field from noise to data, or from data to noise.

    :param velocity: the field, a callable of (t, x)
    :param x: noise, or data, (batch_size, dim)
    :param sampler: solver, steps and time grid; any but ``sde``, and ``dpm++`` only from noise to data
    :param path: the path that time grids refer to. Default: time as it is.
    :param reverse: from data to noise
    :return: where the points arrive, (batch_size, dim)
    """
    return integrate(_of_points(velocity), x, sampler, LinearPath() if path is None else path, reverse)


def _of_points(velocity: Velocity) -> Field:
    return lambda point, x: velocity(point.t, x)


def _layout(sampler: Sampler, x: th.Tensor) -> tuple[int, str, th.dtype, th.device]:
    return sampler.steps, sampler.time_grid, x.dtype, x.device


def integrate(field: Field, x: th.Tensor, sampler: Sampler, path: Path, reverse: bool = False) -> th.Tensor:
    """
    As :func:`odeint`, of a field that takes a :class:`~sb3_genpolicy.generative.schedules.TimePoint` in place of a time.

    :param field: the field, a callable of (point, x)
    :param x: noise, or data, (batch_size, dim)
    :param sampler: solver, steps and time grid; any but ``sde``, and ``dpm++`` only from noise to data
    :param path: the path that time grids and points refer to
    :param reverse: from data to noise
    :return: where the points arrive, (batch_size, dim)
    """
    if sampler.solver == "dpm++":
        return _dpm_solver(field, x, sampler, path)
    if sampler.solver == "dopri5":
        return _adaptive(field, x, sampler, path, reverse)
    for stages, weights in runge_kutta_steps(path, sampler.solver, *_layout(sampler, x), reverse):
        x = _runge_kutta_step(field, stages, weights, x)
    return x


def step_functions(
    velocity: Velocity, sampler: Sampler, path: Path, dtype: th.dtype, device: th.device, reverse: bool = False
) -> list[Callable[[th.Tensor], th.Tensor]]:
    """
    The maps that a Runge-Kutta sampler is composed of.

    :param velocity: the field
    :param sampler: one of the Runge-Kutta methods
    :param path: the path that time grids refer to
    :param dtype: of the points
    :param device: of the points
    :param reverse: whether the maps lead from data to noise
    :return: one function of x for every step, in the order of their application
    """
    steps = runge_kutta_steps(path, sampler.solver, sampler.steps, sampler.time_grid, dtype, device, reverse)
    return [partial(_runge_kutta_step, _of_points(velocity), stages, weights) for stages, weights in steps]


def _runge_kutta_step(field: Field, stages: Sequence[Stage], weights: Sequence[float], x: th.Tensor) -> th.Tensor:
    """x at the start of an interval -> x at its end."""
    slopes: list[th.Tensor] = []
    for point, earlier in stages:
        slopes.append(field(point, _combine(x, earlier, slopes)))
    return _combine(x, weights, slopes)


def _combine(x: th.Tensor, weights: Sequence[float], slopes: Sequence[th.Tensor]) -> th.Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0.0:
            x = x.add(slope, alpha=weight)
    return x


def _dpm_solver(field: Field, x: th.Tensor, sampler: Sampler, path: Path) -> th.Tensor:
    """
    DPM-Solver++(2M): between two knots, x is integrated exactly for an estimate of the data that is extrapolated linearly
    in the log of alpha / sigma from the last two (section 4 of Lu et al., 2022). The first and the last step take the estimate
    as it is; their length in that log may be infinite.
    """
    previous: th.Tensor | None = None
    for point, share, gain, change in dpm_steps(path, *_layout(sampler, x)):
        data = to_parts("velocity", field(point, x), point.coefficients, x).data
        extrapolated = data if change is None or previous is None else data + change * (data - previous)
        previous = data
        x = share * x + gain * extrapolated
    return x


def _adaptive(field: Field, x: th.Tensor, sampler: Sampler, path: Path, reverse: bool) -> th.Tensor:
    # Brings scipy.integrate along, which other solvers do without
    import torchdiffeq

    def slope(s: th.Tensor, x: th.Tensor) -> th.Tensor:
        t, dt_ds = sampler.times(path, s.reshape(1, 1))
        return dt_ds * field(TimePoint(t, path(t)), x)

    ends = x.new_tensor([float(reverse), float(not reverse)])
    # A step ends where the way ends: past it there is no field. Every row keeps the tolerance, not only their mean.
    options = {"step_t": ends[1:], "norm": _largest_row}
    try:
        states: th.Tensor = torchdiffeq.odeint(
            slope, x, ends, rtol=sampler.rtol, atol=sampler.atol, method="dopri5", options=options
        )
    except AssertionError as error:
        raise ValueError(
            f"dopri5 found no step so short that it keeps rtol={sampler.rtol:g} and atol={sampler.atol:g}, which {x.dtype} "
            "may not allow: raise them, or take a solver of fixed steps."
        ) from error
    return states[-1]


def _largest_row(error: th.Tensor) -> th.Tensor:
    return error.square().mean(dim=-1).sqrt().amax()


def odeint_adjoint(
    velocity: Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor],
    x: th.Tensor,
    condition: th.Tensor,
    parameters: Sequence[th.Tensor],
    sampler: Sampler,
    path: Path,
    reverse: bool = False,
) -> th.Tensor:
    """
    As :func:`odeint`, with gradients by torchdiffeq's adjoint: memory does not grow with the steps, the backward pass solves
    another ODE, and its gradients are those of the exact flow up to the solver's error.

    :param velocity: a callable of (t, x, condition)
    :param x: (batch_size, dim)
    :param condition: what the field depends on, (batch_size, condition_dim); gradients reach it
    :param parameters: tensors that gradients are to reach
    :param sampler: ``euler``, ``midpoint``, ``heun`` or ``dopri5``
    :param path: the path that time grids refer to
    :param reverse: from data to noise
    :return: where the points arrive, (batch_size, dim)
    :raises ValueError: for any other solver
    """
    if sampler.solver not in _TORCHDIFFEQ_METHODS:
        raise ValueError(
            f"The adjoint is offered with the solvers {', '.join(_TORCHDIFFEQ_METHODS)}, not with '{sampler.solver}'. "
            "Take one of them, or gradient='backprop'."
        )

    import torchdiffeq

    def slope(s: th.Tensor, state: tuple[th.Tensor, th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
        t, dt_ds = sampler.times(path, s)
        return dt_ds * velocity(t.reshape(1, 1), *state), th.zeros_like(state[1])

    ends = x.new_tensor([float(reverse), float(not reverse)])

    def knots(func: Any, y0: Any, between: th.Tensor) -> th.Tensor:
        # torchdiffeq turns time around by its sign
        from_data = bool(between[0].abs() > between[-1].abs())
        return between.sum().sign() * TIME_GRIDS[sampler.time_grid].knots(sampler.steps, from_data).to(between)

    options = {"step_t": ends[1:]} if sampler.solver == "dopri5" else {"grid_constructor": knots}
    found: tuple[th.Tensor, th.Tensor] = torchdiffeq.odeint_adjoint(
        slope,
        (x, condition),
        ends,
        rtol=sampler.rtol,
        atol=sampler.atol,
        method=_TORCHDIFFEQ_METHODS[sampler.solver],
        options=options,
        adjoint_params=tuple(parameters),
    )
    return found[0][-1]


class SDEStep(NamedTuple):
    """
    An Euler-Maruyama step: x goes to a Gaussian around a mean that is linear in the velocity there.

    :param t: the time at which it begins, (1, 1), as all below
    :param length: how long it is
    :param squared_diffusion: g^2
    :param coefficients: the path's scalars at ``t``
    """

    t: th.Tensor
    length: th.Tensor
    squared_diffusion: th.Tensor
    coefficients: PathCoefficients

    @property
    def point(self) -> TimePoint:
        """Where it begins."""
        return TimePoint(self.t, self.coefficients)

    def mean(self, x: th.Tensor, velocity: th.Tensor) -> th.Tensor:
        """
        :param x: where the step begins, (batch_size, dim)
        :param velocity: the field there, (batch_size, dim)
        :return: the mean of where it ends, (batch_size, dim)
        """
        noise = to_parts("velocity", velocity, self.coefficients, x).noise
        return x + self.length * (velocity - 0.5 * self.squared_diffusion / self.coefficients.sigma * noise)

    @property
    def std(self) -> th.Tensor:
        """The standard deviation of where it ends."""
        return (self.squared_diffusion * self.length).sqrt()

    @property
    def slope(self) -> th.Tensor:
        """By how much the mean moves with the velocity, over the length: 1 + g^2 / 2 d score / d velocity."""
        alpha, sigma, _, _ = self.coefficients
        return 1.0 + 0.5 * self.squared_diffusion * alpha / (sigma * self.coefficients.wronskian)


def sde_steps(sampler: Sampler, path: Path, x: th.Tensor) -> Sequence[SDEStep]:
    """
    :param sampler: steps and time grid
    :param path: the path
    :param x: a tensor of the points' kind
    :return: the steps of :func:`sdeint`, the last one with its noise
    """
    return _sde_steps(path, *_layout(sampler, x))


@kept
def _sde_steps(path: Path, steps: int, time_grid: str, dtype: th.dtype, device: th.device) -> tuple[SDEStep, ...]:
    t, lengths = knots_of(path, steps, time_grid, dtype, device)
    coefficients = path(t[:-1])
    squared_diffusion = path.squared_diffusion(t[:-1]).minimum(coefficients.sigma.square() / lengths)
    return tuple(SDEStep(t[k], lengths[k], squared_diffusion[k], path(t[k])) for k in range(steps))


def sdeint(field: Field, x: th.Tensor, sampler: Sampler, path: Path, increments: th.Tensor) -> th.Tensor:
    """
    Euler-Maruyama steps of ``dx = (v + g^2 / 2 score) dt + g dw``, which has the marginals of the flow for any g: here the
    path's own diffusion, capped so that a step does not replace more noise than there is, and zero in the last step, whose
    noise would stay in the sample.

    :param field: the field, a callable of (point, x)
    :param x: noise, (batch_size, dim)
    :param sampler: steps and time grid
    :param path: the path
    :param increments: standard normal draws, (steps - 1, batch_size, dim)
    :return: samples, (batch_size, dim)
    """
    *steps, last = sde_steps(sampler, path, x)
    for step, increment in zip(steps, increments, strict=True):
        x = step.mean(x, field(step.point, x)) + step.std * increment
    return x + last.length * field(last.point, x)
