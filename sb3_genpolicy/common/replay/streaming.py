"""
Batches that are gathered on threads while earlier ones are trained on.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch as th

# Batches that are prepared ahead: reading one from a disk takes longer than a small training step
_AHEAD = 4
_THREADS = 2


class _Pending(NamedTuple):
    state_before: th.Tensor
    rows: th.Tensor
    part: slice
    batch: "Future[Any]"


class Prefetcher:
    """
    Draws rows ahead and gathers them on threads. Which rows a batch has depends on the generator alone, in the order of the
    batches; threads draw nothing.

    :param draw: from a batch size to rows, drawn with ``generator``
    :param gather: from rows to a batch
    :param generator: generator for drawing rows, used for nothing else
    """

    def __init__(self, draw: Callable[[int], th.Tensor], gather: Callable[[th.Tensor], Any], generator: th.Generator):
        self._draw, self._gather, self._generator = draw, gather, generator
        self._pending: deque[_Pending] = deque()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rows")

    def next(self, batch_size: int, part: slice = slice(None)) -> tuple[th.Tensor, Any]:
        """
        :param batch_size: number of rows
        :param part: which of them are gathered
        :return: these rows, and the batch of them
        """
        if self._pending and (len(self._pending[0].rows), self._pending[0].part) != (batch_size, part):
            self.rewind()
        while len(self._pending) < _AHEAD:
            state = self._generator.get_state()
            rows = self._draw(batch_size)
            self._pending.append(_Pending(state, rows, part, self._threads.submit(self._gather, rows[part])))
        pending = self._pending.popleft()
        return pending.rows[part], pending.batch.result()

    def random_state(self) -> th.Tensor:
        """
        :return: the generator's state before the first batch that was not handed out yet
        """
        return self._pending[0].state_before if self._pending else self._generator.get_state()

    def rewind(self) -> None:
        """Drop the batches that are prepared ahead, and reset the generator so that they are drawn again."""
        if self._pending:
            self._generator.set_state(self._pending[0].state_before)
        self._pending.clear()

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
