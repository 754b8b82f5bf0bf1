"""
Training stops before a number that is not finite reaches the parameters.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch as th
from torch.optim import Optimizer

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
    raise _diverged(step, broken, every_step)


def gradients_are_finite(optimizers: Iterable[Optimizer]) -> bool:
    """
    Costs one pass over the gradients and one wait for the device.

    :param optimizers: whose parameters have them
    :return: whether no entry is NaN or infinite
    """
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    gradients = [parameter.grad for group in groups for parameter in group["params"] if parameter.grad is not None]
    # One look where all is well; the norm of finite ones may overflow
    norms = th._foreach_norm(gradients)
    return not norms or math.isfinite(th.stack(norms).sum()) or all(gradient.isfinite().all() for gradient in gradients)


def check_gradients(step: int, optimizers: Mapping[str, Optimizer], every_step: bool = True) -> None:
    """
    Losses may be finite where their gradients are not.

    :param step: number of the gradient step, for the message
    :param optimizers: by the name of their network
    :param every_step: whether every step is looked at before it is made, so that the parameters are still good
    :raises FloatingPointError: if a gradient is NaN or infinite
    """
    if gradients_are_finite(optimizers.values()):
        return
    broken = [name for name, optimizer in optimizers.items() if not gradients_are_finite([optimizer])]
    raise _diverged(step, f"the gradient of {' and '.join(broken)} is not finite", every_step)


def _diverged(step: int, broken: str, every_step: bool) -> FloatingPointError:
    return FloatingPointError(
        f"Training diverged: in gradient step {step}, {broken}. {_KEPT if every_step else _LOST} Lower the learning rate or "
        "beta, clip gradients (max_grad_norm), or look for extreme rewards and observations in the data."
    )
