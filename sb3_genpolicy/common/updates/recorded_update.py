"""
A whole update as one CUDA graph: recorded once, then replayed without Python and without launching its kernels one by one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch as th
from stable_baselines3.common.logger import Logger
from torch.optim import Optimizer

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.updates.device_means import DeviceMeans
from sb3_genpolicy.common.updates.guards import FiniteGuard
from sb3_genpolicy.common.utils import attributes

# Updates of each kind that are run normally before one is recorded: they create the optimizers' state and the log's sums
_WARM_UP = 3


class RecordedUpdate:
    """
    Records an update on a CUDA device, and replays it. Numbers that change between updates (learning rate, rates of the
    running averages) have to be in tensors that are filled before a replay. A replay draws new random numbers from the
    generators.

    :param generators: random states that the update draws from, on the device
    :param means: what the update adds to for the log; every name is there already
    """

    def __init__(self, generators: Iterable[th.Generator], means: DeviceMeans):
        self._graph = th.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        self._means = means
        self._counts: dict[str, int] = {}

    def record(self, update: Callable[[], None]) -> None:
        """
        :param update: is called once; its kernels are noted, not run
        :raises RuntimeError: if it waits for the device, or does anything else that no graph can hold
        """
        before, self._means.counts = self._means.counts, {}
        try:
            with th.cuda.graph(self._graph):
                update()
            self._counts = self._means.counts
        finally:
            self._means.counts = before

    def replay(self) -> None:
        """Run what was recorded."""
        self._graph.replay()
        self._means.count(self._counts)


def on_side_stream(update: Callable[[], None]) -> None:
    """
    Run an update on a side stream, as CUDA graphs require of the updates that precede a recording.

    :param update: the update
    """
    side = th.cuda.Stream()
    side.wait_stream(th.cuda.current_stream())
    with th.cuda.stream(side):
        update()
    th.cuda.current_stream().wait_stream(side)


def make_recordable(optimizer: Optimizer, device: th.device) -> None:
    """
    Keep what changes from step to step on the device: the learning rate and the count of steps.

    :param optimizer: an optimizer of torch's that knows ``capturable``
    :param device: the CUDA device
    """
    for group in optimizer.param_groups:
        group["capturable"] = True
        if not isinstance(group["lr"], th.Tensor):
            group["lr"] = th.tensor(float(group["lr"]), device=device)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), th.Tensor):
            state["step"] = state["step"].to(device)


def make_ordinary(optimizer: Optimizer) -> None:
    """
    Undo :func:`make_recordable`, as for a model that was saved on a GPU and goes on elsewhere.

    :param optimizer: an optimizer
    """
    for group in optimizer.param_groups:
        if group.get("capturable"):
            group["capturable"] = False
        group["lr"] = float(group["lr"])


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """
    :param optimizer: an optimizer
    :param rate: its learning rate from now on, also in replays
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], th.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clear_gradients(optimizer: Optimizer) -> None:
    """
    As ``optimizer.zero_grad()``, without its bookkeeping.

    :param optimizer: an optimizer
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


class HasGenerator(Protocol):
    """Anything with a random generator that an update draws from."""

    generator: Any


class UpdateRecorder(Transient):
    """
    Makes updates: one by one, or, once :meth:`start` was called, by recording one of each kind and replaying it.
    """

    def __init__(self) -> None:
        #: Whether updates are recorded
        self.active = False
        self._recorded: RecordedUpdate | None = None
        # The kind of the latest updates, and how many of that kind were run
        self._kind: tuple[Any, ...] = ()
        self._made = 0

    def stop(self) -> None:
        """Make updates one by one."""
        self.active, self._recorded, self._kind, self._made = False, None, (), 0

    def start(self, sources: Sequence[HasGenerator], means: DeviceMeans, guard: FiniteGuard, logger: Logger) -> None:
        """
        Record updates from here on.

        :param sources: what updates draw from, on the device
        :param means: what updates add to for the log
        :param guard: against numbers that are not finite
        :param logger: is told where an update cannot be recorded
        """
        self.stop()
        self.active = True
        self._sources, self._means, self._guard, self._logger = sources, means, guard, logger

    def make(self, update: Callable[[], None], kind: tuple[Any, ...]) -> None:
        """
        Make an update. The first ones of a kind are made one by one, then one is recorded, and replayed from then on.

        :param update: makes one
        :param kind: identifies the update: a recording can stand for any update of the same kind
        """
        if not self.active:
            update()
            return
        if kind != self._kind:
            self._recorded, self._kind, self._made = None, kind, 0
        if self._recorded is None and self._made < _WARM_UP:
            self._made += 1
            on_side_stream(update)
        elif self._recorded is None and not self._record(update):
            update()
        else:
            assert self._recorded is not None
            self._recorded.replay()
            self._guard.check_replayed()

    def _record(self, update: Callable[[], None]) -> bool:
        """Returns whether the update could be recorded."""
        generators = [source.generator for source in self._sources]
        states = [generator.get_state() for generator in generators]
        self._recorded = RecordedUpdate(generators, self._means)
        try:
            with attributes(self._guard, recording=True):
                self._recorded.record(update)
        except RuntimeError as error:
            self._logger.warn(f"Updates are made step by step, not recorded (capture=True): {str(error).splitlines()[0]}")
            self.stop()
            # A generator may be left in its recording state
            for source, generator, state in zip(self._sources, generators, states, strict=True):
                source.generator = th.Generator(generator.device).set_state(state)
            return False
        return True
