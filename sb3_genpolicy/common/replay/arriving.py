"""
Steps that arrive one by one, and the rows that they become for a policy that looks back and plans ahead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sb3_genpolicy.common.utils import tree_map


@dataclass(frozen=True)
class Window:
    """
    How much of an episode a row is of.

    :param history: number of observations that are seen together, >= 1
    :param chunk_length: number of actions that are planned together, >= 1
    :param n_steps: steps whose rewards are summed before the next observation's value counts, >= 1
    :param logged_length: number of actions that critics are distilled from, >= 1
    """

    history: int = 1
    chunk_length: int = 1
    n_steps: int = 1
    logged_length: int = 1

    @property
    def n_actions(self) -> int:
        """How many actions a row has, those that are planned first."""
        return max(self.chunk_length, self.logged_length)

    @property
    def n_awaited(self) -> int:
        """Steps, its own among them, that must have arrived before a step is a row."""
        return max(self.n_actions, self.n_steps)


#: Of a policy that sees one observation and takes one action
ONE_STEP = Window()


class Step(NamedTuple):
    """
    One step of one environment.

    :param observation: (\\*observation_shape), or a dictionary
    :param action: (action_dim,), scaled to [-1, 1]
    :param reward: transformed
    :param next_observation: as the observation, before any reset
    :param terminated: whether the environment ended the episode
    """

    observation: Any
    action: np.ndarray
    reward: float
    next_observation: Any
    terminated: float


class ArrivedRow(NamedTuple):
    """
    A row of some observations and actions.

    :param observation: (history, \\*observation_shape), the newest last; without the first axis where one is seen alone
    :param next_observation: the same, after the last step whose reward counts
    :param action: (n_actions * action_dim,), the step's own and those after it; at an episode's end the last one again
    :param reward: sum of the rewards, discounted
    :param terminated: whether the last of these steps is terminal
    :param discount: of the value of what follows
    """

    observation: Any
    next_observation: Any
    action: np.ndarray
    reward: float
    terminated: float
    discount: float


class ArrivingSteps:
    """
    The newest steps of one environment's episode. A step waits here until what its row is made of has happened, and becomes
    the row that a dataset of the same steps would have of it.

    :param window: how much of an episode a row is of
    """

    def __init__(self, window: Window):
        self.window = window
        # Observations before those of the waiting steps, as far as they are still seen
        self._earlier: list[Any] = []
        self._waiting: list[Step] = []

    def arrive(self, step: Step, ended: bool, gamma: float) -> Iterator[ArrivedRow]:
        """
        :param step: the episode's next
        :param ended: whether the episode ended with it, at a time limit too
        :param gamma: discount factor of the rewards that are summed
        :return: iterator over the rows of which all is known now, in the order of their steps
        """
        self._waiting.append(step)
        if ended:
            yield from self.end(gamma)
        elif len(self._waiting) == self.window.n_awaited:
            yield self._oldest(gamma)

    def end(self, gamma: float) -> Iterator[ArrivedRow]:
        """
        Nothing follows the steps that are here.

        :param gamma: discount factor of the rewards that are summed
        :return: iterator over their rows
        """
        while self._waiting:
            yield self._oldest(gamma)
        self._earlier.clear()

    def _oldest(self, gamma: float) -> ArrivedRow:
        window, steps, n_earlier = self.window, self._waiting, len(self._earlier)
        summed = steps[: window.n_steps]
        taken = steps[: window.n_actions]
        seen = [*self._earlier, *(step.observation for step in summed), summed[-1].next_observation]
        row = ArrivedRow(
            self._frames(seen[: n_earlier + 1]),
            self._frames(seen),
            np.concatenate([step.action for step in taken] + [taken[-1].action] * (window.n_actions - len(taken))),
            float(sum(gamma**k * step.reward for k, step in enumerate(summed))),
            summed[-1].terminated,
            gamma ** len(summed),
        )
        self._earlier.append(steps.pop(0).observation)
        del self._earlier[: max(0, len(self._earlier) - (window.history - 1))]
        return row

    def _frames(self, seen: list[Any]) -> Any:
        """The newest of some observations, before the first that one again."""
        if self.window.history == 1:
            return seen[-1]
        newest = seen[-self.window.history :]
        newest = [newest[0]] * (self.window.history - len(newest)) + newest
        return tree_map(lambda *arrays: np.stack(arrays), *newest)
