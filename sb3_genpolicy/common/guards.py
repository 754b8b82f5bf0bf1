"""
Training stops before a number that is not finite reaches the parameters.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch as th


def check_finite(step: int, terms: Mapping[str, th.Tensor], others: Mapping[str, th.Tensor] = MappingProxyType({})) -> None:
    """
    Costs one wait for the device.

    :param step: number of the gradient step, for the message
    :param terms: scalars by name, of which none may be NaN or infinite
    :param others: what else to name in the message if it is one of these
    :raises FloatingPointError: if one is, with all that are
    """
    # One look where all is well: no sum of a NaN or of an infinity is finite
    if math.isfinite(sum(term.detach() for term in terms.values())):
        return
    values = {name: term.item() for name, term in {**terms, **others}.items()}
    if all(math.isfinite(values[name]) for name in terms):
        return
    broken = ", ".join(f"{name} = {value:g}" for name, value in values.items() if not math.isfinite(value))
    raise FloatingPointError(
        f"Training diverged: in gradient step {step}, {broken}. The parameters are those before this step, which are finite: "
        "`model.save(...)` keeps them. Lower the learning rate or beta, clip gradients (max_grad_norm), "
        "or look for extreme rewards and observations in the data."
    )
