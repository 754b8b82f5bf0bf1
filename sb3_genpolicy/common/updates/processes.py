"""
One model, trained by several processes: each has its share of every batch, and the gradients are averaged.

The result is that of one process on the joint batch, up to rounding. Every process draws the rows and the random numbers of
the joint batch and keeps its share of them, so that nothing depends on how many there are. What depends on all rows beyond a
mean is computed from means over the joint batch (:func:`batch_mean`).
"""

import importlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch as th
import torch.distributed as dist
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from torch.optim import Optimizer

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.updates.batch import mean_of_rows
from sb3_genpolicy.common.updates.objective import Objective
from sb3_genpolicy.common.utils import attributes
from sb3_genpolicy.generative.checks import check_choice, check_number, named_arguments
from sb3_genpolicy.generative.draws import Share, Source

# What the first process tells the others after a step
_STOP, _GO_ON, _FAILED = range(3)


class OneProcess(Transient):
    """
    Training in one process: the operations that exchange data between processes do nothing here.
    """

    size = 1
    rank = 0
    #: Whether the processes still train together
    is_open = True

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that logs, evaluates and saves."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """
        :param batch_size: rows of the joint batch
        :return: which of them are this process's
        :raises ValueError: if they cannot be shared equally
        """
        return slice(None)

    def source(self, generator: th.Generator) -> Source:
        """
        :param generator: random state of a training, the same in every process
        :return: where the random numbers of this process's rows come from
        """
        return generator

    def sharing(self) -> AbstractContextManager[None]:
        """
        :return: context in which means are those of the joint batch
        """
        return nullcontext()

    def mean(self, values: th.Tensor) -> th.Tensor:
        """
        :param values: (..., rows of this process)
        :return: their mean over all rows of the batch, without gradient, (...); where no batch is shared, over these
        """
        return mean_of_rows(values)

    def average(self, objective: Objective, optimizers: Sequence[Optimizer]) -> Objective:
        """
        :param objective: of this process's rows
        :param optimizers: of the parameters that have gradients now, which become the joint batch's
        :return: the objective of the joint batch, without gradient
        """
        return objective

    def listening(self, callback: BaseCallback) -> BaseCallback:
        """
        :param callback: the callback of this process, initialised
        :return: one that ends the training where the first process's does
        """
        return callback


class SeveralProcesses(OneProcess):
    """
    A training in the processes of torch's process group.
    """

    def __init__(self) -> None:
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        self._is_sharing = False

    def part(self, batch_size: int) -> slice:
        n_rows, left = divmod(batch_size, self.size)
        if left:
            raise ValueError(
                f"batch_size={batch_size} is the joint batch of {self.size} processes, which cannot share it equally: take a "
                f"multiple of {self.size}, as {(n_rows + 1) * self.size}."
            )
        return slice(self.rank * n_rows, (self.rank + 1) * n_rows)

    def source(self, generator: th.Generator) -> Source:
        return Share(generator, self.rank, self.size)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        with attributes(self, _is_sharing=True):
            yield

    def mean(self, values: th.Tensor) -> th.Tensor:
        mine = super().mean(values)
        # A callback may call this too, and callbacks run in the first process only
        return self._averaged(mine) if self._is_sharing else mine

    def average(self, objective: Objective, optimizers: Sequence[Optimizer]) -> Objective:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        parameters = [parameter for group in groups for parameter in group["params"] if parameter.grad is not None]
        scalars = [*objective.losses.values(), *objective.means.values(), *objective.extras.values()]
        tensors = [*(parameter.grad for parameter in parameters), *(scalar.detach() for scalar in scalars)]
        # In one message: several small ones cost mostly the wait for each
        joint = self._averaged(th.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = joint.split([tensor.numel() for tensor in tensors])
        averaged = iter([part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)])
        for parameter in parameters:
            parameter.grad = next(averaged)
        terms = (objective.losses, objective.means, objective.extras)
        losses, means, extras = ({name: next(averaged) for name in of_kind} for of_kind in terms)
        return Objective(losses, objective.trains, means, extras)

    def _averaged(self, values: th.Tensor) -> th.Tensor:
        with _as_sentence():
            dist.all_reduce(values)
        return values.div_(self.size)

    def listening(self, callback: BaseCallback) -> BaseCallback:
        return _FirstDecides(self, callback)

    def tell(self, word: int) -> int:
        """
        :param word: the status to send (stop, go on or failed); only the first process's counts
        :return: the first process's status
        :raises RuntimeError: in the other processes, if the first one failed
        """
        said = th.tensor([word])
        with _as_sentence():
            dist.broadcast(said, src=0)
        if int(said) == _FAILED and not self.is_first:
            raise RuntimeError(
                "The first process's callback ended with an error, which its output shows; so this one ends too."
            )
        return int(said)

    def of_first(self, content: Callable[[], Any], device: th.device) -> Any:
        """
        :param content: gives tensors, numbers and containers of them; asked for in the first process
        :param device: where the others want them
        :return: what the first process has, in each
        """
        file = io.BytesIO()
        if self.is_first:
            th.save(content(), file)
        size = th.tensor([file.getbuffer().nbytes])
        with _as_sentence():
            dist.broadcast(size, src=0)
            data = th.frombuffer(file.getbuffer(), dtype=th.uint8) if self.is_first else th.empty(int(size), dtype=th.uint8)
            dist.broadcast(data, src=0)
        return th.load(io.BytesIO(data.numpy().tobytes()), map_location=device)

    def of_all(self, mine: Any) -> list[Any]:
        """
        :param mine: something small
        :return: what every process has in its place
        """
        gathered = [None] * self.size
        with _as_sentence():
            dist.all_gather_object(gathered, mine)
        return gathered


class _FirstDecides(CallbackList):
    """
    A callback whose answer is the first process's in all of them. It costs one small message a step, on the host.
    """

    def __init__(self, processes: SeveralProcesses, callback: BaseCallback):
        super().__init__([callback])
        self.processes = processes
        self.model = callback.model

    def _on_step(self) -> bool:
        try:
            goes_on = super()._on_step()
        except BaseException:
            # Tell the other processes, which would otherwise wait for the next step
            self.processes.tell(_FAILED)
            raise
        return self.processes.tell(_GO_ON if goes_on else _STOP) == _GO_ON


@contextmanager
def _as_sentence() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "Another process of this training has ended, or was waited for longer than the timeout of data_parallel: its own "
            f"output says why. ({str(error).splitlines()[0]})"
        ) from error


# The processes of the open `data_parallel` context
_CURRENT: ContextVar[OneProcess | None] = ContextVar("processes", default=None)


def processes() -> OneProcess:
    """
    :return: the processes of the open :func:`data_parallel` context, or :class:`OneProcess` outside of one. A model holds it
        for as long as it learns.
    """
    return _CURRENT.get() or OneProcess()


def world_size() -> int:
    """
    :return: how many processes train a model that learns now; 1 outside of :func:`data_parallel`
    """
    return processes().size


def batch_mean(values: th.Tensor) -> th.Tensor:
    """
    For whatever depends on all rows of a batch, of which several processes have a share each.

    :param values: (..., n_rows)
    :return: their mean over the joint batch, without gradient, (...)
    """
    return processes().mean(values)


@contextmanager
@named_arguments
def data_parallel(device: str = "auto", timeout: float = 1800.0) -> Iterator[th.device]:
    """
    Let the processes that ``torchrun`` has started train one model: each of them runs the same script, and inside this context
    ``learn`` shares every batch among them and averages the gradients. The result is that of one process on the joint batch,
    up to rounding.

    The first process logs, evaluates and saves: callbacks, loggers and progress bars are its own, and ``save`` does nothing in
    the others. A callback that ends the training ends it in all. Callbacks may look at the model and not change it, since
    the others would not hear of it. At the end of the context processes wait for each other, so that afterwards all
    find what the first one saved.

    In a script that was started without ``torchrun`` there is one process, and nothing is shared. A process group that is
    there already is used, and left as it is.

    :param device: ``auto``, a GPU for each process if there are any; ``cpu`` or ``cuda``. Processes talk by gloo on CPUs and
        by nccl on GPUs.
    :param timeout: seconds that a process waits for the others, > 0, for instance for an evaluation in the first one
    :return: context of this process's device, which the model is given as ``device=``
    :raises ValueError: if there are fewer GPUs than processes on this machine, or inside another such context
    :raises RuntimeError: in the others, when a process ends before its time
    """
    check_choice("device", device, ("auto", "cpu", "cuda"))
    check_number("timeout", timeout, low=0.0, low_open=True)
    if world_size() > 1:
        raise ValueError("These processes train together already: one data_parallel() is enough.")
    own = _own_device(device)
    is_new = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1
    if is_new:
        # Import it before the process group exists. Otherwise torch imports it in an optimizer's first step, its functions
        # keep the group as a default argument for good, and the group's threads sometimes end the interpreter with an error
        importlib.import_module("torch.distributed.nn.functional")
        backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout), device_id=own if own.type == "cuda" else None)
    together = SeveralProcesses() if dist.is_initialized() and dist.get_world_size() > 1 else None
    before = _CURRENT.set(together)
    try:
        yield own
        if together is not None:
            together.of_all(None)
    finally:
        _CURRENT.reset(before)
        if together is not None:
            together.is_open = False
        if is_new:
            dist.destroy_process_group()


def _own_device(device: str) -> th.device:
    if device == "cpu" or (device == "auto" and not th.cuda.is_available()):
        return th.device("cpu")
    index, n_gpus = int(os.environ.get("LOCAL_RANK", 0)), th.cuda.device_count()
    if index >= n_gpus:
        raise ValueError(
            f"Process {index} of this machine has no GPU of its own, there are {n_gpus}: start as many processes as GPUs "
            '(torchrun --nproc-per-node), or train on CPUs, with data_parallel(device="cpu").'
        )
    own = th.device("cuda", index)
    th.cuda.set_device(own)
    return own
