"""
The rows of a replay buffer: what a dataset becomes, and what is added to it.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_genpolicy.common.replay.added_rows import AddedRows
from sb3_genpolicy.common.replay.arriving import ONE_STEP, ArrivingSteps, Step, Window
from sb3_genpolicy.common.replay.drawing import RowDraws
from sb3_genpolicy.common.replay.row_store import Rows, RowStore, store_of
from sb3_genpolicy.common.replay.tensor_normalizer import TensorNormalizer
from sb3_genpolicy.common.transitions.action_range import ActionRange
from sb3_genpolicy.common.transitions.rewards import AffineReward, RewardFunction, transform_rewards
from sb3_genpolicy.common.transitions.transitions import Transitions
from sb3_genpolicy.common.utils import tree_map, trees_are_equal

# Share of a GPU's free memory that a dataset may take
_GPU_SHARE = 0.8


class HeldRows(ReplayBuffer):
    """
    The rows of a replay buffer: a dataset's, as tensors on the training device or streamed from elsewhere, and those that were
    added one by one. The options are :class:`~sb3_genpolicy.common.replay.buffer.OfflineReplayBuffer`'s.
    """

    #: Distinguishes it from SB3's buffers: its rows were read from a dataset
    was_filled_from_dataset: ClassVar[bool] = True

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ):
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if optimize_memory_usage:
            raise ValueError("OfflineReplayBuffer stores no observation twice: leave out optimize_memory_usage.")
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.reward_function: RewardFunction = AffineReward()
        #: Whether the rewards given to :meth:`add` are transformed already
        self.rewards_arrive_transformed = False
        #: Actions are scaled to [-1, 1] between the ends of this range: the policy's, by default the whole space
        assert isinstance(action_space, spaces.Box)
        self.action_range = ActionRange(action_space)
        self._normalizer = TensorNormalizer()
        self._draws = RowDraws(0)
        #: Of rows that the policy is matched to; None: as all others
        self._matched: RowDraws | None = None
        self._streams = False
        self._gamma = 0.99
        #: Lambda of the dataset's lambda-returns, 0 where there are none
        self.return_lambda = 0.0
        # Steps that every return has
        self._least_steps = 1
        self._added = AddedRows(buffer_size, observation_space, self.obs_shape, self.action_dim, self.device)
        self._arriving = [ArrivingSteps(ONE_STEP) for _ in range(n_envs)]
        # The dataset's; none yet
        self._store = self._added.empty_store()

    # What there is

    def size(self) -> int:
        """
        :return: number of rows, the dataset's and those that were added
        """
        return self._store.n_rows + len(self._added)

    @property
    def n_from_dataset(self) -> int:
        """
        :return: number of rows of the dataset
        """
        return self._store.n_rows

    @property
    def n_added(self) -> int:
        """
        :return: number of rows that were added to the dataset's
        """
        return len(self._added)

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """
        :return: observations of all rows
        """
        own = tree_map(lambda array: array[: self._store.n_rows], self._store.states)
        return _end_to_end(own, self.added_rows().observations)

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """
        :return: next observations of all rows
        """
        own = tree_map(lambda array: array[self._store.next_rows.long()], self._store.states)
        return _end_to_end(own, self.added_rows().next_observations)

    @property
    def actions(self) -> th.Tensor:  # type: ignore[override]
        """
        :return: (n_rows, action_dim)
        """
        own = self._store.actions
        return _end_to_end(self._scale(own) if self.streams else own, self.added_rows().actions)

    @property
    def rewards(self) -> th.Tensor:  # type: ignore[override]
        """
        :return: (n_rows, 1), transformed
        """
        return _end_to_end(self._store.rewards, self.added_rows().rewards)

    @property
    def dones(self) -> th.Tensor:  # type: ignore[override]
        """
        :return: (n_rows, 1)
        """
        return _end_to_end(self._store.dones, self.added_rows().dones)

    @property
    def store(self) -> RowStore:
        """
        :return: the dataset's rows
        """
        return self._store

    def normalized_rewards(self, env: VecNormalize | None, rewards: th.Tensor) -> th.Tensor:
        """
        :param env: VecNormalize wrapper whose statistics are applied
        :param rewards: transformed, any shape
        :return: as critics see them
        """
        return rewards if env is None else self._normalizer.rewards(env, rewards)

    def added_rows(self) -> Rows:
        """
        :return: the rows that were added, each with its newest observation and its first action alone
        """
        return self._added.steps().to(self.rows_device)

    @property
    def rows_device(self) -> th.device:
        """
        :return: where the rows are
        """
        return self._store.rewards.device

    @property
    def streams(self) -> bool:
        """
        :return: whether batches are gathered ahead, from memory or files apart from the training device
        """
        return self._streams

    @property
    def n_drawn_from(self) -> int:
        """
        :return: number of the dataset's rows that are drawn from
        """
        return len(self._draws)

    @property
    def observations_are_at(self) -> int:
        """
        :return: the address of the rows in memory, which changes when there are others
        """
        return self._store.rewards.data_ptr()

    # Filling

    def fill(
        self,
        data: Transitions,
        reward_function: RewardFunction,
        rows: np.ndarray | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
        return_lambda: float = 0.0,
        drawn: np.ndarray | None = None,
        matched: np.ndarray | None = None,
        history: int = 1,
        chunk_length: int = 1,
        windows: bool = False,
    ) -> None:
        """
        Take a dataset in place of the one before; rows that were added stay. On a CPU its memory is shared, and never written.

        :param data: the dataset, of this buffer's spaces
        :param reward_function: applied to its rewards, and to those of later :meth:`add`
        :param rows: rows to draw from, all by default
        :param n_steps: steps whose rewards are summed, discounted, before the next observation's value counts; with
            lambda-returns, those that a return has at least
        :param gamma: discount factor of these rewards
        :param return_lambda: lambda of lambda-returns, see :meth:`with_lambda_returns`; 0 for none
        :param drawn: (n_episodes,), how often a row of an episode is drawn, in proportion: 0 for those not among ``rows``.
            By default all are drawn alike.
        :param matched: the same of :meth:`matched_rows`. By default there are none.
        :param history: number of observations that the policy sees together; those of batches are stacks of so many
        :param chunk_length: number of actions that it plans together; those of batches are so many, end to end
        :param windows: whether more actions are asked for, see :meth:`logged_windows`
        :raises ValueError: if the reward function does not give one finite number per row
        """
        rewards = transform_rewards(reward_function, data.rewards)
        self._stop_streaming()
        self.reward_function = reward_function
        self._gamma, self.return_lambda = gamma, return_lambda
        self._streams = data.memory_mapped or not self._fits(data)
        self._least_steps = n_steps if return_lambda > 0.0 else 1
        n_summed = 1 if return_lambda > 0.0 else n_steps
        self._store = store_of(data, rewards, n_summed, gamma, return_lambda > 0.0, history, chunk_length, windows)
        states = self._store.states if isinstance(self._store.states, dict) else {None: self._store.states}
        self.hold_finer(key for key, array in states.items() if array.dtype == th.float64)
        if not self._streams:
            self._store.actions = self._scale(self._store.actions)
            self._store = self._store.to(self.device)
        starts = None if drawn is None else data.episode_starts
        self._draws = RowDraws(data.n_rows, rows, starts, drawn).to(self.rows_device)
        self._matched = None
        if matched is not None:
            self._matched = RowDraws(data.n_rows, rows, data.episode_starts, matched).to(self.rows_device)

    def _stop_streaming(self) -> None:
        """Called before there are other rows, for whoever gathers batches ahead."""

    def hold_finer(self, keys: Iterable[str | None]) -> None:
        """
        :param keys: of observations (None for a flat one) whose numbers float32 would merge, also in rows that are added
        """
        self._added.hold_finer(keys)

    def _fits(self, data: Transitions) -> bool:
        if self.device.type != "cuda":
            return True
        free, _ = th.cuda.mem_get_info(self.device)
        return data.nbytes < _GPU_SHARE * free

    def _scale(self, actions: th.Tensor) -> th.Tensor:
        return self.action_range.scale(actions).clamp(-1.0, 1.0).float()

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Add one step of every environment; actions are already scaled, as SB3's online loop gives them.
        """
        cut = np.array([info.get("TimeLimit.truncated", False) for info in infos]) & self.handle_timeout_termination
        ended = np.asarray(done, dtype=bool)
        rewards = np.asarray(reward, dtype=np.float32)
        if not self.rewards_arrive_transformed:
            rewards = np.asarray(self.reward_function(rewards))
        for env, arriving in enumerate(self._arriving):
            before, after = (tree_map(lambda array, env=env: array[env], value) for value in (obs, next_obs))
            step = Step(before, np.asarray(action)[env].reshape(-1), rewards[env], after, float(ended[env] and not cut[env]))
            for row in arriving.arrive(step, bool(ended[env]), self._gamma):
                self._added.add(row)

    def begin_episodes(self, window: Window, gamma: float) -> None:
        """
        Steps that are added from here on begin new episodes, in every environment. Those that were cut off have rows too.

        :param window: how much of an episode a row is of
        :param gamma: discount factor of rewards that are summed
        :raises ValueError: if there are rows of another window
        """
        for arriving in self._arriving:
            for row in arriving.end(self._gamma):
                self._added.add(row)
        self._gamma = gamma
        if window != self._added.window:
            if self.n_added:
                raise ValueError(
                    f"The rows that were collected before are of a policy with {self._added.window}, and this one has "
                    f"{window}: they do not go together. Start from a replay buffer without them."
                )
            added = self._added
            self._added = AddedRows(
                added.largest, added.observation_space, added.observation_shape, added.action_dim, added.device, window
            )
            self._added.hold_finer(added.finer)
        self._arriving = [ArrivingSteps(window) for _ in range(self.n_envs)]

    def share_rows(self, other: "HeldRows") -> bool:
        """
        If another buffer has equal rows, share them, so that they are in memory only once.

        :param other: a buffer on the same device
        :return: whether the rows are equal and now shared
        """
        ours, theirs = (
            {
                **vars(buffer._store),
                "draws": buffer._draws.tensors(),
                "matched": None if buffer._matched is None else buffer._matched.tensors(),
            }
            for buffer in (self, other)
        )
        if not all(trees_are_equal(ours[name], theirs[name]) for name in ours):
            return False
        self._store, self._draws, self._matched = other._store, other._draws, other._matched
        return True

    # Files

    def to(self, device: th.device | str) -> "HeldRows":
        """
        :param device: where the rows go
        :return: this buffer
        """
        self.device = th.device(device)
        self._added.to(self.device)
        if not self.streams:
            self._store = self._store.to(self.device)
            self._draws.to(self.device)
            if self._matched is not None:
                self._matched.to(self.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self.streams:
            raise ValueError(
                "The rows of this replay buffer are streamed from elsewhere and are not saved with it; the model knows its "
                "dataset by name."
            )
        own = dict(_normalizer=TensorNormalizer())
        # The action range is saved with the policy
        return {name: value for name, value in {**self.__dict__, **own}.items() if name != "action_range"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        later = {"rewards_arrive_transformed": False, "return_lambda": 0.0, "_matched": None, "_least_steps": 1}
        self.__dict__.update({**later, "_arriving": [ArrivingSteps(ONE_STEP) for _ in range(state["n_envs"])], **state})
        if "_drawn_from" in state:
            # Of release 0.1, where all rows that are drawn from were drawn alike
            rows = vars(self).pop("_drawn_from")
            self._draws = RowDraws(self._store.n_rows, None if rows is None else rows.cpu().numpy()).to(self.rows_device)
        assert isinstance(self.action_space, spaces.Box)
        self.action_range = ActionRange(self.action_space)


def _end_to_end(first: Any, second: Any) -> Any:
    """Concatenate two trees of tensors; where the second has no rows, the first one itself, not a copy."""
    return tree_map(lambda one, other: th.cat([one, other]) if len(other) else one, first, second)
