"""
Training stops before a number that is not finite reaches the parameters.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch as th
from torch.optim import Optimizer

_KEPT = "The parameters are those before this step, which are finite: `model.save(...)` keeps them."
_KEPT_SINCE = (
    "The parameters are those before that step, which are finite, and the steps since then changed nothing: `model.save(...)` "
    "keeps them."
)
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
    raise _broken(step, values, _KEPT if every_step else _LOST)


def _broken(step: int, values: Mapping[str, float], parameters: str) -> FloatingPointError:
    broken = ", ".join(f"{name} = {value:g}" for name, value in values.items() if not math.isfinite(value))
    return _diverged(step, broken, parameters)


def size_of_gradients(optimizer: Optimizer) -> th.Tensor:
    """
    :param optimizer: whose parameters have gradients
    :return: the sum of their norms, a scalar, which is finite only where all are
    """
    gradients = _gradients([optimizer])
    if not gradients:
        return th.zeros((), device=optimizer.param_groups[0]["params"][0].device)
    return th.stack(th._foreach_norm(gradients)).sum()


def _gradients(optimizers: Iterable[Optimizer]) -> list[th.Tensor]:
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return [parameter.grad for group in groups for parameter in group["params"] if parameter.grad is not None]


def gradients_are_finite(optimizers: Iterable[Optimizer]) -> bool:
    """
    Costs one pass over the gradients and one wait for the device.

    :param optimizers: whose parameters have them
    :return: whether no entry is NaN or infinite
    """
    gradients = _gradients(optimizers)
    if not gradients:
        return True
    # One look where all is well; the norm of finite ones may overflow
    norms = th._foreach_norm(gradients)
    return math.isfinite(th.stack(norms).sum()) or all(gradient.isfinite().all() for gradient in gradients)


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
    raise _diverged(step, f"the gradient of {' and '.join(broken)} is not finite", _KEPT if every_step else _LOST)


def _diverged(step: int, broken: str, parameters: str) -> FloatingPointError:
    return FloatingPointError(
        f"Training diverged: in gradient step {step}, {broken}. {parameters} Lower the learning rate or beta, clip gradients "
        "(max_grad_norm), or look for extreme rewards and observations in the data."
    )


class Keeper:
    """
    Keeps the parameters as they were before the first number that is not finite, where a look at every step would make each
    wait for the device. Everything is noted on the device, also by a recorded update.

    Torch's fused optimizers change neither parameters nor moments nor their count of steps where they are told of a number
    that is not finite: by ``found_inf``, which :class:`torch.amp.GradScaler` gives them.

    :param device: where the numbers are
    """

    def __init__(self, device: th.device):
        #: 1 from the first step on that had a number that is not finite
        self.found = th.zeros((), device=device)
        self._step, self._found_at = (th.zeros((), dtype=th.int64, device=device) for _ in range(2))
        # Of that step, by the names that were noted together
        self._numbers: dict[tuple[str, ...], th.Tensor] = {}

    def begin(self, step: int) -> None:
        """
        :param step: number of the gradient step that begins
        """
        self._step.fill_(step)

    def note(self, terms: Mapping[str, th.Tensor], others: Mapping[str, th.Tensor]) -> None:
        """
        :param terms: scalars by name, of which none may be NaN or infinite
        :param others: what else to name in the message if it is one of these
        """
        numbers = th.stack([number.detach().float() for number in (*terms.values(), *others.values())])
        broken = 1.0 - numbers[: len(terms)].isfinite().all().float()
        is_first = broken > self.found
        for noted, now in ((self._noted((*terms, *others)), numbers), (self._found_at, self._step)):
            noted.copy_(th.where(is_first, now, noted))
        self.found.copy_(th.maximum(self.found, broken))

    def _noted(self, names: tuple[str, ...]) -> th.Tensor:
        if names not in self._numbers:
            self._numbers[names] = th.zeros(len(names), device=self.found.device)
        return self._numbers[names]

    def unless_found(self, change: float | th.Tensor) -> th.Tensor:
        """
        :param change: by how much, or at which rate, something is about to change
        :return: that, or zero where it is to stay as it was
        """
        if isinstance(change, th.Tensor):
            # No product: it may itself be no number
            return th.where(self.found > 0.0, th.zeros_like(change), change)
        return (1.0 - self.found) * change

    def check(self) -> None:
        """
        Costs one wait for the device.

        :raises FloatingPointError: if a number was not finite, with the first step that had one, and all that were
        """
        if self.found.item():
            values = {
                name: value
                for names, numbers in self._numbers.items()
                for name, value in zip(names, numbers.tolist(), strict=True)
            }
            raise _broken(int(self._found_at), values, _KEPT_SINCE)
