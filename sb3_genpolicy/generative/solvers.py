"""
Fixed-step solvers for ``dx/dt = v(t, x)`` from noise (``t = 0``) to data (``t = 1``): a plain loop over one step function.
"""

from collections.abc import Callable

import torch as th

#: ``velocity(t, x)``: t is (batch_size, 1), x and the answer are (batch_size, dim)
Velocity = Callable[[th.Tensor, th.Tensor], th.Tensor]
#: One step: (velocity, t, x, h) -> x at t + h
SolverStep = Callable[[Velocity, th.Tensor, th.Tensor, float], th.Tensor]


def euler_step(velocity: Velocity, t: th.Tensor, x: th.Tensor, h: float) -> th.Tensor:
    """First order, one evaluation."""
    return x + h * velocity(t, x)


def midpoint_step(velocity: Velocity, t: th.Tensor, x: th.Tensor, h: float) -> th.Tensor:
    """Second order, two evaluations, none of them at ``t + h``."""
    return x + h * velocity(t + 0.5 * h, x + 0.5 * h * velocity(t, x))


def heun_step(velocity: Velocity, t: th.Tensor, x: th.Tensor, h: float) -> th.Tensor:
    """Second order, two evaluations."""
    k1 = velocity(t, x)
    return x + 0.5 * h * (k1 + velocity(t + h, x + h * k1))


def rk4_step(velocity: Velocity, t: th.Tensor, x: th.Tensor, h: float) -> th.Tensor:
    """Fourth order, four evaluations."""
    k1 = velocity(t, x)
    k2 = velocity(t + 0.5 * h, x + 0.5 * h * k1)
    k3 = velocity(t + 0.5 * h, x + 0.5 * h * k2)
    k4 = velocity(t + h, x + h * k3)
    return x + (h / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


SOLVERS: dict[str, SolverStep] = {"euler": euler_step, "midpoint": midpoint_step, "heun": heun_step, "rk4": rk4_step}


def odeint(velocity: Velocity, x0: th.Tensor, solver: str = "euler", steps: int = 10) -> th.Tensor:
    """
    Carry noise along the velocity field to data.

    :param velocity: the field, a callable of (t, x)
    :param x0: noise, (batch_size, dim)
    :param solver: a name of ``SOLVERS``
    :param steps: number of steps of equal length, positive
    :return: the solution at t = 1, (batch_size, dim)
    :raises KeyError: if the solver is unknown (policies check the name when they are built)
    """
    step, h = SOLVERS[solver], 1.0 / steps
    x = x0
    for k in range(steps):
        x = step(velocity, x.new_full((x.shape[0], 1), k * h), x, h)
    return x
