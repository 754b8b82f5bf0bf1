"""
Inverses of maps near the identity, which the steps of a sampler are: Newton's method, row by row of a batch.
"""

from collections.abc import Callable

import torch as th

from sb3_genpolicy.generative.tracing import is_transformed

# Newton's method doubles the digits with every iteration; halving the step serves starts that are far off
_NEWTON_ITERATIONS, _HALVINGS, _RESTARTS = 20, 6, 8
# With a fixed matrix an iteration gains some digits, and costs one evaluation in place of one a dimension
_CHORD_ITERATIONS = 12
# Fewer attempts for rows in which a good guess fails, since all other rows wait for them
_NEWTON_ITERATIONS_WITH_GUESS, _RESTARTS_WITH_GUESS = 10, 1

Function = Callable[[th.Tensor], th.Tensor]


def jacobian_products(function: Function, x: th.Tensor, directions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Value of a function and its Jacobian's products with several directions at once: vectorised forward mode, through which
    backpropagation works.

    :param function: of (batch_size, dim), row by row
    :param x: (batch_size, dim)
    :param directions: (n_directions, batch_size or 1, dim)
    :return: ``function(x)``, (batch_size, dim), and the products, (n_directions, batch_size, dim)
    """

    def product(direction: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return th.func.jvp(function, (x,), (direction.expand_as(x),))  # type: ignore[return-value]

    if is_transformed():
        # Values that are themselves of a batch of models are refused as what all directions share
        values, products = th.func.vmap(product)(directions)
        return values[0], products
    return th.func.vmap(product, out_dims=(None, 0))(directions)  # type: ignore[arg-type]


def jacobian(function: Function, x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param function: of (batch_size, dim), row by row
    :param x: (batch_size, dim)
    :return: ``function(x)`` and its Jacobian at each row, (batch_size, dim, dim)
    """
    value, columns = jacobian_products(function, x, th.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None])
    return value, columns.permute(1, 2, 0)


@th.no_grad()
def invert(function: Function, y: th.Tensor, guess: tuple[th.Tensor, th.Tensor] | None = None) -> tuple[th.Tensor, th.Tensor]:
    """
    Solve ``function(x) = y`` by Newton's method with halved steps where a whole one leads away, and from further starts where
    the first one fails. No gradient passes.

    :param function: of (batch_size, dim), row by row, near the identity
    :param y: (batch_size, dim)
    :param guess: where the solution may be, (batch_size, dim), and the Jacobian there, (batch_size, dim, dim), both of a
        similar function: then most rows need no Jacobian of their own, and few attempts are made for the others
    :return: x, (batch_size, dim), and whether it was found, (batch_size,); rows that were not are y itself
    """
    found = th.zeros(y.shape[0], dtype=th.bool, device=y.device)
    x, iterations, restarts = y, _NEWTON_ITERATIONS, _RESTARTS
    if guess is not None:
        x, found = _chord(function, y, *guess)
        iterations, restarts = _NEWTON_ITERATIONS_WITH_GUESS, _RESTARTS_WITH_GUESS
    if found.all():
        return x, found
    displacement = function(y) - y
    generator = th.Generator(y.device).manual_seed(0)
    for attempt in range(1 + restarts):
        # Undone where it ends: exact for constant fields. Then from around there
        start = y - displacement
        if attempt > 0:
            noise = th.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)
            start = start + noise * displacement.norm(dim=1, keepdim=True)
        solution, solved = _newton(function, y, th.where(found[:, None], x, start), iterations)
        x = th.where(found[:, None], x, solution)
        found = found | solved
        if found.all():
            break
    return th.where(found[:, None], x, y), found


def _tolerance(y: th.Tensor) -> th.Tensor:
    return 100.0 * th.finfo(y.dtype).eps * (1.0 + y.abs().amax(dim=1))


def _chord(function: Function, y: th.Tensor, x: th.Tensor, matrix: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Newton's iteration with one matrix for all steps: the solution, and in which rows it is one."""
    tolerance = _tolerance(y)
    factors, pivots, _ = th.linalg.lu_factor_ex(matrix)
    residual = function(x) - y
    for _ in range(_CHORD_ITERATIONS):
        wrong = residual.norm(dim=1) > tolerance
        if not wrong.any():
            break
        step = th.linalg.lu_solve(factors, pivots, residual[:, :, None])[:, :, 0]
        x = th.where(wrong[:, None], x - step, x)
        residual = function(x) - y
    return x, residual.norm(dim=1) <= tolerance


def _newton(function: Function, y: th.Tensor, x: th.Tensor, iterations: int) -> tuple[th.Tensor, th.Tensor]:
    """The solution from one start, and in which rows it is one."""
    tolerance = _tolerance(y)
    value, matrix = jacobian(function, x)
    for _ in range(iterations):
        error = (value - y).norm(dim=1)
        if (error <= tolerance).all():
            break
        x = _newton_step(function, x, y, value, matrix, error)
        value, matrix = jacobian(function, x)
    return x, (value - y).norm(dim=1) <= 10.0 * tolerance


def _newton_step(
    function: Function, x: th.Tensor, y: th.Tensor, value: th.Tensor, matrix: th.Tensor, error: th.Tensor
) -> th.Tensor:
    solution, _ = th.linalg.solve_ex(matrix, (value - y)[:, :, None])
    direction = solution[:, :, 0]
    # Where the Jacobian is singular, go along the error itself
    direction = th.where(direction.isfinite().all(dim=1, keepdim=True), direction, value - y)
    length = th.ones_like(error)
    for _ in range(_HALVINGS):
        worse = (function(x - length[:, None] * direction) - y).norm(dim=1) > error
        if not worse.any():
            break
        length = th.where(worse, 0.5 * length, length)
    return x - length[:, None] * direction
