"""
Random numbers of a loss, from one of three sources: a generator; numbers drawn beforehand, when several models are trained by
one vectorised pass; or a share of those of a joint batch, when several processes train one model.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch as th

Kind = Literal["normal", "uniform", "sign"]


class Draw(NamedTuple):
    """
    :param kind: ``normal``, N(0, 1); ``uniform``, [0, 1); or ``sign``, plus or minus one
    :param shape: how many
    :param device: where the numbers are wanted
    :param dtype: their type
    :param rows_axis: which axis of the shape is that of the batch's rows
    """

    kind: Kind
    shape: tuple[int, ...]
    device: th.device
    dtype: th.dtype
    rows_axis: int = 0

    def make(self, generator: th.Generator | None) -> th.Tensor:
        """
        :param generator: source; torch's global one by default
        :return: the numbers, of the shape
        """
        if self.kind == "normal":
            return th.randn(self.shape, generator=generator, device=self.device, dtype=self.dtype)
        if self.kind == "uniform":
            return th.rand(self.shape, generator=generator, device=self.device, dtype=self.dtype)
        return th.randint(0, 2, self.shape, generator=generator, device=self.device).to(self.dtype) * 2.0 - 1.0


class Tape:
    """
    Notes what is drawn, or hands out what was drawn ahead.

    :param generator: where draws come from while they are noted
    :param ahead: numbers to hand out in this order, in place of that
    """

    def __init__(self, generator: th.Generator | None = None, ahead: Sequence[th.Tensor] | None = None):
        self.generator = generator
        self.ahead = None if ahead is None else list(ahead)
        self.draws: list[Draw] = []

    def take(self, draw: Draw) -> th.Tensor:
        """
        :param draw: what is wanted
        :return: the numbers
        """
        self.draws.append(draw)
        if self.ahead is None:
            return draw.make(self.generator)
        return self.ahead[len(self.draws) - 1]


class Share:
    """
    Draws for the rows of all shares, and hands out those of one.

    :param generator: generator in the same state for all shares
    :param index: which share, from 0
    :param n_shares: number of shares, of equally many rows that follow each other
    """

    def __init__(self, generator: th.Generator, index: int, n_shares: int):
        self.generator, self.index, self.n_shares = generator, index, n_shares

    def take(self, draw: Draw) -> th.Tensor:
        """
        :param draw: what is wanted for this share
        :return: the numbers
        """
        axis, n_rows = draw.rows_axis, draw.shape[draw.rows_axis]
        joint = (*draw.shape[:axis], n_rows * self.n_shares, *draw.shape[axis + 1 :])
        return draw._replace(shape=joint).make(self.generator).narrow(axis, self.index * n_rows, n_rows)


#: Where random numbers come from; None: torch's global generator
Source = th.Generator | Tape | Share | None


def draw(kind: Kind, shape: Sequence[int], like: th.Tensor, source: Source, rows_axis: int = 0) -> th.Tensor:
    """
    :param kind: ``normal``, ``uniform`` or ``sign``
    :param shape: how many
    :param like: a tensor of the device and the type that are wanted
    :param source: where they come from
    :param rows_axis: which axis of the shape is that of the batch's rows
    :return: the numbers, of the shape
    """
    wanted = Draw(kind, tuple(shape), like.device, like.dtype, rows_axis)
    return source.take(wanted) if isinstance(source, (Tape, Share)) else wanted.make(source)


@functools.cache
def fixed_normals(seed: int, shape: tuple[int, ...]) -> th.Tensor:
    """
    :param seed: which numbers
    :param shape: how many
    :return: standard normal numbers, the same in every call, kept, and not to be written to
    """
    with th.inference_mode(False):
        return th.randn(shape, generator=th.Generator().manual_seed(seed))
