"""
One step down the gradient of an objective, and everything that goes with it.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch as th
from torch.optim import Optimizer

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.updates.averages import PolyakAverage
from sb3_genpolicy.common.updates.device_means import DeviceMeans
from sb3_genpolicy.common.updates.guards import FiniteGuard
from sb3_genpolicy.common.updates.joint_step import step_all
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.updates.processes import OneProcess
from sb3_genpolicy.common.updates.recorded_update import clear_gradients, set_learning_rate


class Trained(Protocol):
    """What gradient descent needs to know of a policy."""

    def optimizers(self) -> dict[str, Optimizer]:
        """Optimizers of the networks that are trained, by the network's name."""

    def polyak_averages(self) -> dict[str, tuple[str, PolyakAverage]]:
        """Name of a running average -> name of the network that it follows, and the average."""


class GradientDescent(Transient):
    """
    Makes gradient steps of a policy's networks: guarded, averaged over processes, followed by the running averages, and
    noted for the log.

    :param policy: whose networks
    :param device: where they are
    """

    def __init__(self, policy: Trained, device: th.device):
        self.policy = policy
        self.device = device
        self.guard = FiniteGuard(device)
        #: For the log
        self.means = DeviceMeans()
        self.averages = policy.polyak_averages()
        #: Rate of each running average in this update; tensors where updates are recorded
        self.rates: dict[str, float | th.Tensor] = dict.fromkeys(self.averages, 1.0)

    def optimizers(self, names: Iterable[str] | None = None) -> dict[str, Optimizer]:
        """
        :param names: of networks, all that are trained by default
        :return: their optimizers
        """
        optimizers = self.policy.optimizers()
        return optimizers if names is None else {name: optimizers[name] for name in names}

    def prepare_rates(self, on_device: bool) -> None:
        """
        :param on_device: whether the rates are held as tensors on the device, from which a recorded update reads them
        """
        self.rates = {name: th.zeros((), device=self.device) if on_device else 1.0 for name in self.averages}

    def set_rate(self, average: str, rate: float) -> None:
        """
        :param average: name of a running average
        :param rate: at which it follows from now on, in [0, 1]
        """
        current = self.rates[average]
        if isinstance(current, th.Tensor):
            current.fill_(rate)
        else:
            self.rates[average] = rate

    def set_learning_rate(self, rate: float, names: Iterable[str] | None = None) -> None:
        """
        :param rate: learning rate from now on
        :param names: of networks, all that are trained by default
        """
        for optimizer in self.optimizers(names).values():
            set_learning_rate(optimizer, rate)

    def descend(
        self, objective: Objective, together: OneProcess, before_step: Callable[[Objective], dict[str, th.Tensor]]
    ) -> None:
        """
        One optimizer step of every network that the objective trains, then an update of their running averages.

        :param objective: with gradient
        :param together: the processes that share the batch
        :param before_step: called between the backward pass and the optimizer steps; returns further scalars for the log
        :raises FloatingPointError: before the step, if a loss or a gradient is not finite
        """
        optimizers = self.optimizers(objective.trains)
        for optimizer in optimizers.values():
            clear_gradients(optimizer)
        # Losses share no parameters, so that one pass gives the gradients of all
        th.autograd.backward(list(objective.losses.values()))
        # Replace losses and gradients by those of the joint batch, where several processes share it
        objective = together.average(objective, list(optimizers.values()))
        self.guard.check_losses(objective.losses, objective.means)
        self.guard.check_gradients(optimizers)
        means = before_step(objective)
        step_all(list(optimizers.values()))
        self.follow(objective.trains)
        self.means.add(**objective.losses, **objective.means, **means)

    def follow(self, names: Iterable[str]) -> None:
        """
        :param names: networks that made a step, whose running averages are updated
        """
        for average, (network, pair) in self.averages.items():
            if network in names:
                pair.update(self.guard.unless_broken(self.rates[average]))
