"""
Training stops before a number that is not finite reaches the parameters.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch as th

_KEPT = "The parameters are those before this step, which are finite: `model.save(...)` keeps them."
_LOST = "Looks are rare on a GPU, where each waits for it, and the parameters may not be finite any more: load a checkpoint."


def check_finite(
    step: int,
    terms: Mapping[str, th.Tensor],
    others: Mapping[str, th.Tensor] = MappingProxyType({}),
    every_step: bool = True,
) -> None:
    """
    Costs one wait for the device.

    :param step: number of the gradient step, for the message
    :param terms: scalars by name, of which none may be NaN or infinite
    :param others: what else to name in the message if it is one of these
    :param every_step: whether every step is looked at before it is made, so that the parameters are still good
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
        f"Training diverged: in gradient step {step}, {broken}. {_KEPT if every_step else _LOST} Lower the learning rate or "
        "beta, clip gradients (max_grad_norm), or look for extreme rewards and observations in the data."
    )
