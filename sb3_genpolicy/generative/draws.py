"""
Random numbers of a loss: from a generator, or made ahead, as where several models are trained by one vectorised pass.
"""

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
    """

    kind: Kind
    shape: tuple[int, ...]
    device: th.device
    dtype: th.dtype

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


#: Where random numbers come from; None: torch's global generator
Source = th.Generator | Tape | None


def draw(kind: Kind, shape: Sequence[int], like: th.Tensor, source: Source) -> th.Tensor:
    """
    :param kind: ``normal``, ``uniform`` or ``sign``
    :param shape: how many
    :param like: a tensor of the device and the type that are wanted
    :param source: where they come from
    :return: the numbers, of the shape
    """
    wanted = Draw(kind, tuple(shape), like.device, like.dtype)
    return source.take(wanted) if isinstance(source, Tape) else wanted.make(source)
