"""
The guard against numbers that are not finite: training stops before one reaches the parameters.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch as th
from torch.optim import Optimizer

from sb3_genpolicy.common.files.transient import Transient

# On a GPU, reading the losses at every step would make each step wait for the device
_CHECK_EVERY_ON_GPU = 100
# Optimizers whose fused step can be told to change nothing
_TOLD_TO_WAIT = (th.optim.Adam, th.optim.AdamW)

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
    :param others: further scalars to name in the message if they are not finite
    :param every_step: whether every step is checked before it is made, so that the parameters are still good
    :raises FloatingPointError: if one of ``terms`` is NaN or infinite; the message names all that are
    """
    # One read is enough if all is well: the sum is finite only if every term is
    if math.isfinite(sum(term.detach() for term in terms.values())):
        return
    values = {name: term.item() for name, term in {**terms, **others}.items()}
    if all(math.isfinite(values[name]) for name in terms):
        return
    raise _diverged_by(step, values, _KEPT if every_step else _LOST)


def _diverged_by(step: int, values: Mapping[str, float], parameters: str) -> FloatingPointError:
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
    # One read is enough if all is well. A norm may overflow though the gradients are finite
    norms = th._foreach_norm(gradients)
    return math.isfinite(th.stack(norms).sum()) or all(gradient.isfinite().all() for gradient in gradients)


def check_gradients(step: int, optimizers: Mapping[str, Optimizer], every_step: bool = True) -> None:
    """
    Losses may be finite where their gradients are not.

    :param step: number of the gradient step, for the message
    :param optimizers: by the name of their network
    :param every_step: whether every step is checked before it is made, so that the parameters are still good
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


class DeviceGuard:
    """
    Freezes the parameters from the first number on that is not finite, without making every step wait for the device: numbers
    are checked on the device, also in a recorded update, and read by the host only now and then.

    It uses ``found_inf``, the flag that :class:`torch.amp.GradScaler` sets: with it, torch's fused optimizers change neither
    parameters nor moments nor their count of steps.

    :param device: where the numbers are
    """

    def __init__(self, device: th.device):
        #: 1 from the first step on that had a number that is not finite
        self.found = th.zeros((), device=device)
        self._step, self._found_at = (th.zeros((), dtype=th.int64, device=device) for _ in range(2))
        # The numbers of that step, by the names of the scalars that were noted together
        self._numbers: dict[tuple[str, ...], th.Tensor] = {}

    def begin(self, step: int) -> None:
        """
        :param step: number of the gradient step that begins
        """
        self._step.fill_(step)

    def note(self, terms: Mapping[str, th.Tensor], others: Mapping[str, th.Tensor]) -> None:
        """
        :param terms: scalars by name, of which none may be NaN or infinite
        :param others: further scalars to name in the message if they are not finite
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
        :param change: size or rate of a change that is about to be made
        :return: the same, or zero once a number was not finite
        """
        if isinstance(change, th.Tensor):
            # Not a product: `change` may itself be NaN
            return th.where(self.found > 0.0, th.zeros_like(change), change)
        return (1.0 - self.found) * change

    def check(self) -> None:
        """
        Costs one wait for the device.

        :raises FloatingPointError: if a number was not finite; the message names the first such step and all such numbers
        """
        if self.found.item():
            values = {
                name: value
                for names, numbers in self._numbers.items()
                for name, value in zip(names, numbers.tolist(), strict=True)
            }
            raise _diverged_by(int(self._found_at), values, _KEPT_SINCE)


def looks_at_every_step(device: th.device) -> bool:
    """
    :param device: where a model is trained
    :return: whether a look at the numbers of every step costs no wait for the device
    """
    return device.type == "cpu"


class FiniteGuard(Transient):
    """
    Stops training when a loss or a gradient is not finite. On a CPU every step is checked before it is made. On a GPU the
    check runs on the device, and its result is read only now and then; in between, :class:`DeviceGuard` freezes the
    parameters if the optimizers support that.

    :param device: where the numbers are
    """

    def __init__(self, device: th.device):
        self.device = device
        #: Freezes the parameters on the device; None where this is not needed (on a CPU), or the optimizers do not support it
        self.on_device: DeviceGuard | None = None
        #: Whether an update is being recorded: its tensors then have no values to check
        self.recording = False
        self._step = 0
        # Losses of the recorded update, to be checked after a replay
        self._recorded_terms: dict[str, th.Tensor] = {}

    @property
    def every_step(self) -> bool:
        """Whether every step is checked before it is made."""
        return looks_at_every_step(self.device)

    @property
    def looks_now(self) -> bool:
        """Whether this step is checked before it is made."""
        return self.every_step or (self._step - 1) % _CHECK_EVERY_ON_GPU == 0

    def keep_parameters(self, optimizers: Iterable[Optimizer], wanted: bool) -> None:
        """
        Start or stop freezing the parameters on the device from the first number on that is not finite.

        :param optimizers: of all networks
        :param wanted: True to start, which has an effect only on a GPU and if all optimizers support it; False to stop
        """
        optimizers = list(optimizers)
        can_wait = all(
            type(optimizer) in _TOLD_TO_WAIT and bool(group["fused"])
            for optimizer in optimizers
            for group in optimizer.param_groups
        )
        self.on_device = DeviceGuard(self.device) if wanted and can_wait and not self.every_step else None
        self._recorded_terms = {}
        for optimizer in optimizers:
            optimizer.found_inf = None if self.on_device is None else self.on_device.found  # type: ignore[attr-defined]

    def begin(self, step: int) -> None:
        """
        :param step: number of the gradient step that begins, from 1
        """
        self._step = step
        if self.on_device is not None:
            self.on_device.begin(step)

    def check_losses(self, losses: Mapping[str, th.Tensor], means: Mapping[str, th.Tensor]) -> None:
        """
        :param losses: scalars by name, of which none may be NaN or infinite
        :param means: further scalars to name in the message if they are not finite
        :raises FloatingPointError: if one of ``losses`` is NaN or infinite and this step is checked
        """
        if self.on_device is not None:
            self.on_device.note(losses, means)
        elif self.recording:
            self._recorded_terms.update({name: term.detach() for name, term in losses.items()})
        elif self.looks_now:
            check_finite(self._step, losses, means, every_step=self.every_step)

    def check_gradients(self, optimizers: Mapping[str, Optimizer]) -> None:
        """
        :param optimizers: whose parameters have gradients, by the name of their network
        :raises FloatingPointError: if a gradient is NaN or infinite and this step is checked
        """
        if self.on_device is not None:
            sizes = {f"the gradient of {name}": size_of_gradients(optimizer) for name, optimizer in optimizers.items()}
            self.on_device.note(sizes, {})
        elif self.looks_now and not self.recording:
            check_gradients(self._step, optimizers, every_step=self.every_step)

    def unless_broken(self, change: float | th.Tensor) -> float | th.Tensor:
        """
        :param change: size or rate of a change that is about to be made
        :return: the same, or zero once a number was not finite
        """
        return change if self.on_device is None else self.on_device.unless_found(change)

    def check_replayed(self) -> None:
        """
        :raises FloatingPointError: if a loss of a recorded update is not finite and this step is checked
        """
        if self._recorded_terms and (self._step - 1) % _CHECK_EVERY_ON_GPU == 0:
            check_finite(self._step, self._recorded_terms, every_step=False)

    def check_kept(self, now: bool) -> None:
        """
        :param now: whether to check at once, and not only every so many steps
        :raises FloatingPointError: if a number was not finite since the last check
        """
        if self.on_device is not None and (now or self._step % _CHECK_EVERY_ON_GPU == 0):
            self.on_device.check()
