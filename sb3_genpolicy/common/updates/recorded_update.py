"""
A whole update as one CUDA graph: recorded once, then replayed without Python and without launching its kernels one by one.
"""

from collections.abc import Callable, Iterable

import torch as th
from torch.optim import Optimizer

from sb3_genpolicy.common.updates.device_means import DeviceMeans


class RecordedUpdate:
    """
    Records an update on a CUDA device, and replays it. What the host decides anew for every update (learning rate, rate of the
    average) has to be in tensors that it fills before a replay. Draws go on from where the generators are.

    :param generators: random states that the update draws from, on the device
    :param means: what the update adds to for the log; every name is there already
    """

    def __init__(self, generators: Iterable[th.Generator], means: DeviceMeans):
        self.recording = False
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
        self.recording = True
        try:
            with th.cuda.graph(self._graph):
                update()
            self._counts = self._means.counts
        finally:
            self.recording = False
            self._means.counts = before

    def replay(self) -> None:
        """Run what was recorded."""
        self._graph.replay()
        self._means.count(self._counts)


def on_side_stream(update: Callable[[], None]) -> None:
    """
    Make an update as those before a recording have to be made: on another stream than the device's default.

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
