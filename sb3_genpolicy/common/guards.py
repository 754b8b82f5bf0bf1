"""
Training stops before a number that is not finite reaches the parameters.
"""

import torch as th


def check_finite(step: int, **terms: th.Tensor) -> None:
    """
    Costs one wait for the device.

    :param step: number of the gradient step, for the message
    :param terms: scalars by name, of which none may be NaN or infinite
    :raises FloatingPointError: if one is, with all that are
    """
    values = th.stack([term.detach() for term in terms.values()])
    if th.isfinite(values).all():
        return
    broken = ", ".join(
        f"{name} = {value:g}" for name, value in zip(terms, values.tolist(), strict=True) if value - value != 0.0
    )
    raise FloatingPointError(
        f"Training diverged: in gradient step {step}, {broken}. The parameters are those before this step, which are finite: "
        "`model.save(...)` keeps them. Lower the learning rate or beta, clip gradients (max_grad_norm), "
        "or look for extreme rewards and observations in the data."
    )
