"""
The rows of a dataset as tensors, each observation once.
"""

import warnings
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_genpolicy.common.transitions.returns import returns_to_go
from sb3_genpolicy.common.transitions.time_windows import frame_indices, last_rows, plan_rows
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import tree_map

# Up to so many rows, of which up to as many more may be observations alone, indices take four bytes
_SHORT_INDICES = 2**30


class Rows(NamedTuple):
    """
    Some rows. Observations may be dictionaries. Where a policy sees several, they are (n_rows, history, \\*observation_shape);
    where it plans several actions, these are (n_rows, chunk_length * action_dim).

    :param observations: (n_rows, \\*observation_shape)
    :param actions: (n_rows, action_dim)
    :param next_observations: (n_rows, \\*observation_shape)
    :param dones: (n_rows, 1), whether the environment ended the episode
    :param rewards: (n_rows, 1), with n-step returns those of n steps, discounted
    :param discounts: (n_rows, 1), of the next observation's value; None: gamma
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None

    def to(self, device: th.device) -> "Rows":
        """
        :param device: where the rows go; from pinned memory without waiting
        :return: the rows there
        """
        return Rows(*(_move(value, device) for value in self))

    def take(self, order: th.Tensor) -> "Rows":
        """
        :param order: indices, (batch_size,)
        :return: these rows in this order
        """
        return Rows._make(None if value is None else tree_map(lambda array: array[order], value) for value in self)


def joined(one: Rows, other: Rows, gamma: float) -> Rows:
    """
    :param one: some rows
    :param other: others, of the same spaces, on the same device
    :param gamma: discount of rows that do not say their own
    :return: the first, then the others
    """
    if (one.discounts is None) != (other.discounts is None):
        one, other = (
            rows if rows.discounts is not None else rows._replace(discounts=th.full_like(rows.rewards, gamma))
            for rows in (one, other)
        )
    return Rows._make(
        None if first is None else tree_map(lambda *pair: th.cat(pair), first, second)
        for first, second in zip(one, other, strict=True)
    )


def _move(tree: Any, device: th.device) -> Any:
    return None if tree is None else tree_map(lambda array: array.to(device, non_blocking=True), tree)


@dataclass
class RowStore:
    """
    All rows, on a device, in memory or in files that are mapped.

    :param states: every observation once, or a dictionary of such tensors: those of the rows first
    :param next_rows: (n_rows,), index into ``states`` of the next observation
    :param actions: (n_rows, action_dim)
    :param rewards: (n_rows, 1)
    :param dones: (n_rows, 1)
    :param discounts: (n_rows, 1) or None
    :param to_go: (n_rows, 1), discounted rewards from the row to its episode's end; None where nobody asks for them
    :param steps_left: (n_rows,), steps until then, as floats; likewise
    :param frames: (n_states, history), see :func:`~sb3_genpolicy.common.transitions.time_windows.frame_indices`; None where an
        observation is seen alone
    :param plans: (n_rows, chunk_length), see :func:`~sb3_genpolicy.common.transitions.time_windows.plan_rows`; None where an
        action is taken alone
    :param last_rows: (n_rows,), see :func:`~sb3_genpolicy.common.transitions.time_windows.last_rows`; None where nobody asks
        for actions beyond plans
    """

    states: Any
    next_rows: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    dones: th.Tensor
    discounts: th.Tensor | None
    to_go: th.Tensor | None = None
    steps_left: th.Tensor | None = None
    frames: th.Tensor | None = None
    plans: th.Tensor | None = None
    last_rows: th.Tensor | None = None

    @property
    def n_rows(self) -> int:
        return len(self.rewards)

    def gather(self, rows: th.Tensor, pinned: bool = False) -> Rows:
        """
        :param rows: indices, (batch_size,), on the store's device
        :param pinned: whether the batch is put into page-locked memory, from which a GPU fetches it by itself
        :return: copies of these rows
        """

        following = self.next_rows[rows].long()
        return Rows(
            self.observations_at(rows, pinned),
            self.actions_at(rows, pinned),
            self.observations_at(following, pinned),
            _take(self.dones, rows, pinned),
            _take(self.rewards, rows, pinned),
            None if self.discounts is None else _take(self.discounts, rows, pinned),
        )

    def observations_at(self, indices: th.Tensor, pinned: bool = False) -> Any:
        """
        :param indices: into ``states``, (n,)
        :param pinned: whether they are put into page-locked memory
        :return: what is seen there, (n, \\*observation_shape), or (n, history, \\*observation_shape)
        """
        if self.frames is None:
            return tree_map(lambda array: _take(array, indices, pinned), self.states)
        seen = self.frames[indices].long()
        return tree_map(lambda array: _take(array, seen.flatten(), pinned).unflatten(0, seen.shape), self.states)

    def actions_at(self, rows: th.Tensor, pinned: bool = False) -> th.Tensor:
        """
        :param rows: indices, (n,)
        :param pinned: whether they are put into page-locked memory
        :return: actions from there on, (n, chunk_length * action_dim)
        """
        if self.plans is None:
            return _take(self.actions, rows, pinned)
        planned = self.plans[rows].long()
        return _take(self.actions, planned.flatten(), pinned).unflatten(0, planned.shape).flatten(1)

    def window_at(self, rows: th.Tensor, n_steps: int) -> th.Tensor:
        """
        :param rows: indices, (n,)
        :param n_steps: number of actions
        :return: actions from there on, as far as the episode goes, then its last one again, (n, n_steps * action_dim)
        """
        assert self.last_rows is not None
        window = th.minimum(rows[:, None] + th.arange(n_steps, device=rows.device), self.last_rows[rows].long()[:, None])
        return self.actions[window.flatten()].reshape(len(rows), -1)

    def to(self, device: th.device) -> "RowStore":
        """
        :param device: where the rows go
        :return: the rows there
        """
        return RowStore(**{entry.name: _move(getattr(self, entry.name), device) for entry in fields(self)})


def _take(array: th.Tensor, indices: th.Tensor, pinned: bool) -> th.Tensor:
    if not pinned:
        # Images with transposed axes would otherwise keep the memory layout in which they are stored
        return array.index_select(0, indices).contiguous()
    out = th.empty((len(indices), *array.shape[1:]), dtype=array.dtype, pin_memory=True)
    return th.index_select(array, 0, indices, out=out)


def as_tensor(array: np.ndarray) -> th.Tensor:
    """
    :param array: an array, possibly mapped from a read-only file
    :return: the same memory as a tensor
    """
    with warnings.catch_warnings():
        # Nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return th.from_numpy(array)


def store_of(
    data: Transitions,
    rewards: np.ndarray,
    n_steps: int,
    gamma: float,
    returns: bool = False,
    history: int = 1,
    chunk_length: int = 1,
    windows: bool = False,
) -> RowStore:
    """
    :param data: the dataset
    :param rewards: (n_rows,), transformed
    :param n_steps: steps whose rewards are summed, >= 1
    :param gamma: discount factor, in [0, 1]
    :param returns: whether returns until the end of episodes are computed too
    :param history: number of observations that are seen together, >= 1
    :param chunk_length: number of actions that are planned together, >= 1
    :param windows: whether actions beyond these are asked for, see :meth:`RowStore.window_at`
    :return: its rows, in the memory that it is in, with actions in the environment's units
    """
    next_rows, dones, discounts = data.next_rows, data.terminals, None
    if n_steps > 1:
        rewards, next_rows, dones, discounts = n_step_returns(data, rewards, n_steps, gamma)
    frames = None if history == 1 else frame_indices(data, history)
    plans = None if chunk_length == 1 else plan_rows(data, chunk_length)
    last = last_rows(data) if windows else None
    if data.n_rows < _SHORT_INDICES:
        frames, plans, last = (None if indices is None else indices.astype(np.int32) for indices in (frames, plans, last))
        if not data.memory_mapped:
            next_rows = next_rows.astype(np.int32)
    to_go = returns_to_go(data, rewards, gamma) if returns else None
    return RowStore(
        tree_map(as_tensor, data.states),
        as_tensor(next_rows),
        as_tensor(data.actions.reshape(data.n_rows, -1)),
        as_tensor(rewards.reshape(-1, 1)),
        as_tensor(np.asarray(dones).reshape(-1, 1)),
        None if discounts is None else as_tensor(discounts.reshape(-1, 1)),
        None if to_go is None else as_tensor(to_go.rewards.astype(np.float32).reshape(-1, 1)),
        None if to_go is None else as_tensor(to_go.steps_left.astype(np.float32)),
        None if frames is None else as_tensor(frames),
        None if plans is None else as_tensor(plans),
        None if last is None else as_tensor(np.ascontiguousarray(last)),
    )


class Returns(NamedTuple):
    """
    n-step returns, (n_rows,) each.

    :param rewards: discounted sum of the rewards of up to n steps
    :param next_rows: index of the observation after the last of these steps
    :param dones: whether that step is terminal
    :param discounts: ``gamma`` to the power of the steps
    """

    rewards: np.ndarray
    next_rows: np.ndarray
    dones: np.ndarray
    discounts: np.ndarray


def n_step_returns(data: Transitions, rewards: np.ndarray, n_steps: int, gamma: float) -> Returns:
    """
    n-step returns, over fewer steps where the episode ends, or a step is terminal, before (as SB3's ``NStepReplayBuffer``).

    :param data: the dataset
    :param rewards: (n_rows,), transformed
    :param n_steps: steps, >= 1
    :param gamma: discount factor, in [0, 1]
    :return: the returns
    """
    ends = data.ends | (data.terminals > 0)
    last = np.arange(data.n_rows)
    total, discounts = rewards.astype(np.float64), np.full(data.n_rows, gamma)
    for _ in range(1, n_steps):
        # Rows of an episode follow each other
        goes_on = ~ends[last]
        last[goes_on] += 1
        total[goes_on] += discounts[goes_on] * rewards[last[goes_on]]
        discounts[goes_on] *= gamma
    return Returns(
        total.astype(np.float32), data.next_rows[last], np.asarray(data.terminals[last]), discounts.astype(np.float32)
    )
