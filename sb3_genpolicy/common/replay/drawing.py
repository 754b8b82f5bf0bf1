"""
Which rows of a dataset are drawn, and how often.
"""

import numpy as np
import torch as th

from sb3_genpolicy.common.replay.row_store import as_tensor


class RowDraws:
    """
    Draws rows with replacement: all rows alike, or those of an episode as often as its weight says.

    :param n_rows: number of the dataset's rows
    :param rows: those that are drawn, ascending; all by default
    :param episode_starts: (n_episodes + 1,), the first row of every episode, and the number of rows last; for weights
    :param weights: (n_episodes,), how often a row of the episode is drawn, in proportion, >= 0; 0 where the episode is not
        among ``rows``. All alike by default.
    """

    def __init__(
        self,
        n_rows: int,
        rows: np.ndarray | None = None,
        episode_starts: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ):
        self.n_rows = n_rows
        self.rows: th.Tensor | None = None if rows is None else as_tensor(rows.astype(np.int64))
        #: First row and length of every episode, and the sum of all shares up to its own, where episodes have weights
        self.firsts: th.Tensor | None = None
        self.lengths: th.Tensor | None = None
        self.ends: th.Tensor | None = None
        if weights is not None:
            assert episode_starts is not None
            lengths = np.diff(episode_starts)
            ends = np.cumsum(weights * lengths, dtype=np.float64)
            self.firsts = as_tensor(episode_starts[:-1].astype(np.int64))
            self.lengths = as_tensor(lengths.astype(np.int64))
            self.ends = as_tensor(ends / ends[-1])

    def __len__(self) -> int:
        """Number of rows that can be drawn."""
        return self.n_rows if self.rows is None else len(self.rows)

    def draw(self, n: int, device: th.device, generator: th.Generator | None) -> th.Tensor:
        """
        :param n: number of rows
        :param device: where the rows are
        :param generator: source of random numbers, on that device
        :return: their indices, (n,)
        """
        if self.ends is not None:
            return self.at(th.rand(n, dtype=th.float64, device=device, generator=generator))
        drawn = th.randint(0, len(self), (n,), device=device, generator=generator)
        return drawn if self.rows is None else self.rows[drawn]

    def at(self, uniform: th.Tensor) -> th.Tensor:
        """
        :param uniform: draws from [0, 1), (n,), in float64, where the rows are
        :return: the rows that they stand for, where episodes have weights, (n,): one number says both which episode, and how
            far into its share, so which of its rows
        """
        assert self.ends is not None and self.firsts is not None and self.lengths is not None
        episodes = th.searchsorted(self.ends, uniform, right=True).clamp(max=len(self.ends) - 1)
        before = th.where(episodes > 0, self.ends[(episodes - 1).clamp(min=0)], 0.0)
        lengths = self.lengths[episodes]
        steps = ((uniform - before) / (self.ends[episodes] - before) * lengths).long()
        return self.firsts[episodes] + steps.clamp(min=0).minimum(lengths - 1)

    def every(self, step: int, device: th.device) -> th.Tensor:
        """
        :param step: 1 for all
        :param device: where the rows are
        :return: every so many of the rows that can be drawn
        """
        positions = th.arange(0, len(self), step, device=device)
        return positions if self.rows is None else self.rows[positions]

    def tensors(self) -> dict[str, th.Tensor | None]:
        """
        :return: by name
        """
        return dict(rows=self.rows, firsts=self.firsts, lengths=self.lengths, ends=self.ends)

    def to(self, device: th.device) -> "RowDraws":
        """
        :param device: where the rows are
        :return: this object
        """
        for name, tensor in self.tensors().items():
            setattr(self, name, None if tensor is None else tensor.to(device))
        return self
