"""
Rows that arrive one by one, from an environment.
"""

from collections.abc import Iterable
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_genpolicy.common.replay.arriving import ONE_STEP, ArrivedRow, Window
from sb3_genpolicy.common.replay.row_store import Rows, RowStore
from sb3_genpolicy.common.utils import tree_map

# Rows that memory is allocated for at first
_FIRST_ROOM = 1024


class AddedRows:
    """
    A ring buffer of rows in one device's memory. It grows as rows are added; at its largest size they replace the oldest.

    :param largest: most rows to hold, >= 1
    :param observation_space: observation space, a Dict allowed
    :param observation_shape: shape of an observation, or of each of a dictionary
    :param action_dim: numbers in an action
    :param device: where the rows live
    :param window: how much of an episode a row is of
    """

    def __init__(
        self,
        largest: int,
        observation_space: spaces.Space,
        observation_shape: Any,
        action_dim: int,
        device: th.device,
        window: Window = ONE_STEP,
    ):
        self.largest = largest
        self.window = window
        self.observation_space = observation_space
        self.observation_shape = observation_shape
        self.action_dim = action_dim
        self.pos, self.full = 0, False
        self._room = 0
        self.device = device
        #: Keys of observations (None for a flat one) that are held as float64, since float32 would merge some of them
        self.finer: frozenset[str | None] = frozenset()
        self._store = self.empty_store()

    def empty_store(self, n_rows: int = 0) -> RowStore:
        """
        :param n_rows: number of rows
        :return: rows of zeros: their observations first, then as many next observations
        """
        device = self.device

        frames = () if self.window.history == 1 else (self.window.history,)

        def zeros(space: spaces.Space, shape: Any, key: str | None = None) -> th.Tensor:
            dtype = th.uint8 if is_image_space(space) else th.float64 if key in self.finer else th.float32
            return th.zeros((2 * n_rows, *frames, *shape), device=device, dtype=dtype)

        space = self.observation_space
        if isinstance(space, spaces.Dict):
            states: Any = {key: zeros(part, self.observation_shape[key], key) for key, part in space.spaces.items()}
        else:
            states = zeros(space, self.observation_shape)
        widths = (self.window.n_actions * self.action_dim, 1, 1, 1)
        actions, rewards, dones, discounts = (th.zeros((n_rows, width), device=device) for width in widths)
        following = th.arange(n_rows, 2 * n_rows, device=device)
        return RowStore(states, following, actions, rewards, dones, None if self.window.n_steps == 1 else discounts)

    def hold_finer(self, keys: Iterable[str | None]) -> None:
        """
        :param keys: of observations that are held as float64 from now on
        """
        keys = frozenset(keys) - self.finer
        if keys:
            self.finer |= keys
            states = self._store.states
            if isinstance(states, dict):
                self._store.states = {key: value.double() if key in keys else value for key, value in states.items()}
            else:
                self._store.states = states.double()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Release 0.1 held all as float32, and rows were of one step
        self.__dict__.update({"finer": frozenset(), "window": ONE_STEP, **state})

    def __len__(self) -> int:
        return self._room if self.full else self.pos

    def add(self, row: ArrivedRow) -> None:
        """
        :param row: of this buffer's window
        """
        if len(self) == self._room < self.largest:
            self._make_room(min(max(2 * self._room, _FIRST_ROOM), self.largest))
        store, at = self._store, self.pos
        for slot, value in ((at, row.observation), (at + self._room, row.next_observation)):
            tree_map(lambda rows, new, slot=slot: _put(rows, slot, new), store.states, value)
        for column, value in ((store.actions, row.action), (store.rewards, row.reward), (store.dones, row.terminated)):
            _put(column, at, value)
        if store.discounts is not None:
            _put(store.discounts, at, row.discount)
        self.pos += 1
        if self.pos == self._room:
            # At the end of the allocated rows; they may still be extended
            self.full, self.pos = True, 0

    def _make_room(self, n_rows: int) -> None:
        """Append empty rows after the ones there are."""
        n_old, old, old_room = len(self), self._store, self._room
        new = self.empty_store(n_rows)

        def copy_both(target: th.Tensor, rows: th.Tensor) -> None:
            target[:n_old] = rows[:n_old]
            target[n_rows : n_rows + n_old] = rows[old_room : old_room + n_old]

        tree_map(copy_both, new.states, old.states)
        for name in ("actions", "rewards", "dones", "discounts"):
            if getattr(old, name) is not None:
                getattr(new, name)[:n_old] = getattr(old, name)[:n_old]
        self._store, self._room = new, n_rows
        self.pos, self.full = n_old, False

    def gather(self, rows: th.Tensor) -> Rows:
        """
        :param rows: indices, (batch_size,): positions in the ring, which is the order of arrival until it is full
        :return: copies of these rows, with the actions that are planned together
        """
        found = self._store.gather(rows.to(self.device))
        return found._replace(actions=found.actions[:, : self.window.chunk_length * self.action_dim])

    def windows_at(self, rows: th.Tensor, n_steps: int) -> th.Tensor:
        """
        :param rows: indices, (batch_size,)
        :param n_steps: number of actions, up to those that rows have
        :return: actions from there on, (batch_size, n_steps * action_dim)
        :raises ValueError: if rows have not so many
        """
        if n_steps > self.window.n_actions:
            raise ValueError(
                f"Critics are distilled from {n_steps} logged actions, and rows that were added one by one before have "
                f"{self.window.n_actions}: start from a replay buffer without them."
            )
        return self._store.actions[rows.to(self.device), : n_steps * self.action_dim]

    def steps(self) -> Rows:
        """
        :return: all rows, with the newest observation and the first action of each
        """
        rows = self.gather(th.arange(len(self)))
        if self.window.history > 1:
            newest = (tree_map(lambda frames: frames[:, -1], seen) for seen in (rows.observations, rows.next_observations))
            rows = rows._replace(**dict(zip(("observations", "next_observations"), newest, strict=True)))
        return rows._replace(actions=rows.actions[:, : self.action_dim])

    def to(self, device: th.device) -> None:
        """
        :param device: where the rows go
        """
        self.device = device
        self._store = self._store.to(device)


def _put(rows: th.Tensor, row: int, value: Any) -> None:
    rows[row] = th.as_tensor(value, device=rows.device, dtype=rows.dtype).reshape(rows.shape[1:])
