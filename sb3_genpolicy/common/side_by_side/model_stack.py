"""
Several models of one architecture as one: every parameter, buffer and optimizer state with an axis for the models in front.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn
from torch.optim import Optimizer

from sb3_genpolicy.common.algorithms.offline_algorithm import OfflineAlgorithm
from sb3_genpolicy.common.updates.averages import update_averages
from sb3_genpolicy.common.updates.recorded_update import clear_gradients

#: Entries of an optimizer's state that depend on the number of steps alone, and are equal in all models
STEP_COUNTS = ("step", "mu_product")


class ModelStack:
    """
    For as long as it lasts, the models' own tensors are views of their slices: they can be evaluated, saved and written to at
    any time. :meth:`release` gives them memory of their own again.

    :param models: models of one architecture, phase and device, see
        :func:`~sb3_genpolicy.common.side_by_side.learn.learn_side_by_side`
    """

    def __init__(self, models: Sequence[OfflineAlgorithm]):
        self._first = models[0]
        self._tensors = [_tensors_of(model) for model in models]
        #: (n_models, \*shape) for each tensor of a model
        self.tensors = [th.stack([own.detach() for own in owns]) for owns in zip(*self._tensors, strict=True)]
        stacked_of = {id(own): stacked for own, stacked in zip(self._tensors[0], self.tensors, strict=True)}
        self._places = _places_of(self._first, self._tensors[0])
        for k, owns in enumerate(self._tensors):
            for own, stacked in zip(owns, self.tensors, strict=True):
                own.data = stacked[k]
        self.heed_phase()
        members = [model.descent.optimizers() for model in models]
        self._optimizers = {
            name: StackedOptimizer([optimizers[name] for optimizers in members], stacked_of) for name in members[0]
        }
        averages = self._first.descent.averages.items()
        # Name of the average -> name of the network, and the stacked tensors of both
        self._averages = {
            average: (
                name,
                [stacked_of[id(own)] for own in pair.averages],
                [stacked_of[id(own)] for own in pair.parameters],
            )
            for average, (name, pair) in averages
        }

    def heed_phase(self) -> None:
        """Set ``requires_grad`` of the stacked tensors as in the models: which networks are frozen depends on the phase."""
        for own, stacked in zip(self._tensors[0], self.tensors, strict=True):
            if stacked.requires_grad != own.requires_grad:
                stacked.requires_grad_(own.requires_grad)

    @contextmanager
    def standing_for_all(self, tensors: Sequence[th.Tensor]) -> Iterator[None]:
        """
        Let the first model's networks compute with other tensors.

        :param tensors: in place of its own, in the order of :attr:`tensors`
        """
        try:
            for registry, name, index in self._places:
                registry[name] = tensors[index]
            yield
        finally:
            for registry, name, index in self._places:
                registry[name] = self._tensors[0][index]

    def optimizers(self, names: Iterable[str]) -> list["StackedOptimizer"]:
        """
        :param names: of networks
        :return: their optimizers
        """
        return [self._optimizers[name] for name in names]

    def follow(self, names: Collection[str]) -> None:
        """
        :param names: networks that made a step, whose running averages are updated
        """
        for average, (name, averages, parameters) in self._averages.items():
            if name in names:
                update_averages(averages, parameters, self._first.descent.rates[average])

    def release(self) -> None:
        """Give every model memory of its own. The stack must not be used afterwards."""
        for owns in self._tensors:
            for own in owns:
                own.data = own.data.clone()
                own.grad = None
        for optimizer in self._optimizers.values():
            optimizer.release()


def _tensors_of(model: OfflineAlgorithm) -> list[th.Tensor]:
    """Each once, however many modules share it."""
    return [*model.policy.parameters(), *model.policy.buffers()]


def _places_of(model: OfflineAlgorithm, tensors: Sequence[th.Tensor]) -> list[tuple[dict[str, Any], str, int]]:
    """Where modules keep these tensors: registry, name there, and index of the tensor."""
    indices = {id(tensor): index for index, tensor in enumerate(tensors)}
    registries = [registry for module in model.policy.modules() for registry in (module._parameters, module._buffers)]
    return [
        (registry, name, indices[id(tensor)])
        for registry in registries
        for name, tensor in registry.items()
        if tensor is not None
    ]


class StackedOptimizer:
    """
    One optimizer of the stacked parameters in place of the models' own, whose state becomes views of its state.

    :param members: the models' optimizers, that treat every entry by itself, with the same settings and steps
    :param stacked_of: stacked parameters by the id of the first model's
    """

    def __init__(self, members: Sequence[Optimizer], stacked_of: dict[int, th.Tensor]):
        self.members = members
        self._parameters: list[list[nn.Parameter]] = [member.param_groups[0]["params"] for member in members]
        self._stacked = [stacked_of[id(parameter)] for parameter in self._parameters[0]]
        (settings,) = members[0].param_groups
        self.optimizer = type(members[0])([{"params": self._stacked}], lr=settings["lr"])  # type: ignore[call-arg]
        self.optimizer.param_groups[0].update({name: value for name, value in settings.items() if name != "params"})
        self._take_states()

    def _take_states(self) -> None:
        for stacked, *owns in zip(self._stacked, *self._parameters, strict=True):
            states = [member.state.get(own) for member, own in zip(self.members, owns, strict=True)]
            if states[0]:
                self.optimizer.state[stacked] = {
                    name: _stack_values(name, [state[name] for state in states]) for name in states[0]  # type: ignore[index]
                }
        self._link_states()

    def _link_states(self) -> None:
        """Make the state of the models' own optimizers, which is saved with the models, views of the stacked state."""
        self._n_linked = len(self.optimizer.state)
        for stacked, *owns in zip(self._stacked, *self._parameters, strict=True):
            state = self.optimizer.state.get(stacked, {})
            for k, (member, own) in enumerate(zip(self.members, owns, strict=True)):
                if state:
                    member.state[own] = {name: _entry(name, value, k) for name, value in state.items()}

    def clear_gradients(self) -> None:
        """As ``zero_grad()``."""
        clear_gradients(self.optimizer)

    def hand_out_gradients(self) -> None:
        """Set ``grad`` of every model's parameters to its slice of the stacked gradients (a view, no copy)."""
        for stacked, *owns in zip(self._stacked, *self._parameters, strict=True):
            for k, own in enumerate(owns):
                own.grad = None if stacked.grad is None else stacked.grad[k]

    def step(self) -> None:
        """A step of all models, with the learning rate that the first one's optimizer has."""
        self.optimizer.param_groups[0]["lr"] = self.members[0].param_groups[0]["lr"]
        if self._n_linked and not self.members[0].state:
            # The models have entered a new phase, for which their optimizers' state was cleared
            self.optimizer.state.clear()
        self.optimizer.step()
        if len(self.optimizer.state) != self._n_linked or not self.members[0].state:
            self._link_states()

    def release(self) -> None:
        """Give every model's optimizer a state of its own."""
        for member in self.members:
            for parameter, state in member.state.items():
                member.state[parameter] = {
                    name: value.clone() if isinstance(value, th.Tensor) else value for name, value in state.items()
                }


def _stack_values(name: str, values: Sequence[Any]) -> Any:
    if not isinstance(values[0], th.Tensor):
        return values[0]
    return values[0].clone() if name in STEP_COUNTS else th.stack(list(values))


def _entry(name: str, value: Any, k: int) -> Any:
    return value[k] if isinstance(value, th.Tensor) and name not in STEP_COUNTS else value
