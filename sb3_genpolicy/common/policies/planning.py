"""
How a policy of several observations and actions acts step by step: what it has seen is kept, and what it has planned.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.utils import is_vectorized_observation

from sb3_genpolicy.common.files.transient import Transient
from sb3_genpolicy.common.transitions.time_windows import planned_space, stacked, stacked_space
from sb3_genpolicy.common.utils import space_items, tree_items, tree_map, tree_of
from sb3_genpolicy.generative.checks import check_number

#: From stacked observations, batch first, to plans in the environment's units, (n, chunk_length, \\*action_shape)
Planner = Callable[[Any], np.ndarray]
#: What ``predict`` hands back and is given again
State = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Horizon:
    """
    How far a policy looks back and plans ahead.

    :param chunk_length: number of actions that are planned together
    :param execute_length: of these, how many are executed before it plans anew
    :param history: number of observations that are seen together
    :param valued_length: of the actions planned, how many critics value together
    """

    chunk_length: int = 1
    execute_length: int = 1
    history: int = 1
    valued_length: int = 1

    @classmethod
    def of(cls, chunk_length: int, execute_length: int | None, history: int, valued_length: int | None = None) -> "Horizon":
        """
        :param chunk_length: number of actions that are planned together
        :param execute_length: how many of them are executed; None: all
        :param history: number of observations that are seen together
        :param valued_length: how many of them critics value; None: those that are executed
        :return: the checked options
        :raises ValueError: if one is out of range
        """
        check_number("chunk_length", chunk_length, low=1, whole=True)
        check_number("history", history, low=1, whole=True)
        if execute_length is None:
            execute_length = chunk_length
        check_number("execute_length", execute_length, low=1, high=chunk_length, whole=True)
        if valued_length is None:
            valued_length = execute_length
        elif valued_length > chunk_length:
            raise ValueError(
                f"The critic's chunk_length={valued_length} is more than the {chunk_length} actions that the policy plans: "
                "give policy_kwargs=dict(chunk_length=...) as many."
            )
        return cls(chunk_length, execute_length, history, valued_length)

    @property
    def is_one_step(self) -> bool:
        """Whether it sees one observation and takes one action, as SB3's policies do."""
        return self.chunk_length == 1 and self.history == 1

    def seen(self, space: spaces.Space) -> spaces.Space:
        """
        :param space: of the environment's observations
        :return: of what the policy sees
        """
        return stacked_space(space, self.history)

    def planned(self, space: spaces.Box) -> spaces.Box:
        """
        :param space: of the environment's actions
        :return: of plans
        """
        return planned_space(space, self.chunk_length)

    def valued(self, space: spaces.Box) -> spaces.Box:
        """
        :param space: of the environment's actions
        :return: of the part of a plan that critics value
        """
        return planned_space(space, self.valued_length)


@dataclass(frozen=True)
class Memory:
    """
    What some environments have shown and what is planned for them.

    :param frames: (n_envs, history, \\*observation_shape), the newest last, or a dictionary of them
    :param plans: (n_envs, n_plans, chunk_length, \\*action_shape), the newest last
    :param ages: (n_envs, n_plans), how many actions ago a plan was made; -1 where there is none
    """

    frames: Any
    plans: np.ndarray
    ages: np.ndarray

    def as_state(self) -> State:
        """
        :return: the arrays, as ``predict`` hands them back
        """
        return *(array for _, array in tree_items(self.frames, "")), self.plans, self.ages

    @classmethod
    def from_state(cls, state: State, space: spaces.Space) -> "Memory":
        """
        :param state: what ``predict`` handed back
        :param space: of the environment's observations
        :return: the memory
        :raises ValueError: if it is something else
        """
        n_parts = len(space_items(space, ""))
        if len(state) != n_parts + 2:
            raise ValueError(
                f"state= has {len(state)} arrays, not {n_parts + 2}: hand over what predict() returned beside the action."
            )
        *frames, plans, ages = (np.asarray(array) for array in state)
        return cls(tree_of(space, frames), plans, ages)

    @property
    def n_envs(self) -> int:
        return len(self.ages)


class Planning(Transient):
    """
    The acting of a policy that plans or remembers. Memory goes by the index of an environment.

    :param horizon: how far it looks back and plans ahead
    :param observation_space: of the environment
    :param action_space: of the environment
    """

    def __init__(self, horizon: Horizon, observation_space: spaces.Space, action_space: spaces.Box):
        self.horizon = horizon
        self.observation_space, self.action_space = observation_space, action_space
        self._last: Memory | None = None
        self._has_warned = False

    def forget(self) -> None:
        """Begin an episode in every environment at the next prediction."""
        self._last = None

    def act(
        self,
        observation: Any,
        state: State | None,
        episode_start: np.ndarray | None,
        blending: float | None,
        plan: Planner,
        anew: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, State]:
        """
        :param observation: of one environment or a batch, as it comes from there
        :param state: what the last call returned; None: that is kept here
        :param episode_start: (n_envs,), where an episode begins
        :param blending: see :func:`blended`; None: the newest plan alone acts
        :param plan: makes plans
        :param anew: whether plans are made whatever is left of those before
        :return: the action of each environment, (n_envs, \\*action_shape), its newest plan, and the state; without the first
            axis for a single observation
        """
        batch, is_batch = _as_batch(observation, self.observation_space)
        n_envs = len(tree_items(batch, "")[0][1])
        starts = np.zeros(n_envs, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool).reshape(-1)
        if len(starts) != n_envs:
            raise ValueError(
                f"episode_start says of {len(starts)} environments whether an episode begins, but there are {n_envs}."
            )
        memory = self._remembered(state, episode_start, n_envs)
        memory = self._begin(batch, n_envs) if memory is None else self._see(memory, batch, starts)
        due = anew | (memory.ages[:, -1] < 0) | (memory.ages[:, -1] >= self.horizon.execute_length)
        if due.any():
            frames = tree_map(lambda array: array[due], memory.frames)
            seen = tree_map(lambda array: array[:, 0], frames) if self.horizon.history == 1 else stacked(frames)
            memory = _with_plans(memory, due, plan(seen))
        actions = blended(memory, blending).astype(self.action_space.dtype)
        newest = memory.plans[:, -1]
        memory = replace(memory, ages=np.where(memory.ages >= 0, memory.ages + 1, -1))
        self._last = memory
        return (actions if is_batch else actions[0]), (newest if is_batch else newest[0]), memory.as_state()

    def _remembered(self, state: State | None, episode_start: np.ndarray | None, n_envs: int) -> Memory | None:
        if state is not None:
            memory: Memory | None = Memory.from_state(state, self.observation_space)
        else:
            memory = self._last
            if memory is not None and memory.n_envs == n_envs and episode_start is None and not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    "predict() was called without episode_start: this policy plans several actions or sees several "
                    "observations, and goes on as if the episode of its last call did. Pass episode_start (and state), as "
                    "evaluate_policy does, or call policy.reset_memory() when an episode begins.",
                    stacklevel=5,
                )
        return memory if memory is not None and memory.n_envs == n_envs else None

    def _begin(self, batch: Any, n_envs: int) -> Memory:
        """Every environment at an episode's start, with room for as many plans as there may be at a time."""
        horizon = self.horizon
        n_plans = -(-horizon.chunk_length // horizon.execute_length)
        return Memory(
            tree_map(lambda array: np.repeat(array[:, None], horizon.history, axis=1), batch),
            np.zeros((n_envs, n_plans, horizon.chunk_length, *self.action_space.shape), dtype=self.action_space.dtype),
            np.full((n_envs, n_plans), -1),
        )

    def _see(self, memory: Memory, batch: Any, starts: np.ndarray) -> Memory:
        """With the newest observations; where an episode begins, without what was before."""
        begun = self._begin(batch, len(starts))

        def choose(frames: np.ndarray, first: np.ndarray, newest: np.ndarray) -> np.ndarray:
            frames = np.concatenate([frames[:, 1:], newest[:, None]], axis=1)
            return np.where(starts.reshape(-1, *(1,) * (frames.ndim - 1)), first, frames)

        return Memory(
            tree_map(choose, memory.frames, begun.frames, batch), memory.plans, np.where(starts[:, None], -1, memory.ages)
        )


def blended(memory: Memory, blending: float | None) -> np.ndarray:
    """
    The actions for now. Where several plans have one, their mean with the weights ``exp(-blending * i)``, i = 0 for the oldest
    plan (temporal ensembling, arXiv 2304.13705): the larger it is, the less newer plans count.

    :param memory: with a plan for every environment
    :param blending: of the weights; None: of the newest plan alone
    :return: (n_envs, \\*action_shape)
    """
    chunk_length = memory.plans.shape[2]
    envs = np.arange(memory.n_envs)
    if blending is None:
        return memory.plans[envs, -1, memory.ages[:, -1]]
    counts = (memory.ages >= 0) & (memory.ages < chunk_length)
    # Numbered from the oldest that has an action for now
    weights = np.exp(-blending * np.maximum(np.cumsum(counts, axis=1) - 1, 0)) * counts
    weights /= weights.sum(axis=1, keepdims=True)
    candidates = memory.plans[envs[:, None], np.arange(counts.shape[1]), np.where(counts, memory.ages, 0)]
    return (weights.reshape(*weights.shape, *(1,) * (candidates.ndim - 2)) * candidates).sum(axis=1)


def _with_plans(memory: Memory, due: np.ndarray, plans: np.ndarray) -> Memory:
    """Newer plans at the last place, those before one further to the front."""
    all_plans, ages = memory.plans.copy(), memory.ages.copy()
    all_plans[due] = np.concatenate([memory.plans[due, 1:], plans[:, None]], axis=1)
    ages[due] = np.concatenate([memory.ages[due, 1:], np.zeros((int(due.sum()), 1), dtype=ages.dtype)], axis=1)
    return replace(memory, plans=all_plans, ages=ages)


def _as_batch(observation: Any, space: spaces.Space) -> tuple[Any, bool]:
    """As SB3's ``obs_to_tensor`` does it: images with their channels first, and whether there were several."""
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict):
            raise ValueError(f"observations are dictionaries of {', '.join(space.spaces)}, not {type(observation).__name__}.")
        parts = {key: _as_batch(observation[key], part) for key, part in space.spaces.items()}
        return {key: array for key, (array, _) in parts.items()}, any(is_batch for _, is_batch in parts.values())
    array = maybe_transpose(np.asarray(observation), space)
    is_batch = bool(is_vectorized_observation(array, space))
    return array.reshape(-1, *(space.shape or ())), is_batch
