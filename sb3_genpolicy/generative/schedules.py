"""
What the steps of a sampler need beside the velocity field: times and coefficients, which depend on the sampler and the path
alone, are computed once and kept.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch as th

from sb3_genpolicy.generative.paths import Path, PathCoefficients
from sb3_genpolicy.generative.time_grids import TIME_GRIDS
from sb3_genpolicy.generative.tracing import is_transformed

Arguments = ParamSpec("Arguments")
Schedule = TypeVar("Schedule")

# So many schedules of one kind are kept; a training and an evaluation need a handful
_N_KEPT = 64


class TimePoint(NamedTuple):
    """
    A time at which a solver asks for the field. All solves share its tensors, which nobody is to write to.

    :param t: the time, (1, 1)
    :param coefficients: the path's scalars there, each (1, 1)
    """

    t: th.Tensor
    coefficients: PathCoefficients


def kept(
    make: Callable[Concatenate[Path, Arguments], Schedule],
) -> Callable[Concatenate[Path, Arguments], Schedule]:
    """
    Let a function of a path remember what it gave.

    A path is known by its class and its attributes, so that one whose attributes change is another. Where not all of them are
    plain numbers or strings (a path of your own may have tensors, or learn), nothing is remembered.

    :param make: a function of a path and further hashable arguments, whose answer depends on them alone and is not written to
    :return: the same function, which computes the answer once
    """
    known: dict[Any, Schedule] = {}

    @functools.wraps(make)
    def schedule(path: Path, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Schedule:
        attributes = vars(path)
        if not all(isinstance(value, (int, float, str)) for value in attributes.values()):
            return make(path, *args, **kwargs)
        key = (type(path), *attributes.items(), args, *kwargs.items())
        found = known.get(key)
        if found is not None:
            return found
        # Tensors of inference mode could not be used in training later
        with th.inference_mode(False):
            made = make(path, *args, **kwargs)
        # Tensors made inside of a transform (th.func.jvp, ...) do not live longer than it
        if not is_transformed():
            if len(known) >= _N_KEPT:
                known.clear()
            known[key] = made
        return made

    return schedule


class Tableau(NamedTuple):
    """
    An explicit Runge-Kutta method (Butcher's tableau).
    """

    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


TABLEAUS: dict[str, Tableau] = {
    "euler": Tableau((0.0,), ((),), (1.0,)),
    "midpoint": Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "heun": Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "rk4": Tableau((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


class Stage(NamedTuple):
    """
    A stage of a Runge-Kutta step.

    :param point: when the field is asked for
    :param weights: by what its earlier answers in the step are multiplied to get there from where the step began, the step's
        length included
    """

    point: TimePoint
    weights: tuple[float, ...]


class RungeKuttaStep(NamedTuple):
    """
    A step of a Runge-Kutta method.

    :param stages: its stages
    :param weights: by what their answers are multiplied to get to where it ends, the step's length included
    """

    stages: tuple[Stage, ...]
    weights: tuple[float, ...]


@kept
def runge_kutta_steps(
    path: Path, solver: str, steps: int, time_grid: str, dtype: th.dtype, device: th.device, reverse: bool
) -> tuple[RungeKuttaStep, ...]:
    """
    :param path: the path that the time grid refers to
    :param solver: a key of ``TABLEAUS``
    :param steps: number of steps
    :param time_grid: where they are
    :param dtype: of the points
    :param device: of the points
    :param reverse: from data to noise
    :return: the steps, in the order of their application
    """
    tableau = TABLEAUS[solver]
    grid = TIME_GRIDS[time_grid]
    knots = grid.knots(steps, reverse)
    h = knots.diff()[:, None]
    t, dt_ds = grid.times(path, knots[:-1, None] + h * th.tensor(tableau.nodes, dtype=th.float64))
    # One transfer of all times, (steps, stages, 1, 1), which broadcast against x
    t = t.to(device, dtype)[..., None, None]

    def step(t: th.Tensor, lengths: list[float]) -> RungeKuttaStep:
        stages = (Stage(point, _times(row, lengths)) for point, row in zip(_points(path, t), tableau.matrix, strict=True))
        return RungeKuttaStep(tuple(stages), _times(tableau.weights, lengths))

    return tuple(map(step, t, (h * dt_ds).tolist()))


def _times(row: Sequence[float], lengths: Sequence[float]) -> tuple[float, ...]:
    # A row of the matrix has weights for the stages before its own
    return tuple(weight * length for weight, length in zip(row, lengths, strict=False))


def _points(path: Path, t: th.Tensor) -> list[TimePoint]:
    """Of times, (n, 1, 1)."""
    return [TimePoint(one, PathCoefficients(*scalars)) for one, *scalars in zip(t, *path(t), strict=True)]


def knots_of(path: Path, steps: int, time_grid: str, dtype: th.dtype, device: th.device) -> tuple[th.Tensor, th.Tensor]:
    """
    :param path: the path that the time grid refers to
    :param steps: number of steps
    :param time_grid: where they are
    :param dtype: of the points
    :param device: of the points
    :return: the times between steps, (steps + 1, 1, 1), and the Euler lengths of the steps, (steps, 1, 1)
    """
    grid = TIME_GRIDS[time_grid]
    knots = grid.knots(steps)
    t, dt_ds = grid.times(path, knots)
    lengths = dt_ds[:-1] * knots.diff()
    return t.to(device, dtype)[:, None, None], lengths.to(device, dtype)[:, None, None]


class DPMStep(NamedTuple):
    """
    A step of DPM-Solver++(2M); scalars are (1, 1).

    :param point: when it begins
    :param share: which share of x is kept
    :param gain: by what the estimate of the data is multiplied
    :param change: by what its change since the last step is multiplied to extrapolate it; None where it is taken as it is
    """

    point: TimePoint
    share: th.Tensor
    gain: th.Tensor
    change: th.Tensor | None


@kept
def dpm_steps(path: Path, steps: int, time_grid: str, dtype: th.dtype, device: th.device) -> tuple[DPMStep, ...]:
    """
    :param path: the path
    :param steps: number of steps
    :param time_grid: where they are
    :param dtype: of the points
    :param device: of the points
    :return: the steps
    """
    t, _ = knots_of(path, steps, time_grid, dtype, device)
    alpha, sigma, _, _ = path(t)
    shares = sigma[1:] / sigma[:-1]
    gains = alpha[1:] - shares * alpha[:-1]
    # The first and the last step may be infinitely long in the log of alpha / sigma
    h = (alpha.log() - sigma.log()).diff(dim=0)
    changes = [None, *(0.5 * h[1:-1] / h[:-2]), None][:steps]
    return tuple(map(DPMStep, _points(path, t[:-1]), shares, gains, changes))
