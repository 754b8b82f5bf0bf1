"""
The step of several optimizers by one call.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from torch.optim import Optimizer
from torch.optim import optimizer as of_torch
from torch.optim.adam import adam

# What two optimizers have to share so that one call steps both
_SETTINGS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")
_STATE = ("exp_avg", "exp_avg_sq", "step")


def step_all(optimizers: Sequence[Optimizer]) -> None:
    """
    ``optimizer.step()`` of each, with the same numbers. Fused Adam on a CPU (the default) is called once for all networks of
    one learning rate: for small networks, what torch does around a step takes longer than the step.

    :param optimizers: of networks that share no parameters
    """
    together: dict[tuple[Any, ...], list[Optimizer]] = {}
    for optimizer in optimizers:
        if _is_plain(optimizer):
            group = optimizer.param_groups[0]
            together.setdefault(tuple(group[name] for name in _SETTINGS), []).append(optimizer)
        else:
            optimizer.step()
    for alike in together.values():
        if len(alike) == 1:
            alike[0].step()
        else:
            _step_as_one(alike)


def _is_plain(optimizer: Optimizer) -> bool:
    """Whether its step is nothing but fused Adam's on a CPU: begun, and with nobody who listens or takes part."""
    # A class derived from Adam, or a learning-rate schedule of torch's, has a step of its own
    if type(optimizer) is not th.optim.Adam or "step" in vars(optimizer) or len(optimizer.param_groups) != 1:
        return False
    group = optimizer.param_groups[0]
    if not group["fused"] or group["amsgrad"] or group.get("decoupled_weight_decay") or isinstance(group["lr"], th.Tensor):
        return False
    if getattr(optimizer, "found_inf", None) is not None or getattr(optimizer, "grad_scale", None) is not None:
        return False
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    if any(hooks) or of_torch._global_optimizer_pre_hooks or of_torch._global_optimizer_post_hooks:
        return False
    parameters = group["params"]
    begun = all(optimizer.state.get(parameter) and parameter.grad is not None for parameter in parameters)
    return begun and parameters[0].device.type == "cpu" and not parameters[0].is_complex()


@th.no_grad()
def _step_as_one(optimizers: Sequence[Optimizer]) -> None:
    parameters = [parameter for optimizer in optimizers for parameter in optimizer.param_groups[0]["params"]]
    states = [optimizer.state[parameter] for optimizer in optimizers for parameter in optimizer.param_groups[0]["params"]]
    first, second, steps = ([state[name] for state in states] for name in _STATE)
    gradients = [parameter.grad for parameter in parameters]
    group = optimizers[0].param_groups[0]
    beta1, beta2 = group["betas"]
    options = {name: group[name] for name in _SETTINGS if name != "betas"}
    adam(parameters, gradients, first, second, [], steps, fused=True, beta1=beta1, beta2=beta2, **options)  # type: ignore[arg-type]
